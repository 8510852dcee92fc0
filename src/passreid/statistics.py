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
    """Error rates of open-set identification, each query searched with and without its person.

    Attributes:
        tpir: FPIR -> share of mated searches (person in the gallery) whose first hit is right and
            reaches the threshold. FPIRs that too few searches can measure are missing.
        thresholds: FPIR -> the smallest similarity at which non-mated searches keep that FPIR.
        searches, people: Numbers of queries and of the people they show.
        fpir, fnir, cosines: DET curve by rising threshold.
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
        rank: (Q,) rank of that picture, from 1.
        non_mated: (Q,) highest similarity of anybody else.
        pids: (Q,) person of each query.
        rates: FPIRs to report TPIR at.
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
    """Compute the mean over queries, (Q,), with its 95 % interval by resampling people."""
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
    """Compute the mean of a - b over the same queries, (Q,), resampling people in pairs."""
    return mean_interval(np.asarray(a, np.float64) - np.asarray(b, np.float64), pids)


def _det_thresholds(ordered: F64) -> F64:
    """Thresholds at which FPIR falls in equal ratios from 1 to one search."""
    kept = np.unique(np.geomspace(1, len(ordered), _DET_POINTS).round().astype(np.int64))[::-1]
    return np.asarray(ordered[len(ordered) - kept])
