"""Open-set rates and bootstrap intervals against slow versions written from their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passreid.errors import UsageError
from passreid.statistics import (
    DRAWS,
    FPIR,
    difference_interval,
    identification,
    mean_interval,
)


def searches(count: int = 400, people: int = 40, seed: int = 0) -> tuple[npt.NDArray[Any], ...]:
    """Best mate, its rank, best stranger and pid of each search."""
    rng = np.random.default_rng(seed)
    mated, stranger = rng.normal(0.7, 0.15, count), rng.normal(0.5, 0.1, count)
    rank = np.where(mated > stranger, 1, 2)
    return mated, rank, stranger, rng.integers(0, people, count)


def slow_fpir(stranger: npt.NDArray[Any], threshold: float) -> float:
    """Share of searches for an absent person that return anybody."""
    return float(sum(best >= threshold for best in stranger) / len(stranger))


def slow_tpir(mated: npt.NDArray[Any], rank: npt.NDArray[Any], at: float) -> float:
    """Share of searches whose first hit is the right person and reaches the threshold."""
    return float(sum(r == 1 and m >= at for m, r in zip(mated, rank, strict=True)) / len(mated))


def slow_interval(values: npt.NDArray[Any], pids: npt.NDArray[Any]) -> list[float]:
    """Draw people one by one, gather all of their queries, average."""
    rng = np.random.default_rng(1)
    groups = [values[pids == pid] for pid in np.unique(pids)]
    means = []
    for _ in range(DRAWS):
        drawn = [groups[i] for i in rng.integers(0, len(groups), len(groups))]
        means.append(np.concatenate(drawn).mean())
    return [float(q) for q in np.quantile(means, [0.025, 0.975])]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(60, 400))
def test_thresholds_keep_their_fpir_and_give_that_tpir(seed: int, count: int) -> None:
    mated, rank, stranger, pids = searches(count, seed=seed)
    stranger = stranger.round(2)  # ties
    found = identification(mated, rank, stranger, pids)
    assert set(found.tpir) == {rate for rate in FPIR if rate * count >= 3}
    for rate, threshold in found.thresholds.items():
        assert slow_fpir(stranger, threshold) <= rate
        assert slow_fpir(stranger, threshold - 0.011) > rate  # no looser threshold would do
        assert found.tpir[rate].value == pytest.approx(slow_tpir(mated, rank, threshold))


def test_the_det_curve_is_that_of_the_definition() -> None:
    mated, rank, stranger, pids = searches()
    found = identification(mated, rank, stranger, pids)
    for fpir, fnir, at in zip(found.fpir, found.fnir, found.cosines, strict=True):
        assert fpir == pytest.approx(slow_fpir(stranger, at))
        assert fnir == pytest.approx(1 - slow_tpir(mated, rank, at))
    assert found.fpir[0] == 1
    assert found.fpir[-1] == 1 / len(stranger)
    assert (np.diff(found.fpir) < 0).all() and (np.diff(found.fnir) >= 0).all()
    assert (found.searches, found.people) == (400, len(np.unique(pids)))


def test_a_mate_behind_a_stranger_is_missed_at_every_threshold() -> None:
    mated, stranger = np.full(100, 0.9), np.linspace(0, 0.5, 100)
    rank = np.repeat([1, 2], 50)
    found = identification(mated, rank, stranger, np.arange(100))
    assert found.tpir[0.1].value == 0.5
    assert found.fnir.max() == 0.5


def test_rates_that_few_searches_cannot_measure_are_left_out() -> None:
    mated, rank, stranger, pids = searches(59)
    assert set(identification(mated, rank, stranger, pids).tpir) == {0.1}
    assert set(identification(*(v[:29] for v in (mated, rank, stranger, pids))).tpir) == set()


def test_searches_of_unequal_lengths_are_refused() -> None:
    with pytest.raises(UsageError, match="for each search"):
        identification([0.1], [1, 2], [0.1], [1])
    with pytest.raises(UsageError, match="for each search"):
        identification([], [], [], [])


def test_intervals_resample_people_and_not_queries() -> None:
    rng = np.random.default_rng(3)
    pids = rng.integers(0, 30, 600)
    values = rng.normal(size=30)[pids] + 0.1 * rng.normal(size=600)  # people differ, queries do not
    found = mean_interval(values, pids)
    assert found.value == pytest.approx(values.mean())
    low, high = slow_interval(values, pids)
    assert found[1:] == pytest.approx((low, high), abs=0.05)
    by_query = 1.96 * values.std() / np.sqrt(len(values))
    assert found.high - found.low > 6 * by_query


def test_a_paired_difference_is_narrower_than_the_networks_apart() -> None:
    rng = np.random.default_rng(4)
    pids = rng.integers(0, 50, 500)
    a = rng.normal(size=50)[pids]
    b = a - 0.1 + 0.01 * rng.normal(size=500)
    found = difference_interval(a, b, pids)
    assert found.low > 0.09 and found.high < 0.11
    apart = mean_interval(a, pids)
    assert apart.high - apart.low > 10 * (found.high - found.low)


def test_intervals_are_the_same_every_time() -> None:
    _, _, values, pids = searches()
    assert mean_interval(values, pids) == mean_interval(values, pids)
