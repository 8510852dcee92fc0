"""Boxes as detectors and files give them: checked, clipped, and read from MOT, COCO and CSV."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from passreid.errors import VideoError

F64 = NDArray[np.float64]

MIN_SIDE = 4
"""Pixels; a smaller crop cannot show a person."""


class Detections(NamedTuple):
    """What was found in one frame.

    Attributes:
        boxes: (N, 4) float64 left, top, right, bottom in pixels.
        scores: (N,) float64 confidences, 0 to 1.
        tracks: (N,) int64 track numbers where the source has them, or None.
    """

    boxes: F64
    scores: F64
    tracks: NDArray[np.int64] | None = None


NOTHING = Detections(np.empty((0, 4)), np.empty(0))


def clean_boxes(boxes: ArrayLike, size: tuple[int, int]) -> tuple[F64, NDArray[np.bool_]]:
    """Clip boxes to their frame and tell which of them hold a crop.

    Trackers hand over boxes that left the frame, are inverted, empty or not finite; one of those
    must not end a stream.

    Args:
        boxes: (N, 4) or wider; the first four columns are left, top, right, bottom in pixels.
        size: Width and height of the frame.

    Returns:
        (N, 4) whole pixels inside the frame (zeros where unusable), and (N,) whether usable.
    """
    given = np.asarray(boxes, np.float64)
    given = given.reshape(len(given), -1)[:, :4] if given.size else np.empty((0, 4))
    finite = np.asarray(np.isfinite(given).all(axis=1))
    whole: F64 = np.clip(np.round(np.where(finite.reshape(-1, 1), given, 0)), 0, [*size, *size])
    sides = whole[:, 2:] - whole[:, :2]
    usable: NDArray[np.bool_] = np.asarray(finite & (sides >= MIN_SIDE).all(axis=1))
    return np.where(usable[:, None], whole, 0), usable


def read_boxes(path: Path) -> dict[int, Detections]:
    """Read detections from a file: frame number (from 0) -> boxes.

    Args:
        path: MOTChallenge text (`frame,id,left,top,width,height,score`, frames from 1), COCO JSON
            (frames in the order of its images), or CSV with the columns frame (from 0), left, top,
            right, bottom and, where known, score and track.

    Raises:
        VideoError: The file is missing or is none of these; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise VideoError(f"{path}: cannot be read as a list of boxes ({error}).") from None
    try:
        if text.lstrip().startswith("{"):
            rows = _coco(json.loads(text))
        elif text[:1].isalpha():
            rows = _table(csv.DictReader(text.splitlines()))
        else:
            rows = _mot(text)
        return _by_frame(rows)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise VideoError(
            f"{path}: {error} does not fit MOT text, COCO JSON or CSV with the columns frame, "
            "left, top, right, bottom."
        ) from None


Row = tuple[int, list[float], float, int]


def _mot(text: str) -> Iterable[Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            values = [float(value) for value in line.split(",")]
            if len(values) < 6:
                raise ValueError(f"line {number} ({line[:40]!r})")
            frame, track, left, top, width, height = values[:6]
            score = values[6] if len(values) > 6 else 1.0
            yield int(frame) - 1, [left, top, left + width, top + height], score, int(track)


def _table(rows: csv.DictReader[str]) -> Iterable[Row]:
    if missing := {"frame", "left", "top", "right", "bottom"} - set(rows.fieldnames or ()):
        raise ValueError(f"a table without the column {min(missing)!r}")
    for row in rows:
        corners = [float(row[name]) for name in ("left", "top", "right", "bottom")]
        yield int(row["frame"]), corners, float(row.get("score") or 1), int(row.get("track") or -1)


def _coco(document: Any) -> Iterable[Row]:
    order = {image["id"]: index for index, image in enumerate(document["images"])}
    for found in document["annotations"]:
        left, top, width, height = map(float, found["bbox"])
        corners = [left, top, left + width, top + height]
        score, track = float(found.get("score", 1)), int(found.get("track_id", -1))
        yield order[found["image_id"]], corners, score, track


def _by_frame(rows: Iterable[Row]) -> dict[int, Detections]:
    frames: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        frames[row[0]].append(row)
    return {
        frame: Detections(
            np.array([row[1] for row in found]),
            np.array([row[2] for row in found]),
            np.array([row[3] for row in found]) if all(row[3] >= 0 for row in found) else None,
        )
        for frame, found in frames.items()
    }
