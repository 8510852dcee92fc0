"""Fit a `Calibration`: what a model's cosines mean, from every usable pair of a set of crops.

fit_calibration(embeddings, pids, data=…)   with identities: FMR, FNMR and probability
fit_unlabelled(embeddings, data=…)          without: FMR alone
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from passreid.errors import CalibrationError, DatasetError
from passreid.openset import Calibration, Curve, OperatingPoint
from passreid.similarity import FEWEST_ROWS, unit_rows

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

UNKNOWN_CAMERA = -1
RATES = (1e-2, 1e-3, 1e-4)
# A rate is measured when so many false accepts are expected; with fewer, the threshold is chance.
_EXPECTED_ACCEPTS = 10
# Pictures of two people are alike all together, so the curve ends where fewer pairs of people than
# this reach a threshold, however many pairs of pictures do.
_FEWEST_PEOPLE_PAIRS = 10
_PER_DECADE = 10
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
    places: ArrayLike | None = None,
    data: str,
    flip: bool = False,
    rates: tuple[float, ...] = RATES,
) -> Calibration:
    """Fit probability, thresholds and error rates on all usable pairs of a labelled set.

    Genuine pairs share a positive pid and differ in camera (or one is unknown): crops of one camera
    are mostly neighbouring frames, which would flatter the model. Impostor pairs differ in pid; pid
    0 and below is unidentified, so it pairs only with identified people. The logistic regression
    weights both classes equally and smooths targets (Platt 1999), which keeps it finite.

    Args:
        embeddings: (N, D), normalised or not.
        pids: (N,) integers.
        camids: (N,) integers, -1 for unknown; None means all unknown.
        places: (N,) integers; pairs across places do not count. None means one place.
        data: Name of the set.
        flip: Whether embeddings were averaged with those of the mirrored crops.
        rates: FMRs to find thresholds for, in falling order. A rate is left out if fewer than 10
            false matches are expected, or if ties at one cosine leave no threshold within half of
            the rate.

    Raises:
        CalibrationError: One kind of pair is missing, or genuine pairs are no more alike than
            impostor pairs.
    """
    rows = unit_rows(embeddings, "embeddings")
    people = np.maximum(_labels("pids", pids, len(rows)), 0)  # nobody named: all alike
    where = _labels("places", np.zeros(len(rows), int) if places is None else places, len(rows))
    pairs = _count_pairs(rows, people, _cameras(camids, len(rows)), where)
    same, different = pairs.genuine, pairs.impostor
    if not same.sum() or not different.sum():
        kind = "one person by two cameras" if not same.sum() else "two different people"
        raise CalibrationError(f"{data} has no pair of {kind}, so nothing can be calibrated.")
    slope, intercept = _fit_logistic(same, different)
    if slope <= 0:
        raise CalibrationError(
            f"On {data} crops of one person are no more alike than those of different people: "
            "this model does not fit these images, or their labels are wrong."
        )
    fmr, tmr = _tail(different), _tail(same)
    equal = _equal_error(fmr, tmr)
    return Calibration(
        slope=slope,
        intercept=intercept,
        points=tuple(_points(fmr, tmr, rates, int(different.sum()))),
        equal_error_rate=float(fmr[equal] + 1 - tmr[equal]) / 2,
        equal_error_threshold=float(_EDGES[equal]),
        same_pairs=int(same.sum()),
        different_pairs=int(different.sum()),
        data=data,
        flip=flip,
        curve=_curve(fmr, tmr, last=pairs.supported),
    )


def fit_unlabelled(
    embeddings: ArrayLike,
    *,
    camids: ArrayLike | None = None,
    people: int | None = None,
    data: str,
    flip: bool = False,
    rates: tuple[float, ...] = RATES,
) -> Calibration:
    """Fit thresholds at false match rates on crops without identities.

    Every pair counts as an impostor pair; of crops with known cameras only pairs across two
    cameras do, as searches compare those. With P people seen equally often one pair in P is
    genuine. Genuine pairs can only raise the share of pairs above a threshold, so a threshold
    promised for an FMR of f has an FMR of at most f, and of at least (f - 1 / P) / (1 - 1 / P).

    Args:
        embeddings: (N, D), normalised or not.
        camids: (N,) integers, -1 for unknown; None means all unknown.
        people: P, about how many people the crops show, for the lower end and the number of
            independent pairs, P (P - 1) / 2; None leaves the lower end open.
        data: Name of the crops, for people.
        flip: How the embeddings were made.
        rates: FMRs to find thresholds for, loosest first. A rate is left out where fewer than 10
            of the independent pairs are expected to reach its threshold.

    Raises:
        EmbeddingError: Embeddings that are not (N, D) finite numbers.
        DatasetError: Cameras of another length.
        CalibrationError: No usable pair, or fewer than two people.
    """
    rows = unit_rows(embeddings, "embeddings")
    cameras = _cameras(camids, len(rows))
    if people is not None and people < 2:
        raise CalibrationError(f"Crops of {people} people have no impostor pair.")
    several = len(np.unique(cameras[cameras != UNKNOWN_CAMERA])) > 1
    counts = np.zeros(_BINS + 1, np.int64)
    step = max(FEWEST_ROWS, _BLOCK // len(rows))
    for start in range(0, len(rows), step):
        place = _bins(rows[start : start + step], rows[start:])
        if several:
            one, other = cameras[start : start + step, None], cameras[start:]
            place[(one == other) | (one == UNKNOWN_CAMERA) | (other == UNKNOWN_CAMERA)] = 0
        counts += np.bincount(place.ravel(), minlength=_BINS + 1)
    pairs = int(counts[1:].sum())
    independent = pairs if people is None else min(pairs, people * (people - 1) // 2)
    if independent < _EXPECTED_ACCEPTS:
        raise CalibrationError(f"{data} has {independent} independent pairs: give more crops.")
    fmr = _tail(counts[1:])
    last = int(np.flatnonzero(fmr * independent >= _EXPECTED_ACCEPTS)[-1])
    return Calibration(
        points=tuple(_points(fmr, None, rates, independent)),
        different_pairs=pairs,
        data=data,
        flip=flip,
        curve=_curve(fmr, None, last=last),
        contamination=None if people is None else 1 / people,
    )


@dataclass(frozen=True)
class _Pairs:
    """Histograms (_BINS,) of cosines, and the last edge that enough pairs of people reach."""

    impostor: I64
    genuine: I64
    supported: int


def _cameras(camids: ArrayLike | None, length: int) -> I64:
    unknown = np.full(length, UNKNOWN_CAMERA)
    return _labels("camids", unknown if camids is None else camids, length)


def _labels(name: str, values: ArrayLike, length: int) -> I64:
    array = np.asarray(values)
    if array.shape != (length,) or array.dtype.kind not in "iu":
        raise DatasetError(f"{name} must be {length} integers, one for each embedding.")
    return array.astype(np.int64)


def _count_pairs(rows: NDArray[np.float32], people: I64, cameras: I64, places: I64) -> _Pairs:
    """Count the cosines of impostor and of genuine pairs i < j of one place."""
    order = np.argsort(people, kind="stable")
    rows, people, cameras, places = rows[order], people[order], cameras[order], places[order]
    firsts = np.flatnonzero(np.diff(people, prepend=people[0] - 1))
    # Bins count from 1 here; 0 is no pair.
    every, alike, same = np.zeros((3, _BINS + 1), np.int64)
    closest = np.zeros((len(firsts), len(firsts)), np.int64)  # highest bin of each two people
    step = max(FEWEST_ROWS, _BLOCK // len(rows))
    for start in range(0, len(rows), step):
        stop = min(start + step, len(rows))
        place = _bins(rows[start:stop], rows[start:])
        place[places[start:stop, None] != places[start:]] = 0
        every += np.bincount(place.ravel(), minlength=_BINS + 1)
        i, j = np.nonzero(people[start:stop, None] == people[start:])
        counted = place[i, j]
        alike += np.bincount(counted, minlength=_BINS + 1)
        one, other = cameras[start + i], cameras[start + j]
        usable = (people[start + i] > 0) & ((one != other) | (one == UNKNOWN_CAMERA))
        same += np.bincount(counted[usable], minlength=_BINS + 1)
        place[i, j] = 0
        here = np.searchsorted(firsts, [start, stop - 1], side="right") - 1
        columns = np.maximum.reduceat(place, np.maximum(firsts[here[0] :] - start, 0), axis=1)
        starts = np.maximum(firsts[here[0] : here[1] + 1] - start, 0)
        block = np.maximum.reduceat(columns, starts, axis=0)
        part = closest[here[0] : here[1] + 1, here[0] :]
        np.maximum(part, block, out=part)
    most = np.sort(closest[closest > 0])[::-1]
    supported = most[min(_FEWEST_PEOPLE_PAIRS, len(most)) - 1] - 1 if len(most) else 0
    return _Pairs((every - alike)[1:], same[1:], int(supported))


def _bins(rows: NDArray[np.float32], columns: NDArray[np.float32]) -> I64:
    """The bin of every pair, from 1; 0, which is no bin, below and on the diagonal."""
    scaled = rows @ columns.T
    scaled += 1
    scaled *= _BINS // 2
    np.clip(scaled, 0, _BINS - 1, out=scaled)
    bins: I64 = scaled.astype(np.int64)
    bins += 1
    bins[np.tril_indices(len(rows))] = 0
    return bins


def _tail(counts: I64) -> F64:
    """Share of pairs at or above each of the _BINS + 1 edges."""
    above = np.append(counts[::-1].cumsum()[::-1], 0)
    return np.asarray(above / counts.sum())


def _equal_error(fmr: F64, tmr: F64) -> int:
    """Return the edge where FMR and FNMR are nearest, the middle one of several."""
    gap = np.abs(fmr - (1 - tmr))
    nearest = np.flatnonzero(gap == gap.min())
    return int(nearest[len(nearest) // 2])


def _points(
    fmr: F64, tmr: F64 | None, rates: tuple[float, ...], pairs: int
) -> Iterator[OperatingPoint]:
    for rate in rates:
        edge = int(np.argmax(fmr <= rate))
        # Where many pairs share one cosine, as copies under two names do, no threshold has a rate
        # near the asked one: at 1 none is counted, and yet each of those pairs would be accepted.
        if rate * pairs < _EXPECTED_ACCEPTS or fmr[edge] < rate / 2:
            continue
        yield OperatingPoint(
            false_accept_rate=rate,
            threshold=float(_EDGES[edge]),
            true_accept_rate=None if tmr is None else float(tmr[edge]),
        )


def _curve(fmr: F64, tmr: F64 | None, *, last: int) -> Curve:
    """Thin a curve to ten points for each power of ten, up to the edge `last`."""
    decades = int(np.ceil(-np.log10(max(fmr[last], 1e-12)) * _PER_DECADE))
    wanted = 10.0 ** (-np.arange(decades) / _PER_DECADE)
    # From its end: the last edge that every pair still reaches comes first.
    loosest = int(np.flatnonzero(fmr == 1)[-1])
    edges = np.unique([loosest, *(np.argmax(fmr <= rate) for rate in wanted[1:]), last])
    edges = edges[(edges >= loosest) & (edges <= last)]
    return Curve(
        thresholds=tuple(_EDGES[edges].tolist()),
        fmr=tuple(fmr[edges].tolist()),
        fnmr=() if tmr is None else tuple((1 - tmr[edges]).tolist()),
    )


def _fit_logistic(same: I64, different: I64) -> tuple[float, float]:
    """Minimise the class-balanced, smoothed log loss by Newton's method with step halving."""
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
