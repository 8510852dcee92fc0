"""Cameras in a street, and what a camera and a detector make of the people who walk there.

People stand on the ground of a camera's scene. A crop is the part of the frame around one of them
as a detector would cut it: a little off, the person sometimes hidden in part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from passreid.data.brush import darker
from passreid.data.figure import HEADROOM, Pose, draw_person
from passreid.data.people import Appearance, random_person
from passreid.data.scene import HORIZON, SCENE_SIZE, street_scene

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Camera:
    """One camera: where it hangs and what its pictures look like.

    Attributes:
        place: Number of the scene.
        gain: Factors of red, green and blue.
        contrast: 1 leaves a picture as it is.
        blur: Standard deviation in pixels of a crop 128 pixels high.
        noise: Standard deviation of the grain, of 255.
        quality: Of the JPEG.
        light: Where the light comes from: -1 left, 1 right.
        angle: From which side people are mostly seen, in degrees as in `Pose`.
    """

    place: int
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    contrast: float = 1.0
    blur: float = 0.3
    noise: float = 3.0
    quality: int = 88
    light: float = 0.4
    angle: float = 0.0


def random_camera(number: int, rng: np.random.Generator) -> Camera:
    """Draw the camera of a place; neighbouring numbers look at people from different sides."""
    tint = rng.normal(0, 0.045, 3)
    red, green, blue = (rng.uniform(0.78, 1.2) * (1 + tint - tint.mean())).tolist()
    return Camera(
        place=number,
        gain=(red, green, blue),
        contrast=float(rng.uniform(0.75, 1.15)),
        blur=float(rng.uniform(0.2, 0.9)),
        noise=float(rng.uniform(1.5, 5.5)),
        quality=int(rng.integers(62, 92)),
        light=float(rng.uniform(-0.8, 0.8)),
        angle=float(number * 135 + rng.uniform(-25, 25)),
    )


def draw_crop(
    person: Appearance,
    camera: Camera,
    rng: np.random.Generator,
    *,
    size: tuple[int, int] = (128, 64),
    occluded: bool | None = None,
) -> Image.Image:
    """Draw a person as a detector cuts it out of a camera's frame.

    Args:
        person: Who.
        camera: Which camera.
        rng: Decides pose, place, the error of the box and what is in the way.
        size: (height, width) in pixels.
        occluded: Whether something hides a part of the person; None leaves it to chance.

    Returns:
        RGB.
    """
    height, width = size
    axis, soles, body = _standing(rng)
    box = _detected(axis, soles, body * person.height, rng, width / height)
    crop = street_scene(camera.place).resize((width, height), Image.Resampling.BILINEAR, box)
    zoom = height / (box[3] - box[1])
    x, y = (axis - box[0]) * zoom, (soles - box[1]) * zoom
    if rng.random() < 0.25:
        behind = (rng.uniform(-0.1, 1.1) * width, y * rng.uniform(0.8, 0.92))
        _walk(crop, random_person(rng), camera, rng, at=behind, body=0.75 * body * zoom)
    _walk(crop, person, camera, rng, at=(x, y), body=body * zoom)
    if rng.random() < 0.2 if occluded is None else occluded:
        _hide(crop, camera, rng)
    return _seen(crop, camera, rng, scale=min(height / 128, 2.0))


def draw_frame(
    people: Sequence[Appearance], camera: Camera, rng: np.random.Generator
) -> tuple[Image.Image, NDArray[np.float32]]:
    """Draw several people in a camera's whole frame.

    Args:
        people: Who walks there.
        camera: Which camera.
        rng: Decides where and how they walk.

    Returns:
        RGB of `SCENE_SIZE`, and (len(people), 4) float32 boxes x0, y0, x1, y1 in pixels around the
        people, in their order. A nearer person may hide a part of one behind.
    """
    frame = street_scene(camera.place).copy()
    lanes = (rng.permutation(len(people)) + rng.uniform(0.35, 0.65, len(people))) / len(people)
    places = [(lane * SCENE_SIZE[0], *_standing(rng)[1:]) for lane in lanes.tolist()]
    boxes = np.zeros((len(people), 4), np.float32)
    for index in sorted(range(len(people)), key=lambda i: places[i][1]):
        axis, soles, body = places[index]
        boxes[index] = _walk(frame, people[index], camera, rng, at=(axis, soles), body=body)
    boxes[:, ::2] = boxes[:, ::2].clip(0, SCENE_SIZE[0])
    boxes[:, 1::2] = boxes[:, 1::2].clip(0, SCENE_SIZE[1])
    return _seen(frame, camera, rng, scale=1.0), boxes


def _standing(rng: np.random.Generator) -> tuple[float, float, float]:
    """A place on the ground: x and y of the soles, and how tall an average person is there."""
    soles = rng.uniform(0.7, 0.97) * SCENE_SIZE[1]
    body = 1.12 * (soles - HORIZON)
    return float(rng.uniform(0.15, 0.85) * SCENE_SIZE[0]), float(soles), float(body)


def _detected(
    axis: float, soles: float, body: float, rng: np.random.Generator, aspect: float
) -> Box:
    """The box of a detector: never quite right, now and then without the legs or the head.

    Returns:
        x0, y0, x1, y1 inside the scene.
    """
    tall = body * rng.uniform(1.01, 1.16)
    top = soles - body - (tall - body) * rng.uniform(0.25, 0.75)
    cut = rng.random()
    if cut < 0.07:
        tall *= rng.uniform(0.62, 0.8)
    elif cut < 0.1:
        top += 0.1 * body
    wide = tall * aspect
    left = axis - wide / 2 + rng.normal(0, 0.05) * wide
    width, height = SCENE_SIZE
    left, top = min(max(left, 0.0), width - wide), min(max(top, 0.0), height - tall)
    return float(left), float(top), float(left + wide), float(top + tall)


def _walk(
    image: Image.Image,
    person: Appearance,
    camera: Camera,
    rng: np.random.Generator,
    *,
    at: tuple[float, float],
    body: float,
) -> Box:
    """Paste a walking person and its shadow; returns the box around the person.

    Args:
        image: Is drawn on.
        person: Who.
        camera: Whose light and side it is.
        rng: Decides the pose.
        at: Where the soles stand.
        body: Height of an average person there, in pixels.
    """
    turn = rng.normal(0, 30) if rng.random() < 0.75 else rng.uniform(0, 360)
    stride = rng.uniform(0.6, 1.1) if rng.random() < 0.75 else 0.1
    pose = Pose(float(camera.angle + turn), phase=float(rng.random()), stride=float(stride))
    figure = draw_person(person, pose, height=body, light=camera.light)
    x, y = at
    wide, tall = 0.2 * body, 0.03 * body
    ground = (round(x - wide), round(y - tall), round(x + wide), round(y + tall))
    shadow = Image.new("L", (max(1, ground[2] - ground[0]), max(1, ground[3] - ground[1])))
    ImageDraw.Draw(shadow).ellipse((0, 0, shadow.width, shadow.height), fill=110)
    image.paste((18, 18, 22), ground[:2], shadow.filter(ImageFilter.BoxBlur(tall / 3)))
    left = round(x - figure.width / 2)
    top = round(y - body * person.height * (1 + HEADROOM))
    image.paste(figure, (left, top), figure)
    x0, y0, x1, y1 = figure.getchannel("A").getbbox() or (0, 0, *figure.size)
    return float(left + x0), float(top + y0), float(left + x1), float(top + y1)


def _hide(crop: Image.Image, camera: Camera, rng: np.random.Generator) -> None:
    """Put a post, a low wall or car, or another person before the person."""
    width, height = crop.size
    pen = ImageDraw.Draw(crop)
    kind = rng.integers(3)
    if kind == 0:
        x, wide = rng.uniform(0.2, 0.7) * width, rng.uniform(0.08, 0.2) * width
        pen.rectangle((x, 0, x + wide, height), fill=(110, 110, 112))
        pen.rectangle((x + 0.65 * wide, 0, x + wide, height), fill=(78, 78, 82))
    elif kind == 1:
        y = rng.uniform(0.55, 0.78) * height
        x = rng.uniform(-0.6, 0.3) * width
        grey = rng.uniform(50, 180)
        red, green, blue = (grey + rng.normal(0, 14, 3)).clip(20, 220).astype(int).tolist()
        corners = (x, y, x + 1.2 * width, height + 20)
        pen.rounded_rectangle(corners, width / 8, fill=(red, green, blue))
        front = (corners[0], y + 0.07 * height, corners[2], corners[3])
        pen.rectangle(front, fill=darker((red, green, blue)))
    else:
        side = width * (rng.uniform(-0.08, 0.12) if rng.random() < 0.5 else rng.uniform(0.88, 1.08))
        at = (side, height * rng.uniform(1.05, 1.25))
        _walk(crop, random_person(rng), camera, rng, at=at, body=1.1 * height)


def _seen(
    image: Image.Image, camera: Camera, rng: np.random.Generator, *, scale: float
) -> Image.Image:
    """Blur (`scale` times the camera's), colour and grain, at a moment's brightness."""
    soft = image.filter(ImageFilter.GaussianBlur(camera.blur * scale * rng.uniform(0.7, 1.5)))
    moment = rng.uniform(0.86, 1.14)
    gain = np.array(camera.gain, np.float32) * np.float32(moment)
    pixels = np.asarray(soft, dtype=np.float32) * gain
    pixels = 118 + (pixels - 118) * np.float32(camera.contrast)
    grain = rng.standard_normal((*pixels.shape[:2], 1), dtype=np.float32)
    pixels += np.float32(camera.noise) * grain
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
