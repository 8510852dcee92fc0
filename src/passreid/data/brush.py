"""Rounded, rimmed, softly lit shapes: what a drawn pedestrian is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from passreid.data.people import Colour

Point = tuple[float, float]
Paint = Colour | Image.Image

OVERSAMPLING = 3
_RIM = 0.004


class Brush:
    """Draws on a transparent canvas in units of a body's height.

    The x axis starts in the middle of the canvas, the y axis `headroom` below its upper edge.

    Args:
        width: Of the finished picture in pixels.
        height: Of the finished picture in pixels.
        unit: Pixels of the finished picture to one unit.
        headroom: Units above y = 0.
    """

    def __init__(self, width: int, height: int, *, unit: float, headroom: float) -> None:
        self.unit = unit * OVERSAMPLING
        self.headroom = headroom
        self.size = (width * OVERSAMPLING, height * OVERSAMPLING)
        self.canvas = Image.new("RGBA", self.size)
        self._pen = ImageDraw.Draw(self.canvas)

    def finished(self) -> Image.Image:
        """The canvas, reduced to its final size."""
        return self.canvas.reduce(OVERSAMPLING)

    def limb(self, joints: Sequence[Point], radii: Sequence[float], paint: Paint) -> None:
        """A chain of tapered segments with round joints."""
        self._chain(self._pen, joints, [r + _RIM for r in radii], (*_rim(paint), 255))
        if isinstance(paint, Image.Image):
            mask = Image.new("L", self.size)
            self._chain(ImageDraw.Draw(mask), joints, radii, 255)
            self.canvas.paste(paint, mask=mask)
        else:
            self._chain(self._pen, joints, radii, (*paint, 255))

    def shape(self, outline: Sequence[Point], paint: Paint) -> None:
        """A polygon."""
        points = [self.pixel(point) for point in outline]
        rim = max(1, round(2 * _RIM * self.unit))
        self._pen.line([*points, points[0]], fill=(*_rim(paint), 255), width=rim, joint="curve")
        if isinstance(paint, Image.Image):
            mask = Image.new("L", self.size)
            ImageDraw.Draw(mask).polygon(points, fill=255)
            self.canvas.paste(paint, mask=mask)
        else:
            self._pen.polygon(points, fill=(*paint, 255))

    def ball(self, centre: Point, wide: float, tall: float, paint: Colour) -> None:
        """An ellipse of two half axes, with a rim where it is large enough to have one."""
        x, y = self.pixel(centre)
        rim = _RIM if min(wide, tall) > 3 * _RIM else 0.0
        for grow, ink in ((rim, darker(paint)), (0.0, paint)):
            a, b = (wide + grow) * self.unit, (tall + grow) * self.unit
            self._pen.ellipse((x - a, y - b, x + a, y + b), fill=(*ink, 255))

    def cloth(self, colour: Colour, accent: Colour, pattern: str) -> Paint:
        """Paint for the upper body, in a pattern of two colours, as large as the canvas."""
        if pattern not in ("stripes", "bars", "checks", "block"):
            return colour
        paint = Image.new("RGBA", self.size, (*colour, 255))
        pen = ImageDraw.Draw(paint)
        ink = (*accent, 255)
        width, height = self.size
        step = 0.046 * self.unit
        thick = max(1, round(step * (0.28 if pattern == "checks" else 0.5)))
        if pattern == "block":
            pen.rectangle((0, self.pixel((0, 0.31))[1], width, height), fill=ink)
        if pattern in ("stripes", "checks"):
            for i in range(math.ceil(height / step)):
                pen.line((0, i * step, width, i * step), fill=ink, width=thick)
        if pattern in ("bars", "checks"):
            for i in range(math.ceil(width / step)):
                pen.line((i * step, 0, i * step, height), fill=ink, width=thick)
        return paint

    def pixel(self, point: Point) -> Point:
        """Where a point lies on the canvas."""
        x, y = point
        return self.size[0] / 2 + x * self.unit, (y + self.headroom) * self.unit

    def _chain(
        self,
        pen: ImageDraw.ImageDraw,
        joints: Sequence[Point],
        radii: Sequence[float],
        ink: int | tuple[int, int, int, int],
    ) -> None:
        points = [self.pixel(joint) for joint in joints]
        sizes = [radius * self.unit for radius in radii]
        for (x, y), r in zip(points, sizes, strict=True):
            pen.ellipse((x - r, y - r, x + r, y + r), fill=ink)
        for (x0, y0), (x1, y1), a, b in zip(points, points[1:], sizes, sizes[1:], strict=False):
            length = math.hypot(x1 - x0, y1 - y0) or 1.0
            nx, ny = (y0 - y1) / length, (x1 - x0) / length
            left = ((x0 + nx * a, y0 + ny * a), (x1 + nx * b, y1 + ny * b))
            right = ((x1 - nx * b, y1 - ny * b), (x0 - nx * a, y0 - ny * a))
            pen.polygon([*left, *right], fill=ink)


def mirrored(right: Sequence[Point], *, x: float = 0.0) -> list[Point]:
    """Close an outline given by its right half, symmetric about the column `x`."""
    return [(x + a, b) for a, b in right] + [(x - a, b) for a, b in reversed(right)]


def first_part(
    joints: Sequence[Point], radii: Sequence[float], segments: float
) -> tuple[list[Point], list[float]]:
    """The first `segments` segments of a limb, the last of them in part."""
    whole = min(int(segments), len(joints) - 1)
    rest = segments - whole
    points, sizes = [*joints[: whole + 1]], [*radii[: whole + 1]]
    if rest > 0 and whole + 1 < len(joints):
        (x0, y0), (x1, y1) = joints[whole : whole + 2]
        points.append((x0 + rest * (x1 - x0), y0 + rest * (y1 - y0)))
        sizes.append(radii[whole] + rest * (radii[whole + 1] - radii[whole]))
    return points, sizes


def darker(colour: Colour, factor: float = 0.74) -> Colour:
    """The colour in its own shadow."""
    red, green, blue = (int(channel * factor) for channel in colour)
    return red, green, blue


def lit(figure: Image.Image, light: float) -> Image.Image:
    """Light an RGBA figure from one side, as if it were round.

    Args:
        figure: Drawn in flat colours.
        light: Where the light comes from: -1 left, 0 ahead, 1 right.
    """
    height = figure.height
    alpha = figure.getchannel("A")
    near = np.asarray(alpha.filter(ImageFilter.GaussianBlur(height / 45)), dtype=np.float32) / 255
    wide = np.asarray(alpha.filter(ImageFilter.GaussianBlur(height / 16)), dtype=np.float32) / 255
    slope = np.zeros_like(wide)
    slope[:, 1:-1] = wide[:, :-2] - wide[:, 2:]
    # On a side turned to the light the figure ends towards it, so the blurred outline falls there.
    side = np.clip(slope * light * height / 16, -0.35, 0.35)
    fall = np.linspace(1.06, 0.9, height, dtype=np.float32)[:, None]
    shade = ((0.62 + 0.42 * near) * fall + side) * _folds(figure.size)
    pixels = np.array(figure)
    pixels[..., :3] = np.clip(pixels[..., :3] * shade[..., None], 0, 255)
    return Image.fromarray(pixels)


def _folds(size: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W) brightness around 1 of cloth in soft folds, the same for every figure of a size."""
    grid = np.random.default_rng(5).normal(0, 1, (26, 11)).astype(np.float32)
    soft = Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)
    return 1 + 0.09 * np.asarray(soft, dtype=np.float32)


def _rim(paint: Paint) -> Colour:
    """The colour of the edge of a shape: its own, darker."""
    if not isinstance(paint, Image.Image):
        return darker(paint)
    corner = paint.getpixel((0, paint.height - 1))
    assert isinstance(corner, tuple)
    return darker((int(corner[0]), int(corner[1]), int(corner[2])))
