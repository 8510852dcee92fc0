"""Draw pedestrians as a street camera would see them.

Bodies are drawn in units of their height: x to the right of the axis, y from crown (0) to soles
(1). At angle 0 a person faces the viewer, at 90 walks to the right, at 180 shows the back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

_SKINS = ((244, 212, 188), (226, 180, 148), (190, 138, 100), (134, 92, 64), (92, 62, 46))
_HAIRS = ((28, 24, 24), (64, 42, 30), (110, 76, 46), (200, 160, 98), (156, 76, 40), (170, 168, 166))
_DARK = ((27, 28, 32), (44, 60, 104), (126, 128, 132), (204, 176, 130), (100, 74, 52), (28, 42, 96))
_BRIGHT = (
    *((232, 232, 228), (70, 130, 200), (190, 30, 36), (244, 150, 170), (242, 200, 40)),
    *((236, 120, 30), (40, 130, 66), (120, 200, 150), (120, 60, 150)),
)
_SCALE = 3  # figures are drawn at this scale and reduced, to smooth their edges
_STREET = (480, 270)


@dataclass(frozen=True)
class Person:
    """A person's looks, the same in front of every camera."""

    height: float
    build: float
    skin: Colour
    hair: Colour
    long_hair: bool
    sleeves: int  # joints of the arm that are covered: 0, 2 (to the elbow) or 3 (to the hand)
    hem: float  # how far down the top reaches
    top: Colour
    pattern: str  # plain, stripes, block
    accent: Colour
    legs: str  # trousers, shorts, skirt
    bottom: Colour
    shoes: Colour
    bag: str  # "", backpack, shoulder
    bag_colour: Colour


@dataclass(frozen=True)
class Camera:
    """A camera's place, the side from which it sees people, and its image quality."""

    place: int
    angle: float
    gain: tuple[float, float, float]
    blur: float
    noise: float


def random_person(rng: np.random.Generator) -> Person:
    """Choose the looks of one person."""

    def colour(options: Sequence[Colour]) -> Colour:
        shade = np.array(options[int(rng.integers(len(options)))]) + rng.normal(0, 6)
        red, green, blue = np.clip(shade, 6, 250).astype(int).tolist()
        return red, green, blue

    return Person(
        height=float(rng.uniform(0.92, 1.05)),
        build=float(rng.uniform(0.88, 1.2)),
        skin=colour(_SKINS),
        hair=colour(_HAIRS),
        long_hair=bool(rng.random() < 0.4),
        sleeves=int(rng.choice([0, 2, 3, 3])),
        hem=float(rng.choice([0.53, 0.53, 0.68])),
        top=colour(_DARK + _BRIGHT),
        pattern=str(rng.choice(["plain", "plain", "plain", "stripes", "block"])),
        accent=colour(_BRIGHT),
        legs=str(rng.choice(["trousers", "trousers", "shorts", "skirt"])),
        bottom=colour((*_DARK, (196, 174, 132), (226, 224, 218), (158, 36, 46), (74, 96, 56))),
        shoes=colour(((26, 26, 28), (232, 232, 230), (110, 74, 48), (196, 46, 52))),
        bag=str(rng.choice(["", "", "backpack", "shoulder"])),
        bag_colour=colour(_DARK + _BRIGHT),
    )


def random_people(count: int, rng: np.random.Generator) -> list[Person]:
    """Choose people in clearly different clothes; only the fourth wears those of the third."""

    def difference(one: Person, other: Person) -> int:
        mine, theirs = ((p.top, p.bottom, p.bottom, p.hair, p.skin) for p in (one, other))
        return int(np.abs(np.subtract(mine, theirs)).sum())

    people: list[Person] = []
    for index in range(count):
        drawn = [random_person(rng) for _ in range(12)]
        chosen = max(
            drawn, key=lambda p: min((difference(p, other) for other in people), default=0)
        )
        if index == 3:
            chosen = replace(people[2], hair=chosen.hair, skin=chosen.skin, shoes=chosen.shoes)
        people.append(chosen)
    return people


def random_camera(number: int, rng: np.random.Generator) -> Camera:
    """Choose a camera; consecutive numbers see people from different sides."""
    red, green, blue = (rng.uniform(0.92, 1.08) * rng.normal(1, 0.015, 3)).tolist()
    angle, blur, noise = rng.uniform((-25, 0.2, 1.5), (25, 0.6, 4)).tolist()
    return Camera(number, number * 135 + angle, (red, green, blue), blur, noise)


class _Figure:
    """A person seen from one side, on a transparent canvas; each method draws a part."""

    def __init__(self, person: Person, angle: float, pixels: float) -> None:
        self.person, self.unit = person, pixels * person.height * _SCALE
        self.forward, self.left = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        self.canvas = Image.new("RGBA", (round(0.7 * self.unit), round(1.04 * self.unit)))

    def half_width(self, front: float, side: float) -> float:
        """Return half the visible width of a part that is wider from the front than the side."""
        return self.person.build * math.hypot(front * self.left, side * self.forward)

    def pixels(self, points: Points) -> list[tuple[float, float]]:
        half = self.canvas.width / 2
        return [(half + x * self.unit, (y + 0.02) * self.unit) for x, y in points]

    def limb(self, joints: Points, radii: Sequence[float], colour: Colour) -> None:
        """Draw tapered segments with round joints."""
        pen, points = ImageDraw.Draw(self.canvas), self.pixels(joints)
        sizes = [radius * self.unit for radius in radii[: len(joints)]]
        for (x, y), r in zip(points, sizes, strict=True):
            pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        for (x, y), (u, v), a, b in zip(points, points[1:], sizes, sizes[1:], strict=False):
            length = math.hypot(u - x, v - y) or 1.0
            nx, ny = (y - v) / length, (u - x) / length
            near = (x + nx * a, y + ny * a), (u + nx * b, v + ny * b)
            pen.polygon([*near, (u - nx * b, v - ny * b), (x - nx * a, y - ny * a)], fill=colour)

    def shape(self, right: Points, colour: Colour, x: float = 0, pattern: str = "") -> None:
        """Fill an outline given by its right half; a pattern leaves parts of it unpainted."""
        outline = [(x + a, b) for a, b in right] + [(x - a, b) for a, b in reversed(right)]
        mask = Image.new("L", self.canvas.size)
        pen = ImageDraw.Draw(mask)
        pen.polygon(self.pixels(outline), fill=255)
        stripes = [(0.08 * n, 0.08 * n + 0.045) for n in range(10)]
        for top, bottom in {"stripes": stripes, "block": [(0.0, 0.34)]}.get(pattern, []):
            (x0, y0), (x1, y1) = self.pixels([(-1, top), (1, bottom)])
            pen.rectangle((x0, y0, x1, y1), fill=0)
        self.canvas.paste((*colour, 255), mask=mask)

    def leg(self, side: int, cycle: float) -> None:
        person, forward = self.person, self.forward
        swing = 0.42 * math.sin(cycle)
        low = swing - 0.6 * max(0.0, math.sin(cycle - 1.9))
        hip = (side * self.left * 0.047 * person.build, 0.5)
        knee = (hip[0] + 0.235 * forward * math.sin(swing), hip[1] + 0.235 * math.cos(swing))
        foot = (knee[0] + 0.22 * forward * math.sin(low), knee[1] + 0.22 * math.cos(low))
        self.limb((foot, (foot[0] + 0.05 * forward, foot[1] + 0.02)), (0.026, 0.02), person.shoes)
        self.limb((hip, knee, foot), (0.052 * person.build, 0.036, 0.022), person.skin)
        covered = {"trousers": 3, "shorts": 2, "skirt": 0}[person.legs]
        radii = (0.058 * person.build, 0.046, 0.033)
        self.limb((hip, knee, foot)[:covered], radii, person.bottom)

    def arm(self, side: int, cycle: float) -> None:
        person, swing = self.person, -0.5 * math.sin(cycle)
        shoulder = (side * self.left * 0.102 * person.build, 0.217)
        elbow = (1.2 * shoulder[0] + 0.15 * self.forward * math.sin(swing), 0.355)
        hand = (elbow[0] + 0.13 * self.forward * math.sin(swing + 0.3), 0.48)
        self.limb((shoulder, elbow, hand), (0.03 * person.build, 0.028, 0.022), person.skin)
        sleeve = (shoulder, elbow, (hand[0], hand[1] - 0.03))[: person.sleeves]
        self.limb(sleeve, (0.034 * person.build, 0.033, 0.026), person.top)

    def trunk(self) -> None:
        """Draw skirt, neck, top, shoulder bag and head."""
        person, forward, left = self.person, self.forward, self.left
        shoulder, hip = self.half_width(0.122, 0.075), self.half_width(0.108, 0.082)
        if person.legs == "skirt":
            self.shape([(hip, 0.46), (1.5 * hip, 0.72)], person.bottom)
        self.limb(((0, 0.12), (0, 0.18)), (0.032, 0.036), person.skin)
        waist, hem = (self.half_width(0.098, 0.07), 0.39), (hip, person.hem)
        right = [(0.03, 0.16), (shoulder * 0.9, 0.185), (shoulder, 0.22), waist, hem]
        self.shape(right, person.top)
        if person.pattern != "plain":
            self.shape(right, person.accent, pattern=person.pattern)
        if person.bag == "shoulder":
            side = 0.1 * person.build * left
            self.limb(((-side, 0.18), (side, 0.47)), (0.01, 0.01), person.bag_colour)
            self.shape([(0.05, 0.45), (0.055, 0.56)], person.bag_colour, x=side)
        x, behind = 0.012 * forward, max(0.0, -left)
        self.limb(((x, 0.055), (x, 0.1)), (0.047, 0.046), person.skin)
        self.limb(
            ((x, 0.04), (x - 0.03 * forward, 0.045 + 0.05 * behind)), (0.04,) * 2, person.hair
        )

    def back(self) -> None:
        """Draw long hair and a backpack."""
        if self.person.long_hair:
            right = [(0.05, 0.03), (0.06, 0.09), (0.055, 0.25)]
            self.shape(right, self.person.hair, x=-0.026 * self.forward)
        if self.person.bag == "backpack":
            wide = self.half_width(0.085, 0.05)
            right = [(wide * 0.7, 0.17), (wide, 0.21), (wide, 0.42), (wide * 0.8, 0.45)]
            self.shape(right, self.person.bag_colour, x=-0.1 * self.forward)


def draw_person(person: Person, angle: float, phase: float, height: float) -> Image.Image:
    """Draw a person on a transparent background, at a phase (0 to 1) of the walking cycle."""
    figure = _Figure(person, angle, height)
    near = -1 if figure.forward >= 0 else 1
    cycles = {side: 2 * math.pi * (phase + (side < 0) / 2) for side in (-near, near)}
    if figure.left >= 0:
        figure.back()
    for side, cycle in cycles.items():
        figure.leg(side, cycle)
    figure.arm(-near, cycles[-near])
    figure.trunk()
    if figure.left < 0:
        figure.back()
    for side in (-near, near) if abs(figure.left) > 0.9 else (near,):
        figure.arm(side, cycles[side])
    drawn = figure.canvas.reduce(_SCALE)
    # Brighter towards the middle of the outline, so that bodies look round.
    alpha = drawn.getchannel("A").filter(ImageFilter.GaussianBlur(drawn.height / 40))
    pixels = np.array(drawn)
    shade = 0.66 + 0.38 * np.asarray(alpha, np.float32)[..., None] / 255
    pixels[..., :3] = np.clip(pixels[..., :3] * shade, 0, 255)
    return Image.fromarray(pixels)


@lru_cache(16)
def _draw_street(place: int) -> Image.Image:
    """Draw the background that the camera at a place sees."""
    rng = np.random.default_rng([place, 7])
    colour = rng.integers(110, 185) + rng.integers(-12, 13, 3)
    stains = Image.fromarray(rng.normal(1, 0.05, (27, 48)).astype(np.float32))
    light = np.asarray(stains.resize(_STREET, Image.Resampling.BICUBIC))[..., None]
    return Image.fromarray(np.clip(light * colour, 0, 255).astype(np.uint8))


def draw_crop(
    person: Person, camera: Camera, rng: np.random.Generator, *, size: tuple[int, int] = (128, 64)
) -> Image.Image:
    """Draw a person as a detector would crop it from a camera's frame, in RGB.

    Args:
        person: Who is shown.
        camera: Which camera.
        rng: Decides the pose, the background and the error of the box.
        size: (height, width) in pixels.
    """
    height, width = size
    x, y = rng.uniform(0, (_STREET[0] - 100, _STREET[1] - 200)).tolist()
    box = (x, y, x + 100, y + 200)
    crop = _draw_street(camera.place).resize((width, height), Image.Resampling.BILINEAR, box)
    tall = height / rng.uniform(1.06, 1.18)
    figure = draw_person(person, camera.angle + rng.normal(0, 25), rng.random(), tall)
    left = round(width * rng.normal(0.5, 0.04) - figure.width / 2)
    crop.paste(figure, (left, height - figure.height), figure)
    soft = crop.filter(ImageFilter.GaussianBlur(camera.blur * min(height / 128, 2.0)))
    pixels = np.asarray(soft, np.float32) * (np.array(camera.gain) * rng.uniform(0.94, 1.06))
    pixels += camera.noise * rng.standard_normal((height, width, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
