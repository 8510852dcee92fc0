"""Fit a `Calibration`: what a model's cosines mean, from every usable pair of a labelled set."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from passreid.errors import CalibrationError, DatasetError
from passreid.similarity import FEWEST_ROWS, unit_rows
from passreid.verify import Calibration, OperatingPoint

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

UNKNOWN_CAMERA = -1
RATES = (1e-2, 1e-3, 1e-4)
# A rate is measured when so many false accepts are expected; with fewer, the threshold is chance.
_EXPECTED_ACCEPTS = 10
# Cosines are counted in bins of 2 / 262144 = 7.6e-6, the resolution of every threshold: features
# before the neck share a large mean, so all of their cosines may lie within a hundredth of 1.
_BINS = 2**18
_EDGES: F64 = np.linspace(-1, 1, _BINS + 1)
_CENTRES: F64 = (_EDGES[:-1] + _EDGES[1:]) / 2
_BLOCK = 2**22


def fit_calibration(
    embeddings: ArrayLike,
    pids: ArrayLike,
    *,
    camids: ArrayLike | None = None,
    data: str,
    flip: bool = False,
    rates: tuple[float, ...] = RATES,
) -> Calibration:
    """Fit probability and thresholds on every usable pair of a labelled set.

    Same-person pairs have one positive pid and two cameras (or a camera that is unknown): two crops
    of one camera are mostly neighbouring frames, which would flatter the model. Different-person
    pairs have two pids; pid 0 and below are people nobody named, so they pair with named ones only.
    The logistic is the maximum of the likelihood with both kinds weighted alike and Platt's
    smoothed targets (Platt 1999), which keep it finite where no pair is on the wrong side.

    Args:
        embeddings: (N, D), normalised or not.
        pids: (N,) integers.
        camids: (N,) integers, -1 for unknown; None means all unknown.
        data: Name of the set, for people.
        flip: How the embeddings were made.
        rates: False-accept rates to find thresholds for, loosest first. A rate is left out where
            the pairs cannot support it: fewer than 10 false accepts are expected, or so many pairs
            share one cosine that no threshold comes within half of the rate.

    Raises:
        EmbeddingError: Embeddings that are not (N, D) finite numbers.
        DatasetError: Labels of other lengths.
        CalibrationError: No pair of one kind, or same-person pairs are no more alike than others.
    """
    rows = unit_rows(embeddings, "embeddings")
    people = np.maximum(_labels("pids", pids, len(rows)), 0)  # nobody named: all alike
    cameras = _labels(
        "camids", np.full(len(rows), UNKNOWN_CAMERA) if camids is None else camids, len(rows)
    )
    different, same = _count_pairs(rows, people, cameras)
    if not same.sum() or not different.sum():
        kind = "one person by two cameras" if not same.sum() else "two different people"
        raise CalibrationError(f"{data} has no pair of {kind}, so nothing can be calibrated.")
    slope, intercept = _fit_logistic(same, different)
    if slope <= 0:
        raise CalibrationError(
            f"On {data} crops of one person are no more alike than those of different people: "
            "this model does not fit these images, or their labels are wrong."
        )
    accepts, true_accepts = _tail(different), _tail(same)
    gap = np.abs(accepts - (1 - true_accepts))
    nearest = np.flatnonzero(gap == gap.min())
    equal = nearest[len(nearest) // 2]
    return Calibration(
        slope=slope,
        intercept=intercept,
        points=tuple(_points(accepts, true_accepts, rates, int(different.sum()))),
        equal_error_rate=float(accepts[equal] + 1 - true_accepts[equal]) / 2,
        equal_error_threshold=float(_EDGES[equal]),
        same_pairs=int(same.sum()),
        different_pairs=int(different.sum()),
        data=data,
        flip=flip,
    )


def _labels(name: str, values: ArrayLike, length: int) -> I64:
    array = np.asarray(values)
    if array.shape != (length,) or array.dtype.kind not in "iu":
        raise DatasetError(f"{name} must be {length} integers, one for each embedding.")
    return array.astype(np.int64)


def _count_pairs(rows: NDArray[np.float32], people: I64, cameras: I64) -> tuple[I64, I64]:
    """Histograms (_BINS,) of the cosines of different-person and of same-person pairs i < j."""
    every, alike, same = np.zeros((3, _BINS), np.int64)
    step = max(FEWEST_ROWS, _BLOCK // len(rows))
    for start in range(0, len(rows), step):
        place = _places(rows[start : start + step], rows[start:])
        every += np.bincount(place.ravel(), minlength=_BINS + 1)[:-1]
        i, j = np.nonzero(people[start : start + step, None] == people[start:])
        counted = place[i, j]
        alike += np.bincount(counted, minlength=_BINS + 1)[:-1]
        one, other = cameras[start + i], cameras[start + j]
        usable = (people[start + i] > 0) & ((one != other) | (one == UNKNOWN_CAMERA))
        same += np.bincount(counted[usable], minlength=_BINS + 1)[:-1]
    return every - alike, same


def _places(rows: NDArray[np.float32], columns: NDArray[np.float32]) -> I64:
    """The bin of every pair; _BINS, which is no bin, below and on the diagonal."""
    scaled = rows @ columns.T
    scaled += 1
    scaled *= _BINS // 2
    np.clip(scaled, 0, _BINS - 1, out=scaled)
    places: I64 = scaled.astype(np.int64)
    places[np.tril_indices(len(rows))] = _BINS
    return places


def _tail(counts: I64) -> F64:
    """Share of pairs at or above each of the _BINS + 1 edges."""
    above = np.append(counts[::-1].cumsum()[::-1], 0)
    return np.asarray(above / counts.sum())


def _points(
    accepts: F64, true_accepts: F64, rates: tuple[float, ...], pairs: int
) -> Iterator[OperatingPoint]:
    for rate in rates:
        edge = int(np.argmax(accepts <= rate))
        # Where many pairs share one cosine, as copies under two names do, no threshold has a rate
        # near the asked one: at 1 none is counted, and yet each of those pairs would be accepted.
        if rate * pairs < _EXPECTED_ACCEPTS or accepts[edge] < rate / 2:
            continue
        yield OperatingPoint(
            false_accept_rate=rate,
            threshold=float(_EDGES[edge]),
            true_accept_rate=float(true_accepts[edge]),
        )


def _fit_logistic(same: I64, different: I64) -> tuple[float, float]:
    """Newton's method with step halving on the class-balanced, smoothed log loss (convex)."""
    used = np.flatnonzero(same + different)
    positive, negative = same[used] / same.sum(), different[used] / different.sum()
    weight = positive + negative
    target = positive * (same.sum() + 1) / (same.sum() + 2) + negative / (different.sum() + 2)
    centre = np.average(_CENTRES[used], weights=weight)
    spread = np.sqrt(np.average((_CENTRES[used] - centre) ** 2, weights=weight)) or 1.0
    inputs = np.stack([(_CENTRES[used] - centre) / spread, np.ones(len(used))])

    def loss(at: F64) -> float:
        logit = at @ inputs
        return float(weight @ np.logaddexp(0, logit) - target @ logit)

    at: F64 = np.zeros(2)
    for _ in range(100):
        chance = np.exp(-np.logaddexp(0, -(at @ inputs)))
        gradient = inputs @ (weight * chance - target)
        curvature = (inputs * (weight * chance * (1 - chance))) @ inputs.T
        move = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient)
        while loss(at - move) > loss(at) and np.abs(move).max() > 1e-12:
            move = move / 2
        at = at - move
        if np.abs(move).max() < 1e-10:
            break
    slope, intercept = at[0] / spread, at[1] - at[0] * centre / spread
    return float(slope), float(intercept)
