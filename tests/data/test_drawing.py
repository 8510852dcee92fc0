"""Drawn people: what is visible from which side, and how cameras differ."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from passreid.data.drawing import (
    Camera,
    Person,
    draw_crop,
    draw_person,
    random_camera,
    random_people,
)

RED = (230, 20, 20)
PLAIN = Person(
    height=1.0,
    build=1.0,
    skin=(220, 180, 150),
    hair=(30, 30, 30),
    long_hair=False,
    sleeves=3,
    hem=0.53,
    top=(90, 90, 95),
    pattern="plain",
    accent=RED,
    legs="trousers",
    bottom=(40, 40, 60),
    shoes=(240, 240, 240),
    bag="",
    bag_colour=RED,
)
CAMERA = Camera(0, 0.0, (1.0, 1.0, 1.0), 0.3, 0.0)


def red(person: Person, angle: float) -> int:
    """Count opaque, clearly red pixels."""
    image = np.array(draw_person(person, angle, 0.2, 128)).astype(np.int64)
    r, g, b, a = np.moveaxis(image, 2, 0)
    return int(((r > 90) & (r > 2.2 * g) & (r > 2.2 * b) & (a > 200)).sum())


def test_a_backpack_is_seen_from_behind_and_not_from_the_front() -> None:
    person = replace(PLAIN, bag="backpack")
    front, side, back = (red(person, angle) for angle in (0, 90, 180))
    assert back > side > front == 0


@pytest.mark.parametrize("pattern", ["stripes", "block"])
@pytest.mark.parametrize("angle", [0, 90, 180])
def test_a_pattern_shows_from_all_sides(pattern: str, angle: float) -> None:
    assert red(replace(PLAIN, pattern=pattern), angle) > 60
    assert red(PLAIN, angle) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"long_hair": True},
        {"sleeves": 0},
        {"sleeves": 2},
        {"hem": 0.68},
        {"legs": "shorts"},
        {"legs": "skirt"},
        {"bag": "shoulder"},
        {"shoes": RED},
    ],
)
def test_every_trait_can_be_seen(change: dict[str, object]) -> None:
    changed: Person = replace(PLAIN, **change)  # type: ignore[arg-type]
    seen = [
        np.abs(
            np.array(draw_person(changed, angle, 0.2, 128)).astype(int)
            - np.array(draw_person(PLAIN, angle, 0.2, 128))
        ).max(2)
        > 40
        for angle in (0, 90, 180)
    ]
    assert max(int(difference.sum()) for difference in seen) >= 20


@pytest.mark.parametrize("angle", [0, 45, 90, 180, 300])
@pytest.mark.parametrize("phase", [0.0, 0.25, 0.6])
def test_a_figure_fits_its_canvas(angle: float, phase: float) -> None:
    image = draw_person(PLAIN, angle, phase, 128)
    left, top, right, bottom = image.getbbox() or (0, 0, 0, 0)
    assert left > 0 and right < image.width and top > 0
    assert bottom - top == pytest.approx(128, rel=0.06)


def test_only_the_fourth_person_wears_the_clothes_of_another() -> None:
    people = random_people(12, np.random.default_rng(0))
    clothes = [(p.top, p.pattern, p.legs, p.bottom) for p in people]
    assert clothes[3] == clothes[2] and people[3].hair != people[2].hair
    assert len(set(clothes)) == 11


def test_a_crop_has_the_size_asked_for() -> None:
    for size in ((128, 64), (256, 128), (96, 48), (100, 100)):
        crop = draw_crop(PLAIN, CAMERA, np.random.default_rng(0), size=size)
        assert (crop.height, crop.width, crop.mode) == (*size, "RGB")


def test_the_camera_changes_the_picture_and_not_who_is_on_it() -> None:
    def crop(**changes: object) -> NDArray[np.float64]:
        camera: Camera = replace(CAMERA, **changes)  # type: ignore[arg-type]
        return np.asarray(draw_crop(PLAIN, camera, np.random.default_rng(3)), dtype=float)

    plain = crop()
    assert crop(gain=(1.3, 1.0, 1.0))[..., 0].mean() > plain[..., 0].mean() + 10
    assert crop(noise=20.0).std() > plain.std()
    assert np.abs(np.diff(crop(blur=2.0), axis=0)).mean() < np.abs(np.diff(plain, axis=0)).mean()
    assert np.abs(crop(place=1) - plain).mean() > 3


def test_neighbouring_cameras_see_people_from_different_sides() -> None:
    angles = [random_camera(n, np.random.default_rng(n)).angle for n in range(4)]
    assert all(abs(b - a) > 80 for a, b in pairwise(angles))
