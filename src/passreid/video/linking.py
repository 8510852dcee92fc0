"""Give one name to one person seen by several cameras, or several times by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from passreid.errors import CalibrationError, UsageError
from passreid.openset import Calibration, cut

F32 = NDArray[np.float32]

MOST = 5_000
"""Tracklets linked at once: all pairs are compared, in 100 MB."""


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """What linking needs of a tracklet.

    Attributes:
        camera: Its name.
        start, end: Seconds on a clock that all cameras share.
    """

    camera: str
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Travel:
    """How fast people get from camera to camera.

    Attributes:
        seconds: Shortest time between two cameras, by their names in either order.
        default: For pairs that are not named.
        overlapping: Whether cameras may see a person at the same time. With False nobody is in two
            places at once.
    """

    seconds: Mapping[tuple[str, str], float] = field(default_factory=dict)
    default: float = 0.0
    overlapping: bool = False

    def between(self, one: str, other: str) -> float:
        """Return the shortest time between two cameras; 0 within one."""
        if one == other:
            return 0.0
        return self.seconds.get((one, other), self.seconds.get((other, one), self.default))


def threshold_for(calibration: Calibration | None, count: int) -> float:
    """Return the cosine from which two of `count` tracklets are taken for one person.

    All pairs are compared, so the false match rate is chosen for count * (count - 1) / 2 of them:
    fewer than 0.05 false links are expected. Where the calibration is the model's, not one of the
    cameras at hand, it is the smallest rate that the calibration supports: elsewhere more strangers
    are as alike than it says.

    Raises:
        CalibrationError: The model is not calibrated.
    """
    if calibration is None:
        raise CalibrationError(
            "Linking needs a calibrated model: run passreid calibrate on your crops."
        )
    strict = calibration.threshold_at(calibration.smallest_fmr)
    if calibration.origin == "model":
        return strict
    return min(strict, cut(calibration, max(1, count * (count - 1) // 2)).threshold)


def link(
    embeddings: F32,
    sightings: Sequence[Sighting],
    *,
    threshold: float,
    travel: Travel = Travel(),
) -> NDArray[np.int64]:
    """Group tracklets into people by complete linkage, with pairs that cannot be one person.

    The two most similar groups are joined, again and again, while every pair of their tracklets is
    at or above the threshold and possible. One false pair then cannot join two large groups, as it
    does with average linkage.

    Args:
        embeddings: (N, D), one row for each tracklet, unit length.
        sightings: Of each tracklet.
        threshold: Of the cosine (`threshold_for`).
        travel: Which pairs are impossible.

    Returns:
        (N,) person numbers from 0, in the order of the first tracklet of each.

    Raises:
        UsageError: There are too many tracklets, or not one sighting for each.
    """
    count = len(embeddings)
    if count > MOST or count != len(sightings):
        raise UsageError(
            f"{count} embeddings and {len(sightings)} sightings; link at most {MOST:,} tracklets, "
            "one sighting each."
        )
    if not count:
        return np.empty(0, np.int64)
    least = (embeddings @ embeddings.T).astype(np.float32)  # between groups: of all their pairs
    least[impossible(sightings, travel)] = -np.inf
    np.fill_diagonal(least, -np.inf)
    person = np.arange(count)
    best = least.argmax(axis=1)
    while True:
        values = least[np.arange(count), best]
        one = int(values.argmax())
        if values[one] < threshold:
            break
        other = int(best[one])
        least[one] = least[:, one] = np.minimum(least[one], least[other])
        least[one, one] = -np.inf
        least[other] = least[:, other] = -np.inf
        person[person == other] = one
        stale = np.union1d(np.flatnonzero((best == one) | (best == other)), [one])
        best[stale] = least[stale].argmax(axis=1)
    _, first, inverse = np.unique(person, return_index=True, return_inverse=True)
    numbers: NDArray[np.int64] = np.argsort(np.argsort(first))[inverse]
    return numbers


def impossible(sightings: Sequence[Sighting], travel: Travel) -> NDArray[np.bool_]:
    """Return (N, N) True where two tracklets cannot be one person.

    One camera cannot see a person twice at a time, and nobody gets from one camera to another
    faster than `travel` says.
    """
    start = np.array([seen.start for seen in sightings])
    end = np.array([seen.end for seen in sightings])
    names, camera = np.unique([seen.camera for seen in sightings], return_inverse=True)
    least = np.array([[travel.between(str(a), str(b)) for b in names] for a in names])
    gap = np.maximum(start[:, None] - end[None], start[None] - end[:, None])
    same = camera[:, None] == camera[None]
    too_soon = gap < least[camera[:, None], camera[None]]
    overlap = gap < 0
    wrong: NDArray[np.bool_] = np.where(same, overlap, too_soon | overlap)
    if travel.overlapping:
        wrong = same & overlap
    return wrong
