"""What augmentation makes of a crop, step by step, and the seed it hangs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from passreid.data.filelist import FileList
from passreid.errors import ConfigError
from passreid.finetuning.recipe import FinetuneConfig
from passreid.images import normalise
from passreid.training.augment import CropDataset, build_augmentation
from tests import seeded

PLAIN: dict[str, Any] = {"flip": 0.0, "pad": 0, "erasing": 0.0}
PIXELS: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
RAMP = Image.linear_gradient("L").resize((32, 64)).convert("RGB")
"""Its grey tells the row, 0 at the top to 1 at the bottom."""
CROP = Image.fromarray(seeded.image("crop", 90, 40))


def views(image: Image.Image, count: int, **changes: Any) -> list[Tensor]:
    config = FinetuneConfig(data=Path(), output=Path(), **(PLAIN | PIXELS | changes))
    augment = build_augmentation(config, (64, 32))
    torch.manual_seed(0)
    return [augment(image) for _ in range(count)]


def test_a_crop_is_resized_bicubically_and_normalised() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    resized = np.asarray(CROP.resize((32, 64), Image.Resampling.BICUBIC))
    (view,) = views(CROP, 1, mean=mean, std=std)
    np.testing.assert_allclose(view, normalise(resized[None], mean, std)[0], atol=1e-6)


def test_a_crop_is_mirrored_as_often_as_it_is_said() -> None:
    (plain,) = views(CROP, 1)
    mirrored = [torch.equal(view, plain.flip(2)) for view in views(CROP, 300, flip=0.3)]
    assert sum(mirrored) / 300 == pytest.approx(0.3, abs=0.08)
    assert sum(torch.equal(view, plain) for view in views(CROP, 300, flip=0.3)) == 300 - sum(
        mirrored
    )


def test_a_padded_crop_is_moved_to_every_place() -> None:
    (plain,) = views(CROP, 1)
    padded = F.pad(plain, (2,) * 4)
    places = [(y, x) for y in range(5) for x in range(5)]
    seen = set()
    for view in views(CROP, 200, pad=2):
        seen |= {(y, x) for y, x in places if torch.equal(padded[:, y : y + 64, x : x + 32], view)}
    assert seen == set(places)


def test_one_rectangle_is_erased_with_noise() -> None:
    (plain,) = views(CROP, 1)
    erased = views(CROP, 200, erasing=0.6)
    touched = [view for view in erased if not torch.equal(view, plain)]
    assert len(touched) / 200 == pytest.approx(0.6, abs=0.1)
    for view in touched:
        rows, columns = torch.nonzero((view != plain).all(dim=0), as_tuple=True)
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        hole = view[:, top:bottom, left:right].clone()
        assert (hole != plain[:, top:bottom, left:right]).all()
        assert 0.01 < hole[0].numel() / plain[0].numel() < 0.35
        view[:, top:bottom, left:right] = plain[:, top:bottom, left:right]
        assert torch.equal(view, plain)
        assert hole.unique().numel() > 0.98 * hole.numel()


def test_zoom_keeps_at_least_its_share_and_about_the_shape() -> None:
    heights = [float(view[0].amax() - view[0].amin()) for view in views(RAMP, 200, zoom=0.5)]
    # Half the area at 1.25 times the shape's width is 0.63 of the height.
    assert min(heights) > (0.5 / 1.25) ** 0.5 - 0.03
    assert min(heights) < 0.75
    assert max(heights) > 0.95


@pytest.mark.parametrize("zoom", [0.0, 1.5])
def test_zoom_is_a_share(zoom: float) -> None:
    with pytest.raises(ConfigError, match="zoom"):
        views(RAMP, 1, zoom=zoom)


def test_jitter_changes_brightness_and_contrast_and_no_colour() -> None:
    """Both are one line through all pixels of all channels: a slope, and with contrast a shift."""
    soft = Image.fromarray((96 + np.asarray(CROP) // 4).astype(np.uint8))  # never clipped
    (plain,) = views(soft, 1)
    x = torch.stack([plain.flatten(), torch.ones(plain.numel())], dim=1)
    lines = []
    for view in views(soft, 30, jitter=0.3):
        line = torch.linalg.lstsq(x, view.flatten()[:, None]).solution
        assert (x @ line - view.flatten()[:, None]).abs().max() < 2 / 255
        lines.append(line[:, 0])
    slopes, shifts = torch.stack(lines).unbind(dim=1)
    assert slopes.min() < 0.8
    assert slopes.max() > 1.2
    assert shifts.abs().max() > 0.05


def test_a_crop_hangs_on_the_runs_seed_and_its_place_alone(tmp_path: Path) -> None:
    CROP.save(tmp_path / "a.png")
    files = FileList.of([tmp_path / "a.png"] * 2)
    config = FinetuneConfig(data=tmp_path, output=tmp_path)

    def crops(seed: int) -> CropDataset:
        return CropDataset(files, [4, 5], transform=build_augmentation(config, (64, 32)), seed=seed)

    before = torch.get_rng_state()
    view, label = crops(1)[1, 7]
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert label == 5
    assert torch.equal(crops(1)[0, 7][0], view)
    assert not torch.equal(crops(1)[1, 8][0], view)
    assert not torch.equal(crops(2)[1, 7][0], view)


def test_a_shifted_box_moves_and_scales_what_it_shows() -> None:
    tops = []
    for view in views(RAMP, 200, box_shift=0.2):
        column = view[0, :, 16]
        inside = column[(column > 0.02) & (column < 0.98)]
        assert (inside.diff() > -0.01).all()
        tops.append(float(column[32]))
    assert min(tops) < 0.42 < 0.58 < max(tops)
    assert all(torch.equal(view, views(RAMP, 1)[0]) for view in views(RAMP, 2, box_shift=0.0))


def test_colours_change_as_between_cameras_and_stay_in_range() -> None:
    (plain,) = views(CROP, 1)
    changed = views(CROP, 60, colour=0.3)
    ratios = torch.stack([view.mean(dim=(1, 2)) / plain.mean(dim=(1, 2)) for view in changed])
    assert (ratios.std(dim=0) > 0.05).all()
    assert ((ratios[:, 0] / ratios[:, 2] - 1).abs() > 0.1).any()
    for view in changed:
        assert 0 <= float(view.min()) <= float(view.max()) <= 1


def is_grey(view: Tensor) -> Tensor:
    return (view - view.mean(dim=0, keepdim=True)).abs().amax(dim=0) < 0.01


def test_a_rectangle_loses_its_colour_and_at_times_the_whole_crop() -> None:
    (plain,) = views(CROP, 1)
    shares = []
    for view in views(CROP, 400, grey=0.4):
        same = torch.isclose(view, plain, atol=1e-6).all(dim=0)
        assert (same | is_grey(view)).all()
        shares.append(float((~same).float().mean()))
    touched = np.array(shares) > 0
    assert touched.mean() == pytest.approx(0.5, abs=0.08)
    assert (np.array(shares) > 0.9).mean() == pytest.approx(0.1, abs=0.05)


def test_a_degraded_crop_keeps_its_size_and_loses_detail() -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 32, 3), dtype=np.uint8))
    (plain,) = views(noise, 1)
    detail = [float(view.diff(dim=2).abs().mean()) for view in views(noise, 100, degrade=0.5)]
    before = float(plain.diff(dim=2).abs().mean())
    softer = np.array(detail) < 0.9 * before
    assert 0.3 < softer.mean() < 0.85
    assert {view.shape for view in views(noise, 20, degrade=1.0)} == {plain.shape}
