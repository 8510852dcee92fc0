"""Boxes of a detector as whole pixels of their frame."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from passreid.errors import ImageError, UsageError

BoxFormat: TypeAlias = Literal["xyxy", "xywh", "cxcywh", "xyxyn", "xywhn", "cxcywhn"]
"""Corners, or a corner or the centre with width and height; "n": relative to the frame, 0 to 1."""

MIN_SIDE = 4
"""Pixels: a smaller crop holds no person, and is how boxes in another unit come out."""

_LARGEST_RELATIVE = 2.0  # detectors reach a little beyond the frame


def pixel_boxes(
    boxes: ArrayLike, size: tuple[int, int], name: str, *, box_format: BoxFormat = "xyxy"
) -> NDArray[np.int64]:
    """Round boxes to whole pixels, and clip them to their frame.

    Args:
        boxes: (N, 4) numbers in the order and unit of `box_format`.
        size: Width and height of the frame.
        name: The frame's, for errors.
        box_format: See `BoxFormat`.

    Returns:
        (N, 4) left, top, right, bottom; each box has at least `MIN_SIDE` pixels on a side.

    Raises:
        UsageError: `boxes` is not (N, 4) numbers, or of another unit than `box_format` says.
        ImageError: Too little of a box is in the frame.
    """
    known = get_args(BoxFormat)
    if box_format not in known:
        raise UsageError(f"box_format is '{box_format}'; use one of {', '.join(known)}.")
    try:
        given = np.asarray(boxes, np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"Boxes must be (N, 4) numbers, one box a row ({error}).") from None
    if not given.size:
        return np.empty((0, 4), np.int64)
    if given.ndim != 2 or given.shape[1] != 4:
        raise UsageError(f"Boxes must be (N, 4), one box a row, not of shape {given.shape}.")
    relative = box_format.endswith("n")
    _check_unit(given, box_format, relative)
    corners = _corners(given, box_format.removesuffix("n"))
    if relative:
        corners = corners * [*size, *size]
    whole = np.clip(np.round(corners), 0, [*size, *size])
    sides = whole[:, 2:] - whole[:, :2]
    small = ~(sides >= MIN_SIDE).all(axis=1)  # NaN, too
    if small.any():
        row = int(np.flatnonzero(small)[0])
        raise ImageError(f"box {row} of {name}", _too_small(given[row], sides[row], size))
    return whole.astype(np.int64)


def _check_unit(boxes: NDArray[np.float64], box_format: str, relative: bool) -> None:
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


def _corners(boxes: NDArray[np.float64], order: str) -> NDArray[np.float64]:
    if order == "xyxy":
        return boxes
    first, sides = boxes[:, :2], boxes[:, 2:]
    if order == "cxcywh":
        first = first - sides / 2
    return np.hstack([first, first + sides])


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
