"""What stands behind people: one street scene for each camera."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from passreid.data.brush import darker
from passreid.data.people import Colour

SCENE_SIZE = (960, 540)  # width, height
HORIZON = 0.42 * SCENE_SIZE[1]

Pen = ImageDraw.ImageDraw
_W, _H = SCENE_SIZE


@lru_cache(maxsize=32)
def street_scene(place: int) -> Image.Image:
    """Draw the scene of a place; the same number gives the same scene. Copy it to draw on it."""
    rng = np.random.default_rng([place, 7])
    wall, ground, features = _PLACES[place % len(_PLACES)]
    shift = rng.integers(-18, 19, 3) if place >= len(_PLACES) else np.zeros(3, int)
    wall, ground = _moved(wall, shift), _moved(ground, -shift)
    image = Image.new("RGB", SCENE_SIZE, wall)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, HORIZON, _W, _H), fill=ground)
    for feature in features:
        feature(pen, rng, ground)
    image = image.filter(ImageFilter.GaussianBlur(1.6))
    # Ground and wall are never of one brightness: stains, and light that falls off to one side.
    stains = Image.fromarray(rng.normal(0, 1, (27, 48)).astype(np.float32))
    soft = np.asarray(stains.resize(SCENE_SIZE, Image.Resampling.BICUBIC))
    fall = np.linspace(rng.uniform(0.8, 1.0), rng.uniform(1.0, 1.15), _W)
    grain = rng.normal(1, 0.025, (_H, _W))
    lit = np.asarray(image) * (fall * grain * (1 + 0.05 * soft))[..., None]
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


def _moved(colour: Colour, shift: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Colour:
    red, green, blue = np.clip(np.add(colour, shift), 0, 255).tolist()
    return red, green, blue


def _tiles(pen: Pen, rng: np.random.Generator, ground: Colour) -> None:
    """Joints of paving that meet at the horizon."""
    joint = darker(ground, 0.86)
    for x in range(-3 * _W, 4 * _W, 110):
        pen.line((_W / 2 + (x - _W / 2) * 0.08, HORIZON, x, _H), fill=joint, width=2)
    for step in range(1, 15):
        y = HORIZON + (_H - HORIZON) / (0.35 * step + 0.65)
        pen.line((0, y, _W, y), fill=joint, width=2)


def _windows(pen: Pen, rng: np.random.Generator, ground: Colour) -> None:
    """A house front with windows and a door."""
    for x in range(20, _W, 150):
        glass: Colour = (58, 70, 84) if rng.random() < 0.7 else (206, 198, 160)
        if rng.random() < 0.2:
            pen.rectangle((x, 60, x + 74, HORIZON), fill=(88, 60, 44))
        else:
            pen.rectangle((x - 5, 40, x + 95, 170), fill=(222, 220, 214))
            pen.rectangle((x, 46, x + 90, 164), fill=glass)
            pen.line((x + 45, 46, x + 45, 164), fill=(222, 220, 214), width=4)


def _shops(pen: Pen, rng: np.random.Generator, ground: Colour) -> None:
    """Lit shop windows under coloured signs."""
    for x in range(0, _W, 210):
        red, green, blue = rng.integers(50, 220, 3).tolist()
        pen.rectangle((x + 8, 26, x + 196, 74), fill=(red, green, blue))
        pen.rectangle((x + 8, 80, x + 196, HORIZON), fill=(214, 206, 186))
        for shelf in range(x + 20, x + 180, 26):
            red, green, blue = rng.integers(60, 190, 3).tolist()
            pen.rectangle((shelf, 118, shelf + 18, HORIZON - 4), fill=(red, green, blue))


def _columns(pen: Pen, rng: np.random.Generator, ground: Colour) -> None:
    """Pillars before a dark hall."""
    pen.rectangle((0, 36, _W, HORIZON), fill=(56, 56, 62))
    for x in range(30, _W, 170):
        pen.rectangle((x, 0, x + 46, HORIZON + 10), fill=(186, 182, 174))
        pen.rectangle((x + 32, 0, x + 46, HORIZON + 10), fill=(140, 138, 134))


def _trees(pen: Pen, rng: np.random.Generator, ground: Colour) -> None:
    """Trees and a hedge."""
    for _ in range(70):
        x, y, r = rng.uniform(0, _W), rng.uniform(-10, 150), rng.uniform(25, 60)
        green = int(rng.integers(70, 135))
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(green // 2 + 10, green, green // 3 + 8))
    for x in rng.uniform(0, _W, 7).tolist():
        pen.rectangle((x, 110, x + 16, HORIZON + 14), fill=(82, 66, 52))
    pen.rectangle((0, HORIZON - 30, _W, HORIZON + 4), fill=(58, 84, 48))


def _road(pen: Pen, rng: np.random.Generator, ground: Colour) -> None:
    """A kerb, a lane mark and parked cars."""
    pen.rectangle((0, HORIZON + 26, _W, HORIZON + 36), fill=(190, 188, 182))
    for x in range(-60, _W, 190):
        mark = [(x, 480), (x + 96, 480), (x + 84, 492), (x - 16, 492)]
        pen.polygon(mark, fill=(226, 224, 214))
    for x in range(int(rng.integers(0, 90)), _W, 250):
        red, green, blue = _PAINTS[rng.integers(len(_PAINTS))]
        top = HORIZON - 36
        pen.rounded_rectangle((x + 34, top - 34, x + 150, top + 20), 20, fill=(50, 58, 66))
        pen.rounded_rectangle((x, top, x + 190, top + 50), 16, fill=(red, green, blue))
        for wheel in (x + 40, x + 150):
            pen.ellipse((wheel - 19, top + 30, wheel + 19, top + 68), fill=(26, 26, 28))


def _bicycles(pen: Pen, rng: np.random.Generator, ground: Colour) -> None:
    """A row of parked bicycles."""
    for x in range(15, _W, 78):
        red, green, blue = rng.integers(20, 170, 3).tolist()
        y = HORIZON + 24
        for wheel in (x, x + 42):
            pen.ellipse((wheel - 22, y - 22, wheel + 22, y + 22), outline=(34, 34, 36), width=4)
        frame = [(x, y), (x + 12, y - 30), (x + 36, y - 32), (x + 20, y), (x + 12, y - 30)]
        pen.line([*frame, (x + 42, y - 44), (x + 42, y)], fill=(red, green, blue), width=5)


def _lamps(pen: Pen, rng: np.random.Generator, ground: Colour) -> None:
    """Panels of an underpass and the light of its lamps on the ground."""
    for x in range(0, _W, 96):
        pen.line((x, 0, x, HORIZON), fill=(84, 88, 96), width=4)
        pen.rectangle((x + 30, 14, x + 70, 24), fill=(240, 238, 214))
    bright = _moved(ground, np.array([24, 24, 20]))
    for x in range(90, _W, 320):
        pen.ellipse((x, 380, x + 220, 440), fill=bright)


# Of parked cars.
_PAINTS: tuple[Colour, ...] = (
    (200, 202, 204),
    (52, 54, 60),
    (130, 34, 36),
    (44, 70, 112),
    (140, 142, 146),
)
_Feature = Callable[[Pen, np.random.Generator, Colour], None]
_PLACES: tuple[tuple[Colour, Colour, tuple[_Feature, ...]], ...] = (
    ((168, 160, 148), (156, 152, 146), (_tiles, _windows)),
    ((150, 170, 190), (108, 110, 114), (_trees, _road)),
    ((196, 192, 186), (190, 184, 172), (_tiles, _shops)),
    ((176, 196, 206), (142, 148, 112), (_trees,)),
    ((140, 136, 130), (134, 128, 122), (_tiles, _columns, _bicycles)),
    ((100, 104, 112), (92, 90, 92), (_lamps,)),
)
