"""Error rates of open-set searches, and bootstrap intervals over people.

    identification(mated, rank, non_mated, pids)   -> Identification   TPIR at FPIR, DET curve
    mean_interval(values, pids)                    -> Interval         of a mean over queries
    difference_interval(a, b, pids)                -> Interval         of two networks, paired

Terms are those of ISO/IEC 19795-1. Queries of one person are alike, so intervals resample people,
not queries (percentile bootstrap, Efron & Tibshirani 1993); the gallery stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from passreid.errors import UsageError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

FPIR = (0.01, 0.05, 0.1)
"""False positive identification rates that TPIR is reported at."""
DRAWS = 2000
# Fewer expected false positives cannot tell a rate from zero (the rule of three).
_EXPECTED = 3
_DET_POINTS = 60


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Identification:
    """How often an open-set search finds its person, and how often it raises a false alarm.

    Attributes:
        tpir: FPIR -> share of mated searches whose first hit is the right person and reaches the
            threshold; rates that so few non-mated searches cannot measure are missing.
        thresholds: FPIR -> the smallest similarity at which no more non-mated searches return
            anything.
        searches, people: How many queries of how many people were searched, each once with their
            person in the gallery (mated) and once without (non-mated).
        fpir, fnir, cosines: DET curve, loosest threshold first.
    """

    tpir: dict[float, Interval]
    thresholds: dict[float, float]
    searches: int
    people: int
    fpir: F64
    fnir: F64
    cosines: F64


def identification(
    mated: ArrayLike,
    rank: ArrayLike,
    non_mated: ArrayLike,
    pids: ArrayLike,
    *,
    rates: tuple[float, ...] = FPIR,
) -> Identification:
    """Measure open-set identification by leaving each query's person out of the gallery in turn.

    Args:
        mated: (Q,) highest similarity of the query's own person in the gallery.
        rank: (Q,) place of that picture, from 1.
        non_mated: (Q,) highest similarity of anybody else: the best hit of a search for a person
            who is absent.
        pids: (Q,) whom each query shows.
        rates: FPIR to report TPIR at.

    Raises:
        UsageError: No search, or arrays of several lengths.
    """
    best, place, stranger = (np.asarray(v, np.float64) for v in (mated, rank, non_mated))
    people = np.asarray(pids)
    if not len(best) or len({len(best), len(place), len(stranger), len(people)}) != 1:
        raise UsageError("identification needs one mated, rank, non_mated and pid for each search.")
    # A mate that is not the first hit is found at no threshold.
    found = np.where(place == 1, best, -np.inf)
    tpir, thresholds = {}, {}
    ordered = np.sort(stranger)
    for rate in rates:
        if rate * len(ordered) < _EXPECTED:
            continue
        allowed = int(rate * len(ordered) + 1e-9)
        # The next float above the first search that must stay silent.
        threshold = float(np.nextafter(ordered[len(ordered) - 1 - allowed], np.inf))
        thresholds[rate] = threshold
        tpir[rate] = mean_interval(found >= threshold, people)
    at = _det_thresholds(ordered)
    mates = np.sort(found)
    return Identification(
        tpir=tpir,
        thresholds=thresholds,
        searches=len(best),
        people=len(np.unique(people)),
        fpir=(len(ordered) - np.searchsorted(ordered, at, side="left")) / len(ordered),
        fnir=np.searchsorted(mates, at, side="left") / len(mates),
        cosines=at,
    )


def mean_interval(
    values: ArrayLike, pids: ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Mean over queries with its 95 % interval over people.

    Args:
        values: (Q,) a figure of each query, such as its average precision.
        pids: (Q,) whom each query shows.
        draws, seed: Resamples of people.
    """
    each = np.asarray(values, np.float64)
    _, person = np.unique(np.asarray(pids), return_inverse=True)
    sums, sizes = np.bincount(person, each), np.bincount(person)
    people = len(sizes)
    rng = np.random.default_rng(seed)
    # How often each person is drawn, draw by draw.
    counts = rng.multinomial(people, np.full(people, 1 / people), size=draws)
    low, high = np.quantile((counts @ sums) / (counts @ sizes), [0.025, 0.975])
    return Interval(float(each.mean()), float(low), float(high))


def difference_interval(a: ArrayLike, b: ArrayLike, pids: ArrayLike) -> Interval:
    """Mean of a - b over the same queries, paired: both sides of a draw hold the same people.

    Args:
        a, b: (Q,) a figure of each query by two networks.
        pids: (Q,) whom each query shows.
    """
    return mean_interval(np.asarray(a, np.float64) - np.asarray(b, np.float64), pids)


def _det_thresholds(ordered: F64) -> F64:
    """Thresholds at which FPIR falls in equal ratios from 1 to one search."""
    kept = np.unique(np.geomspace(1, len(ordered), _DET_POINTS).round().astype(np.int64))[::-1]
    return np.asarray(ordered[len(ordered) - kept])
