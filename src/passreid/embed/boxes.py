"""Boxes of a detector as whole pixels of the frame they lie in."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from passreid.errors import ImageError, UsageError


def round_boxes(xyxy: ArrayLike, size: tuple[int, int], name: str) -> NDArray[np.int64]:
    """Round boxes to whole pixels, and clip them to their frame.

    Args:
        xyxy: (N, 4) left, top, right, bottom in pixels.
        size: Width and height of the frame.
        name: Of the frame, for errors.

    Returns:
        (N, 4), each box of at least one pixel.

    Raises:
        UsageError: `xyxy` is not (N, 4) numbers.
        ImageError: A box has no pixel in the frame.
    """
    try:
        boxes = np.asarray(xyxy, np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"xyxy must be (N, 4) numbers, a box a row ({error}).") from None
    if not boxes.size:
        return np.empty((0, 4), np.int64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UsageError(f"xyxy must be (N, 4), a box a row, not of shape {boxes.shape}.")
    whole = np.clip(np.round(boxes), 0, [*size, *size])
    empty = ~((whole[:, 2:] - whole[:, :2]) >= 1).all(axis=1)
    if empty.any():
        row = int(np.flatnonzero(empty)[0])
        left, top, right, bottom = boxes[row].tolist()
        raise ImageError(
            f"box {row} of {name}",
            f"({left:g}, {top:g}, {right:g}, {bottom:g}) has no pixel in a frame of "
            f"{size[0]} x {size[1]}",
        )
    return whole.astype(np.int64)
