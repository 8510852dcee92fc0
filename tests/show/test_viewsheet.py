"""View sheets show every view once, in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passreid.errors import UsageError
from passreid.pretraining.crops import MultiCrop
from passreid.pretraining.recipe import PretrainRecipe
from passreid.show.viewsheet import view_sheet


@pytest.mark.parametrize(("areas", "crops"), [(3, 3), (0, 4), (1, 1), (0, 0)])
def test_a_row_for_each_image_with_all_views(tmp_path: Path, areas: int, crops: int) -> None:
    crop = MultiCrop(PretrainRecipe(preset="tiny", image_size=(64, 32), areas=areas, crops=crops))
    image = Image.new("RGB", (40, 90), (200, 30, 30))
    whole, local = crop(image, np.random.default_rng(0))
    # A colour of its own for every view, whatever the augmentation made of it.
    whole[:], local[:] = (10, 200, 10), (10, 10, 200)
    sheet = view_sheet([(image, whole, local)] * 2, tmp_path / "v.png", areas=areas, height=128)
    pixels = np.asarray(Image.open(sheet).convert("RGB"))

    def count(colour: tuple[int, int, int]) -> int:
        return int((pixels == colour).all(axis=2).sum())

    assert count((10, 200, 10)) == 2 * 2 * 128 * 64
    assert count((10, 10, 200)) == 2 * max(areas, 1) * crops * 64 * 32
    assert count((200, 30, 30)) == 2 * 128 * 57


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one image"):
        view_sheet([], tmp_path / "v.png", areas=3)
    assert not list(tmp_path.iterdir())
