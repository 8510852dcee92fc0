"""What random zoom and light make of a crop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from passreid.errors import ConfigError
from passreid.finetuning.config import FinetuneConfig
from passreid.training.augment import build_augmentation


def views(count: int, **changes: Any) -> list[Tensor]:
    """Views of a picture whose grey tells the row, 0 at the top to 1 at the bottom."""
    plain: dict[str, Any] = {"flip": 0.0, "pad": 0, "erasing": 0.0, "mean": (0.0,) * 3}
    values = plain | {"std": (1.0,) * 3} | changes
    config = FinetuneConfig(data=Path("data"), output=Path("run"), **values)
    augment = build_augmentation(config, (64, 32))
    ramp = Image.linear_gradient("L").resize((32, 64)).convert("RGB")
    torch.manual_seed(0)
    return [augment(ramp) for _ in range(count)]


def test_zoom_keeps_at_least_its_share_and_about_the_shape() -> None:
    heights = [float(view[0].amax() - view[0].amin()) for view in views(200, zoom=0.5)]
    # Half the area at 1.25 times the shape's width is 0.63 of the height.
    assert min(heights) > (0.5 / 1.25) ** 0.5 - 0.03
    assert min(heights) < 0.75
    assert max(heights) > 0.95


def test_no_zoom_shows_the_whole_crop() -> None:
    first, second = views(2)
    torch.testing.assert_close(first, second)
    assert float(first.amax() - first.amin()) > 0.97


@pytest.mark.parametrize("zoom", [0.0, 1.5])
def test_zoom_is_a_share(zoom: float) -> None:
    with pytest.raises(ConfigError, match="zoom"):
        views(1, zoom=zoom)


def test_jitter_changes_the_light_and_no_colour() -> None:
    jittered = views(8, jitter=0.5)
    means = [float(view.mean()) for view in jittered]
    assert max(means) - min(means) > 0.1
    assert all(torch.equal(view[0], view[2]) for view in jittered)
