"""Areas, random crops and colours, against torchvision and by counting."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional as pil
from torchvision.transforms.v2 import RandomResizedCrop

from passreid.pretraining import crops
from passreid.pretraining.crops import MultiCrop, adjust, bands, random_box, turn_hue
from tests.pretraining.tiny import recipe
from tests.seeded import image


def picture(name: str = "crop", height: int = 90, width: int = 40) -> Image.Image:
    return Image.fromarray(image(name, height, width))


@pytest.mark.parametrize("areas", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("height", [1, 2, 7, 64, 127, 391])
@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_areas_lie_inside_evenly_and_cover_the_ends(areas: int, height: int, share: float) -> None:
    found = bands(height, areas, share)
    assert len(found) == areas
    tops = [top for top, _ in found]
    for top, bottom in found:
        assert 0 <= top < bottom <= height
        assert bottom - top == max(int(share * height), 1)
    if areas > 1:
        assert tops[0] == 0
        assert height - found[-1][1] <= 1
        assert np.ptp(np.diff(tops)) <= 1
    else:
        assert abs((height - found[0][1]) - tops[0]) <= 2  # two numbers rounded down


def test_no_area_is_the_whole_image() -> None:
    assert bands(77, 0, 0.5) == [(0, 77)]
    assert MultiCrop(recipe(areas=0, crops=2)).sources(77) == [(0, 77)] * 4


@pytest.mark.parametrize("size", [(64, 128), (64, 64), (30, 300), (300, 30)])
def test_boxes_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    scale, ratio = (0.4, 1.0), (3 / 4, 4 / 3)
    rng = np.random.default_rng(0)
    ours = np.array([random_box(size, scale, ratio, rng) for _ in range(4000)])
    torch.manual_seed(0)
    blank = Image.new("RGB", size)
    make = RandomResizedCrop(8, scale=scale, ratio=ratio).make_params
    found = [make([blank]) for _ in range(4000)]
    rows = [(p["left"], p["top"], p["left"] + p["width"], p["top"] + p["height"]) for p in found]
    theirs = np.array(rows)
    tolerance = 4 * np.hypot(ours.std(axis=0), theirs.std(axis=0)) / math.sqrt(4000) + 1e-9
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < tolerance).all()
    assert (np.abs(ours.std(axis=0) - theirs.std(axis=0)) < 0.08 * theirs.std(axis=0) + 1e-9).all()
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 2:] <= size).all()
    assert (ours[:, :2] < ours[:, 2:]).all()


def test_boxes_fall_back_to_the_largest_centred_one() -> None:
    rng = np.random.default_rng(0)
    assert random_box((30, 300), (0.9, 1.0), (3 / 4, 4 / 3), rng) == (0, 130, 30, 170)
    assert random_box((300, 30), (0.9, 1.0), (3 / 4, 4 / 3), rng) == (130, 0, 170, 30)
    assert random_box((1, 1), (0.1, 0.1), (1.0, 1.0), rng) == (0, 0, 1, 1)


@pytest.mark.parametrize("amount", [0.6, 1.0, 1.4])
def test_colour_changes_are_torchvisions(amount: float) -> None:
    source = picture()
    theirs = (pil.adjust_brightness, pil.adjust_contrast, pil.adjust_saturation)
    for change, function in enumerate(theirs):
        assert adjust(source, change, amount) == function(source, amount)
    for shift in (-0.1, 0.0, 0.07):
        assert turn_hue(source, shift) == pil.adjust_hue(source, shift)


def test_views_depend_on_the_seed_alone() -> None:
    crop = MultiCrop(recipe())
    first, again, other = (crop(picture(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert [v.shape for v in first] == [(2, 32, 16, 3), (9, 16, 8, 3)]
    assert all(v.dtype == np.uint8 for v in first)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    none = MultiCrop(recipe(areas=0, crops=0))(picture(), np.random.default_rng(1))
    assert none[1].shape == (0, 16, 8, 3)


def test_local_views_show_their_area_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLIP", "JITTER", "GRAYSCALE", "LOCAL_BLUR"):
        monkeypatch.setattr(crops, name, 0.0)
    rows = np.arange(120, dtype=np.uint8)[:, None, None].repeat(60, axis=1).repeat(3, axis=2)
    crop = MultiCrop(recipe(areas=4, area_height=0.4, crops=5))
    _, local = crop(Image.fromarray(rows), np.random.default_rng(0))
    for area, (top, bottom) in enumerate(bands(120, 4, 0.4)):
        mine = local[5 * area : 5 * area + 5]
        assert mine.min() >= top - 2
        assert mine.max() <= bottom + 1
        assert np.ptp(mine) > 10


def test_chances_and_amounts_of_the_released_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count what happens to grey-free pictures in 600 draws of five views."""
    calls: dict[str, list[Any]] = defaultdict(list)

    def watch(place: Any, function: str, name: str) -> None:
        real = getattr(place, function)

        def watched(*args: Any) -> Any:
            calls[name].append(args)
            return real(*args)

        monkeypatch.setattr(place, function, watched)

    watch(crops, "adjust", "change")
    watch(crops, "turn_hue", "change")
    watch(ImageOps, "solarize", "solarize")
    watch(ImageFilter, "GaussianBlur", "blur")
    watch(Image.Image, "transpose", "mirror")
    crop, rng = MultiCrop(recipe(crops=1, local_size=(32, 16))), np.random.default_rng(0)
    grey = 0
    for _ in range(600):
        whole, local = crop(picture(height=16, width=8), rng)
        views = np.concatenate([whole, local]).astype(int)
        grey += int((np.ptp(views, axis=3).max(axis=(1, 2)) == 0).sum())
    assert len(calls["mirror"]) / 3000 == pytest.approx(0.5, abs=0.04)
    assert len(calls["change"]) / 4 / 3000 == pytest.approx(0.8, abs=0.03)
    assert len(calls["solarize"]) / 600 == pytest.approx(0.2, abs=0.05)
    assert len(calls["blur"]) / 600 == pytest.approx(1 + 0.1 + 3 * 0.5, abs=0.12)
    assert grey / 3000 == pytest.approx(0.2, abs=0.03)
    radii = [radius for (radius,) in calls["blur"]]
    assert (min(radii), max(radii)) == pytest.approx((0.1, 2.0), abs=0.02)
    amounts: list[list[float]] = [[], [], [], []]
    for _, *change in calls["change"]:  # of the hue only an amount
        amounts[change[0] if len(change) > 1 else 3].append(change[-1])
    for found, middle, reach in zip(amounts, (1, 1, 1, 0), (0.4, 0.4, 0.2, 0.1), strict=True):
        assert len(found) == len(calls["change"]) / 4
        assert (min(found), max(found)) == pytest.approx((middle - reach, middle + reach), abs=0.01)
    first = [len(change) == 2 for change in calls["change"][::4]]  # the hue, in any order
    assert np.mean(first) == pytest.approx(1 / 4, abs=0.05)


def test_shares_and_shapes_of_the_views(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLIP", "JITTER", "GRAYSCALE", "LOCAL_BLUR", "SOLARIZE"):
        monkeypatch.setattr(crops, name, 0.0)
    monkeypatch.setattr(crops, "GLOBAL_BLUR", (0.0, 0.0))
    rows, columns = np.mgrid[:240, :120]  # red tells the row, green the column
    ramp = np.stack([rows, 2 * columns, 0 * rows], axis=2).astype(np.uint8)
    wide, narrow = (0.7, 0.8), (0.2, 0.3)
    shape: dict[str, Any] = {"crop_ratio": (0.5, 0.6), "areas": 0, "crops": 20}
    scales: dict[str, Any] = {"global_scale": wide, "local_scale": narrow}
    crop = MultiCrop(recipe(image_size=(64, 64), local_size=(64, 64), **shape, **scales))
    whole, local = crop(Image.fromarray(ramp), np.random.default_rng(0))
    for views, (low, high) in ((whole, wide), (local, narrow)):
        height, width, _ = np.ptp(views.astype(float), axis=(1, 2)).T / [[1], [2], [1]] * 64 / 63
        shares = height * width / ramp[..., 0].size
        assert low - 0.03 < shares.min() <= shares.max() < high + 0.03
        assert (abs(width / height - 0.55) < 0.09).all()


def test_the_whole_is_resized_bicubically_and_the_second_view_solarized(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("FLIP", "JITTER", "GRAYSCALE", "LOCAL_BLUR"):
        monkeypatch.setattr(crops, name, 0.0)
    monkeypatch.setattr(crops, "GLOBAL_BLUR", (0.0, 0.0))
    monkeypatch.setattr(crops, "SOLARIZE", 1.0)
    scales: dict[str, Any] = {"global_scale": (1, 1), "local_scale": (1, 1)}
    crop = MultiCrop(recipe(areas=0, crops=2, crop_ratio=(0.5, 0.5), **scales))
    source = picture(height=80)
    large, small = (source.resize(size, Image.Resampling.BICUBIC) for size in ((16, 32), (8, 16)))
    whole, local = crop(source, np.random.default_rng(0))
    expected = (large, ImageOps.solarize(large), small, small)
    for view, wanted in zip((*whole, *local), expected, strict=True):
        assert np.array_equal(view, np.asarray(wanted))


@pytest.mark.parametrize(("strength", "reach"), [(0.0, 1), (0.2, 45)])
def test_less_colour_change_leaves_clothes_their_colour(strength: float, reach: int) -> None:
    image = Image.new("RGB", (40, 80), (180, 60, 90))
    crop, rng = MultiCrop(recipe(color_strength=strength)), np.random.default_rng(0)
    views = [np.concatenate([v.reshape(-1, 3) for v in crop(image, rng)]) for _ in range(8)]
    # With no change at all not one pixel turns grey or is solarized.
    middle = np.stack(views) if strength == 0 else np.median(np.stack(views), axis=1)
    assert np.abs(middle - (180.0, 60.0, 90.0)).max() <= reach


def test_colours_before_resizing_are_nearly_those_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim of the module: the order changes the picture by a few grey levels at most."""
    gaps = []
    for seed in range(40):
        small = picture(f"small{seed}", 64, 48).resize((24, 32))
        rng = np.random.default_rng(seed)
        before = crops._resized_and_coloured(small, (64, 48), 1.0, rng)
        rng = np.random.default_rng(seed)
        large = small.resize((48, 64), Image.Resampling.BICUBIC)
        after = crops._coloured(large, 1.0, rng)
        gaps.append(np.abs(np.asarray(before).astype(int) - np.asarray(after)).mean())
    assert np.mean(gaps) < 2
    assert max(gaps) < 8
