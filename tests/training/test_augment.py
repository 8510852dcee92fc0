"""What random zoom and colours make of a crop."""

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


def test_tint_changes_colours_and_leaves_grey_alone() -> None:
    grey, plain = views(8, tint=0.5), views(1)[0]
    assert all(torch.allclose(view, plain, atol=0.02) for view in grey)
    config = FinetuneConfig(
        data=Path("data"), output=Path("run"), flip=0.0, pad=0, erasing=0.0, tint=0.5
    )
    augment, red = build_augmentation(config, (64, 32)), Image.new("RGB", (32, 64), (200, 60, 60))
    means = torch.stack([augment(red).mean(dim=(1, 2)) for _ in range(20)])
    assert (means.amax(dim=0) - means.amin(dim=0) > 0.05).all()
