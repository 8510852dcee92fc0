"""Drawn people: what shows from which side, how a camera changes it, boxes in a frame."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from passreid.data import draw_frame, draw_person
from passreid.data.brush import first_part
from passreid.data.figure import Pose
from passreid.data.people import Appearance, look_alike, random_people, random_person
from passreid.data.scene import SCENE_SIZE, street_scene
from passreid.data.street import Camera, draw_crop, random_camera

RED = (230, 20, 20)
PLAIN = Appearance(
    height=1.0,
    build=1.0,
    skin=(220, 180, 150),
    hair=(30, 30, 30),
    hair_style="short",
    hat="",
    hat_colour=RED,
    top="shirt",
    top_colour=(90, 90, 95),
    pattern="plain",
    accent=RED,
    bottom="trousers",
    bottom_colour=(40, 40, 60),
    legs=(220, 180, 150),
    shoes=(240, 240, 240),
    bag="",
    bag_colour=RED,
    glasses=False,
    left_handed=False,
)


def figure(person: Appearance, angle: float = 0.0, **pose: float) -> NDArray[np.int64]:
    image = draw_person(person, Pose(angle, **pose), height=128)
    assert image.mode == "RGBA"
    return np.array(image).astype(np.int64)


def red(person: Appearance, angle: float) -> int:
    """Number of opaque, clearly red pixels."""
    r, g, b, a = np.moveaxis(figure(person, angle), 2, 0)
    return int(((r > 90) & (r > 2.2 * g) & (r > 2.2 * b) & (a > 200)).sum())


def test_a_backpack_is_whole_from_behind_and_straps_from_the_front() -> None:
    person = replace(PLAIN, bag="backpack")
    front, side, back = (red(person, angle) for angle in (0, 90, 180))
    assert back > 1.4 * side > 1.4 * front > 0


def test_a_print_and_an_open_jacket_show_in_front_only() -> None:
    for person in (replace(PLAIN, pattern="print"), replace(PLAIN, top="jacket")):
        assert red(person, 0) > 60
        assert red(person, 180) == 0


def test_a_bag_at_the_hip_hides_behind_the_body() -> None:
    person = replace(PLAIN, bag="handbag", left_handed=True)
    assert red(person, 270) > 60  # walks to the left, with its left side towards the viewer
    assert red(person, 90) == 0


@pytest.mark.parametrize("pattern", ["stripes", "bars", "checks", "block"])
@pytest.mark.parametrize("angle", [0, 90, 180])
def test_a_pattern_shows_from_all_sides(pattern: str, angle: float) -> None:
    assert red(replace(PLAIN, pattern=pattern), angle) > 60
    assert red(PLAIN, angle) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"hat": "cap"},
        {"hat": "beanie"},
        {"hat": "sunhat"},
        {"hair_style": "long"},
        {"hair_style": "bun"},
        {"hair_style": "bald"},
        {"hair_style": "bob"},
        {"hair_style": "ponytail"},
        {"top": "tee"},
        {"top": "tank"},
        {"top": "hoodie"},
        {"top": "coat"},
        {"top": "dress"},
        {"bottom": "shorts"},
        {"bottom": "capri"},
        {"bottom": "skirt"},
        {"bottom": "long skirt"},
        {"bag": "shoulder bag"},
        {"shoes": RED},
    ],
)
def test_every_trait_can_be_seen(change: dict[str, object]) -> None:
    changed: Appearance = replace(PLAIN, **change)  # type: ignore[arg-type]
    seen = [np.abs(figure(changed, a) - figure(PLAIN, a)).max(2) > 40 for a in (0, 90, 180)]
    assert max(int(difference.sum()) for difference in seen) >= 20


def test_a_figure_fills_its_canvas_as_promised() -> None:
    for height in (64, 128, 300):
        image = draw_person(PLAIN, Pose(90), height=height)
        left, top, right, bottom = image.getbbox() or (0, 0, 0, 0)
        assert left > 0 and right < image.width  # a full stride is not cut off
        assert bottom - top == pytest.approx(height, rel=0.06)


def test_a_step_moves_legs_and_not_the_head() -> None:
    one, other = figure(PLAIN, 90, phase=0.25), figure(PLAIN, 90, phase=0.5)
    changed = np.abs(one - other).max(2) > 40
    assert changed[100:].sum() > 100
    assert changed[:18].sum() == 0
    assert not (
        np.abs(figure(PLAIN, 90, stride=0) - figure(PLAIN, 90, stride=0, phase=0.7)) > 0
    ).any()


def test_light_comes_from_its_side() -> None:
    def halves(light: float) -> tuple[float, float]:
        pixels = np.asarray(draw_person(PLAIN, light=light)).astype(float)
        body = pixels[40:60, :, :3].mean(2) * (pixels[40:60, :, 3] > 250)
        middle = body.shape[1] // 2
        return body[:, :middle].sum(), body[:, middle:].sum()

    left, right = halves(-0.9), halves(0.9)
    assert left[0] > right[0]
    assert left[1] < right[1]


def test_a_part_of_a_limb_ends_between_joints() -> None:
    joints, radii = ((0.0, 0.0), (0.0, 1.0), (2.0, 1.0)), (3.0, 2.0, 1.0)
    assert first_part(joints, radii, 1.5) == ([(0, 0), (0, 1), (1, 1)], [3, 2, 1.5])
    assert first_part(joints, radii, 2) == ([*joints], [*radii])
    assert first_part(joints, radii, 0) == ([(0, 0)], [3])


def test_a_look_alike_differs_in_few_things() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        person = random_person(rng)
        other = look_alike(person, rng)
        changed = {
            f.name for f in fields(person) if getattr(person, f.name) != getattr(other, f.name)
        }
        told_by = changed - {"height", "build", "skin", "legs"}
        assert 3 <= len(told_by) <= 6
        assert other.top_colour == person.top_colour


def test_every_fourth_person_is_a_look_alike() -> None:
    people = random_people(8, np.random.default_rng(0))
    alike = [a.top_colour == b.top_colour for a, b in pairwise(people)]
    assert [i for i, same in enumerate(alike) if same] == [2, 6]


def test_a_crop_has_the_size_asked_for() -> None:
    for size in ((128, 64), (256, 128), (96, 48), (100, 100)):
        crop = draw_crop(PLAIN, Camera(0), np.random.default_rng(0), size=size)
        assert (crop.height, crop.width, crop.mode) == (*size, "RGB")


def test_the_camera_changes_the_picture_and_not_who_is_on_it() -> None:
    def crop(camera: Camera) -> NDArray[np.float64]:
        return np.asarray(draw_crop(PLAIN, camera, np.random.default_rng(3)), dtype=float)

    plain = crop(Camera(0))
    assert crop(Camera(0, gain=(1.3, 1.0, 1.0)))[..., 0].mean() > plain[..., 0].mean() + 10
    assert crop(Camera(0, gain=(0.6, 0.6, 0.6))).mean() < plain.mean() - 20
    assert crop(Camera(0, contrast=0.5)).std() < plain.std()
    assert (
        np.abs(np.diff(crop(Camera(0, blur=2.0)), axis=0)).mean()
        < np.abs(np.diff(plain, axis=0)).mean()
    )
    assert crop(Camera(0, noise=20.0)).std() > plain.std()


def test_hidden_people_are_hidden_and_others_are_not() -> None:
    for seed in range(6):
        shown, hidden = (
            np.asarray(
                draw_crop(PLAIN, Camera(0, noise=0.0), np.random.default_rng(seed), occluded=o)
            )
            for o in (False, True)
        )
        assert (np.abs(shown.astype(int) - hidden).max(2) > 30).mean() > 0.03


def test_a_scene_is_the_same_each_time_and_differs_between_places() -> None:
    scenes = [np.asarray(street_scene(place)).astype(int) for place in range(8)]
    street_scene.cache_clear()
    assert np.array_equal(scenes[7], np.asarray(street_scene(7)))
    for place in range(7):
        assert np.abs(scenes[place] - scenes[place + 1]).mean() > 3


def test_drawing_a_frame_leaves_the_scene_as_it_is() -> None:
    before = np.array(street_scene(1))
    draw_frame([PLAIN], Camera(1), np.random.default_rng(0))
    assert np.array_equal(before, np.asarray(street_scene(1)))


def test_boxes_of_a_frame_hold_their_people() -> None:
    suits = [(230, 20, 20), (20, 200, 40), (40, 60, 230)]
    people = [replace(PLAIN, top_colour=c, bottom_colour=c) for c in suits]
    frame, boxes = draw_frame(people, Camera(5, noise=0.0), np.random.default_rng(2))
    assert frame.size == SCENE_SIZE
    assert boxes.shape == (3, 4) and boxes.dtype == np.float32
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert (boxes >= 0).all() and (boxes <= [*SCENE_SIZE, *SCENE_SIZE]).all()
    picture = np.asarray(frame).astype(int)
    for channel, (x0, y0, x1, y1) in enumerate(boxes.round().astype(int).tolist()):
        others = np.delete(picture, channel, axis=2).max(2)
        own = picture[..., channel] > others + 60
        assert own[y0:y1, x0:x1].sum() > 0.97 * own.sum() > 300


def test_nobody_in_a_frame_leaves_an_empty_street() -> None:
    frame, boxes = draw_frame(
        [], random_camera(3, np.random.default_rng(0)), np.random.default_rng(0)
    )
    assert isinstance(frame, Image.Image)
    assert boxes.shape == (0, 4)
