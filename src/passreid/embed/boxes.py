"""Cut detector boxes out of a frame."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from passreid.errors import ImageError, UsageError

BoxFormat: TypeAlias = Literal["xyxy", "xywh", "cxcywh", "xyxyn", "xywhn", "cxcywhn"]
"""Two corners, or a corner or the centre with width and height; "n": relative to the frame, 0-1."""

MIN_SIDE = 4
"""Pixels: smaller crops show no person and are what boxes in the wrong unit look like."""

_LARGEST_RELATIVE = 2.0  # detectors reach a little beyond the frame


def cut_boxes(
    frame: Image.Image, boxes: ArrayLike, name: str, *, box_format: BoxFormat = "xyxy"
) -> list[Image.Image]:
    """Cut boxes out of a frame, rounded to whole pixels and clipped to the frame.

    Args:
        frame: An RGB picture.
        boxes: (N, 4) numbers in the order and unit of `box_format`.
        name: The frame's name in error messages.
        box_format: See `BoxFormat`.

    Raises:
        UsageError: `boxes` is not (N, 4) numbers, or not in the unit of `box_format`.
        ImageError: Fewer than `MIN_SIDE` pixels of a box's width or height lie in the frame.
    """
    if box_format not in get_args(BoxFormat):
        known = ", ".join(get_args(BoxFormat))
        raise UsageError(f"box_format is '{box_format}'; use one of {known}.")
    try:
        given = np.asarray(boxes, np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"Boxes must be (N, 4) numbers, one box a row ({error}).") from None
    if not given.size:
        return []
    if given.ndim != 2 or given.shape[1] != 4:
        raise UsageError(f"Boxes must be (N, 4), one box a row, not of shape {given.shape}.")
    _check_unit(given, box_format)
    corners = _corners(given, box_format, frame.size)
    whole = np.clip(np.round(corners), 0, [*frame.size, *frame.size])
    sides = whole[:, 2:] - whole[:, :2]
    small = ~(sides >= MIN_SIDE).all(axis=1)  # also NaN
    if small.any():
        row = int(np.flatnonzero(small)[0])
        raise ImageError(f"box {row} of {name}", _too_small(given[row], sides[row], frame.size))
    return [frame.crop(tuple(box)) for box in whole.astype(int).tolist()]


def _check_unit(boxes: NDArray[np.float64], box_format: str) -> None:
    relative = box_format.endswith("n")
    largest = np.nanmax(np.abs(boxes), initial=0)
    if not relative and largest <= _LARGEST_RELATIVE:
        raise UsageError(
            f"No number of the boxes is above {_LARGEST_RELATIVE:g}, so they look relative to the "
            f"frame, not in pixels; say box_format='{box_format}n' if they are."
        )
    if relative and largest > _LARGEST_RELATIVE:
        raise UsageError(
            f"The boxes hold {largest:g}, so they look like pixels, not relative to the frame; "
            f"say box_format='{box_format.removesuffix('n')}' if they are."
        )


def _corners(
    boxes: NDArray[np.float64], box_format: str, size: tuple[int, int]
) -> NDArray[np.float64]:
    first, second = boxes[:, :2], boxes[:, 2:]
    if not box_format.startswith("xyxy"):
        first = first - second / 2 if box_format.startswith("cxcy") else first
        second = first + second
    corners = np.hstack([first, second])
    return corners * [*size, *size] if box_format.endswith("n") else corners


def _too_small(box: NDArray[np.float64], sides: NDArray[np.float64], size: tuple[int, int]) -> str:
    shown = ", ".join(f"{number:g}" for number in box.tolist())
    frame = f"a frame of {size[0]} x {size[1]}"
    if (sides >= 1).all():
        width, height = sides.astype(int).tolist()
        return (
            f"({shown}) has {width} x {height} pixels in {frame}; a crop needs at least "
            f"{MIN_SIDE} on each side"
        )
    hint = ""
    if box[2] <= box[0] or box[3] <= box[1]:
        hint = "; if it is left, top, width and height, say box_format='xywh'"
    return f"({shown}) has no pixel in {frame}{hint}"
