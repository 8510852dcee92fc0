"""fit_calibration against a slow version that looks at one pair at a time."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import passreid.calibration
from passreid.calibration import fit_calibration, fit_unlabelled
from passreid.errors import CalibrationError, DatasetError, EmbeddingError
from passreid.openset import Calibration

RESOLUTION = 2 / 2**18


def people(
    count: int = 30, crops: int = 8, *, noise: float = 1.0, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return embeddings, pids from 0 (nobody) and camids, some unknown."""
    rng = np.random.default_rng(seed)
    pids = np.repeat(np.arange(count), crops)
    rows = rng.normal(size=(count, 16))[pids] + noise * rng.normal(size=(len(pids), 16))
    return rows.astype(np.float32), pids, rng.integers(-1, 4, len(pids))


def slow_pairs(rows: Any, pids: Any, camids: Any) -> tuple[list[float], list[float]]:
    same, different = [], []
    for i, j in itertools.combinations(range(len(rows)), 2):
        cosine = float(rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j]))
        if pids[i] != pids[j]:
            different.append(cosine)
        elif pids[i] > 0 and (camids[i] != camids[j] or camids[i] == -1):
            same.append(cosine)
    return same, different


def slow_floor(rows: Any, pids: Any) -> float:
    """The cosine that ten pairs of people reach: each pair's two most similar crops, sorted."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    named = np.maximum(pids, 0)
    closest = {
        (a, b): float((unit[named == a] @ unit[named == b].T).max())
        for a, b in itertools.combinations(sorted(set(named.tolist())), 2)
    }
    return sorted(closest.values(), reverse=True)[:10][-1]


def slow_fit(same: list[float], different: list[float]) -> tuple[float, float]:
    """L-BFGS on the pairs themselves, every one with its weight and Platt's target."""
    cosines = torch.tensor(same + different, dtype=torch.float64)
    kinds = torch.tensor([1.0] * len(same) + [0.0] * len(different), dtype=torch.float64)
    target = torch.where(
        kinds == 1, (len(same) + 1) / (len(same) + 2), 1 / (len(different) + 2)
    ).double()
    weight = torch.where(kinds == 1, 1 / len(same), 1 / len(different))
    at = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [at], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Any:
        optimiser.zero_grad()
        logit = at[0] * cosines + at[1]
        each = torch.nn.functional.binary_cross_entropy_with_logits(logit, target, reduction="none")
        loss = (each * weight).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    slope, intercept = at.detach().tolist()
    return slope, intercept


def assert_curves(fitted: Calibration, same: list[float], different: list[float]) -> None:
    """Thresholds within the resolution, and rates as the pairs themselves give them."""
    for point in fitted.points:
        shift = RESOLUTION * 1.01
        assert np.mean([d >= point.threshold + shift for d in different]) <= point.false_accept_rate
        looser = np.mean([d >= point.threshold - shift for d in different])
        assert looser >= point.false_accept_rate - 1 / len(different)
        low, high = (np.mean([s >= point.threshold + d for s in same]) for d in (shift, -shift))
        assert point.true_accept_rate is not None
        assert low <= point.true_accept_rate <= high
    assert fitted.equal_error_threshold is not None
    accepts = np.mean([d >= fitted.equal_error_threshold for d in different])
    rejects = np.mean([s < fitted.equal_error_threshold for s in same])
    tolerance = 2 / min(len(same), len(different))
    assert fitted.equal_error_rate == pytest.approx((accepts + rejects) / 2, abs=tolerance)
    assert accepts == pytest.approx(rejects, abs=2 * tolerance)


def assert_curve(fitted: Calibration, same: list[float], different: list[float]) -> None:
    """FMR and FNMR at each threshold, as the pairs themselves give them, and no large steps."""
    assert fitted.curve is not None
    thresholds, fmr, fnmr = fitted.curve.thresholds, fitted.curve.fmr, fitted.curve.fnmr
    shift = RESOLUTION * 1.01
    for at, false_match, false_non_match in zip(thresholds, fmr, fnmr, strict=True):
        high, low = (np.mean([d >= at + s for d in different]) for s in (-shift, shift))
        assert low - 1e-12 <= false_match <= high + 1e-12
        high, low = (np.mean([d < at + s for d in same]) for s in (shift, -shift))
        assert low - 1e-12 <= false_non_match <= high + 1e-12
    assert fmr[0] == 1
    assert (np.diff(thresholds) > 0).all()
    assert (np.array(fmr[:-1]) / np.array(fmr[1:]) < 2).all()


@pytest.mark.parametrize("block", [64, 2**21])
def test_the_fit_is_that_of_the_slow_version(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passreid.calibration, "_BLOCK", block)
    monkeypatch.setattr(passreid.calibration, "FEWEST_ROWS", 1)
    rows, pids, camids = people()
    fitted = fit_calibration(rows, pids, camids=camids, data="drawn", flip=True)
    same, different = slow_pairs(rows, pids, camids)
    assert (fitted.same_pairs, fitted.different_pairs) == (len(same), len(different))
    slope, intercept = slow_fit(same, different)
    assert fitted.slope == pytest.approx(slope, rel=1e-3)
    assert fitted.intercept == pytest.approx(intercept, rel=1e-3)
    # 28,000 different pairs measure 1e-3, and not 1e-4.
    assert [point.false_accept_rate for point in fitted.points] == [1e-2, 1e-3]
    assert_curves(fitted, same, different)
    assert (fitted.data, fitted.flip) == ("drawn", True)
    assert_curve(fitted, same, different)
    assert fitted.curve is not None
    assert fitted.curve.thresholds[-1] == pytest.approx(slow_floor(rows, pids), abs=RESOLUTION)


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 8), st.integers(2, 5), st.floats(0.2, 2.0), st.integers(0, 10**6))
def test_any_small_set(count: int, crops: int, noise: float, seed: int) -> None:
    rows, pids, camids = people(count, crops, noise=noise, seed=seed)
    same, different = slow_pairs(rows, pids, camids)
    try:
        fitted = fit_calibration(rows, pids, camids=camids, data="x", rates=(0.5, 0.2))
    except CalibrationError:
        assert not same or slow_fit(same, different)[0] <= 1e-6
        return
    assert (fitted.same_pairs, fitted.different_pairs) == (len(same), len(different))
    assert len(fitted.points) == sum(rate * len(different) >= 10 for rate in (0.5, 0.2))
    assert_curves(fitted, same, different)


def test_without_cameras_every_pair_of_a_person_counts() -> None:
    rows, pids, _ = people(count=5, crops=4)
    fitted = fit_calibration(rows, pids, data="x")
    assert fitted.same_pairs == 4 * 6
    assert fitted.different_pairs == 10 * 16
    # A rate counts from ten expected false accepts on.
    fitted = fit_calibration(rows, pids, data="x", rates=(1 / 16, 1 / 17))
    assert [point.false_accept_rate for point in fitted.points] == [1 / 16]
    # Ten of 160 are no more than 1 / 16, so the eleventh is the first to be kept out.
    eleventh = sorted(slow_pairs(rows, pids, np.full(len(rows), -1))[1])[-11]
    assert fitted.points[0].threshold == pytest.approx(eleventh, abs=2 * RESOLUTION)


def test_pairs_of_two_places_do_not_count() -> None:
    rows, pids, camids = people(count=12)
    places = pids % 2  # every other person lives elsewhere
    fitted = fit_calibration(rows, pids + 1, camids=camids, places=places, data="x")
    same, different = [], []
    for place in (0, 1):
        here = places == place
        found = slow_pairs(rows[here], pids[here] + 1, camids[here])
        same += found[0]
        different += found[1]
    assert (fitted.same_pairs, fitted.different_pairs) == (len(same), len(different))
    assert_curves(fitted, same, different)
    with pytest.raises(DatasetError, match="places must be"):
        fit_calibration(rows, pids, places=[0], data="x")


def test_nobody_is_never_the_same_as_nobody() -> None:
    rows, pids, _ = people(count=4, crops=4)
    fitted = fit_calibration(rows, np.where(pids == 3, -1, pids), data="x")
    assert fitted.same_pairs == 2 * 6
    assert fitted.different_pairs == 6 * 16 - 16  # pid 0 and pid -1 are nobody both


def test_people_told_apart_perfectly_give_finite_numbers() -> None:
    rows, pids, _ = people(noise=0.01)
    fitted = fit_calibration(rows, pids, data="x")
    assert fitted.slope is not None and fitted.intercept is not None
    assert fitted.equal_error_threshold is not None
    assert np.isfinite([fitted.slope, fitted.intercept]).all()
    assert fitted.equal_error_rate == 0
    same, different = slow_pairs(rows, pids, np.full(len(rows), -1))
    assert max(different) < fitted.equal_error_threshold < min(same)
    assert fitted.probability(min(same)) > 0.9
    assert fitted.probability(max(different)) < 0.1
    assert all(point.true_accept_rate == 1 for point in fitted.points)


def test_errors_that_never_meet_are_equal_in_the_middle() -> None:
    angles = np.radians([0, 10, 40, 75])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    fitted = fit_calibration(rows, [1, 1, 2, 2], data="x")
    # From 30 to 35 degrees 1 of 4 is accepted and 1 of 2 rejected, from 35 to 40 1 of 4 and none.
    assert fitted.equal_error_rate == (1 / 4 + 0) / 2
    middle = np.cos(np.radians([30, 40])).mean()
    assert fitted.equal_error_threshold == pytest.approx(middle, abs=2 * RESOLUTION)


def test_probabilities_are_calibrated_on_new_pairs() -> None:
    fitted = fit_calibration(*people(count=100, seed=1)[:2], data="x")
    assert [point.false_accept_rate for point in fitted.points] == [1e-2, 1e-3, 1e-4]
    rows, pids, _ = people(count=100, seed=2)
    same, different = slow_pairs(rows[:400], pids[:400], np.full(400, -1))
    cosines = np.array([*same, *different])
    weights = np.repeat([1 / len(same), 1 / len(different)], [len(same), len(different)])
    kinds = np.repeat([1.0, 0.0], [len(same), len(different)])
    chance = fitted.probability(cosines)
    for low in (0.1, 0.3, 0.5, 0.7):
        chosen = (chance >= low) & (chance < low + 0.2)
        share = np.average(kinds[chosen], weights=weights[chosen])
        assert share == pytest.approx(low + 0.1, abs=0.15)


@pytest.mark.parametrize(
    ("pids", "camids", "message"),
    [
        ([1, 1, 2, 2], [0, 0, 1, 1], "no pair of one person by two cameras"),
        ([0, 0, 0, 0], [0, 1, 2, 3], "no pair of one person"),
        ([1, 1, 1, 1], [0, 1, 2, 3], "no pair of two different people"),
    ],
)
def test_sets_without_pairs(pids: list[int], camids: list[int], message: str) -> None:
    rows = np.random.default_rng(0).normal(size=(4, 3))
    with pytest.raises(CalibrationError, match=f"tiny has {message}"):
        fit_calibration(rows, pids, camids=camids, data="tiny")


def test_steps_that_would_make_it_worse_are_halved() -> None:
    same, different = np.zeros((2, 2**18), np.int64)
    same[[57681, 243360]] = 10, 817406
    different[[134133, 240103]] = 100611, 1000
    found = passreid.calibration._fit_logistic(same, different)
    # Whole steps run off to 2e12.
    assert found == pytest.approx((364.44, -305.31), rel=1e-4)


def test_cosines_that_tell_nobody_apart() -> None:
    with pytest.raises(CalibrationError, match="no more alike than those of different people"):
        fit_calibration(np.ones((4, 3)), [1, 1, 2, 2], data="x")
    with pytest.raises(CalibrationError, match="no more alike"):
        fit_calibration([[1, 0], [0, 1], [1, 0], [0, 1]], [1, 1, 2, 2], data="x")


def test_labels_and_embeddings_are_checked() -> None:
    rows = np.eye(4)
    with pytest.raises(DatasetError, match="pids must be 4 integers"):
        fit_calibration(rows, [1, 2], data="x")
    with pytest.raises(DatasetError, match="camids must be 4 integers"):
        fit_calibration(rows, [1, 1, 2, 2], camids=[0.5] * 4, data="x")
    rows[2, 0] = np.nan
    with pytest.raises(EmbeddingError, match="row 2"):
        fit_calibration(rows, [1, 1, 2, 2], data="x")


def test_people_listed_in_any_order_give_the_same_curve() -> None:
    rows, pids, camids = people()
    order = np.random.default_rng(1).permutation(len(rows))
    fitted = fit_calibration(rows, pids, camids=camids, data="x")
    again = fit_calibration(rows[order], pids[order], camids=camids[order], data="x")
    # The logistic is a sum over pairs, whose order moves its last digits.
    assert (again.slope, again.intercept) == pytest.approx((fitted.slope, fitted.intercept))
    assert replace(again, slope=fitted.slope, intercept=fitted.intercept) == fitted


def slow_unlabelled(rows: Any, camids: Any) -> list[float]:
    """Cosines of every pair across two known cameras."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return [
        float(unit[i] @ unit[j])
        for i, j in itertools.combinations(range(len(rows)), 2)
        if camids[i] != camids[j] and -1 not in (camids[i], camids[j])
    ]


@pytest.mark.parametrize("block", [64, 2**21])
def test_without_labels_thresholds_are_those_of_all_pairs_across_cameras(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passreid.calibration, "_BLOCK", block)
    monkeypatch.setattr(passreid.calibration, "FEWEST_ROWS", 1)
    rows, _, camids = people()
    fitted = fit_unlabelled(rows, camids=camids, data="crops", flip=True)
    cosines = slow_unlabelled(rows, camids)
    assert fitted.different_pairs == len(cosines)
    assert [point.false_accept_rate for point in fitted.points] == [1e-2, 1e-3]
    for point in fitted.points:
        reached = np.mean([c >= point.threshold + RESOLUTION for c in cosines])
        assert reached <= point.false_accept_rate
        looser = np.mean([c >= point.threshold - RESOLUTION for c in cosines])
        assert looser >= point.false_accept_rate - 1 / len(cosines)
        assert point.true_accept_rate is None
    assert fitted.curve is not None
    # The curve ends where fewer than ten pairs are left.
    assert fitted.curve.fmr[-1] == pytest.approx(10 / len(cosines), rel=0.2)
    assert not fitted.labelled
    assert (fitted.data, fitted.flip, fitted.contamination) == ("crops", True, None)


def test_without_labels_the_true_fmr_is_at_most_the_promised_one() -> None:
    rows, pids, _ = people(count=200, crops=5, noise=1.0)
    fitted = fit_unlabelled(rows, people=200, data="x")
    truth = fit_calibration(rows, pids + 1, data="x")
    for point in fitted.points:
        rate, share = point.false_accept_rate, 1 / 200
        assert (rate - share) / (1 - share) - 1e-4 <= truth.fmr(point.threshold) <= rate + 1e-4
    assert fitted.contamination == 1 / 200


def test_few_people_support_no_strict_rate_however_many_crops_they_give() -> None:
    rows, _, _ = people(count=30, crops=20)
    rates = [p.false_accept_rate for p in fit_unlabelled(rows, people=30, data="x").points]
    assert rates == []  # 435 pairs of people: 1e-2 expects four of them
    rates = [p.false_accept_rate for p in fit_unlabelled(rows, people=50, data="x").points]
    assert rates == [1e-2]


@pytest.mark.parametrize(
    ("count", "known", "message"),
    [(3, None, "x has 3 independent pairs: give more crops"), (30, 1, "no impostor pair")],
)
def test_crops_without_enough_pairs(count: int, known: int | None, message: str) -> None:
    rows = np.random.default_rng(0).normal(size=(count, 4))
    with pytest.raises(CalibrationError, match=message):
        fit_unlabelled(rows, people=known, data="x")
    with pytest.raises(DatasetError, match="camids must be"):
        fit_unlabelled(rows, camids=[1], data="x")


def test_a_threshold_that_copies_make_impossible_is_left_out() -> None:
    rows, pids, camids = people(40, 8)
    pids, camids = pids + 1, np.abs(camids)
    # One picture under twelve names: its pairs are 1.3 in a thousand, all at a cosine of 1.
    rows[::27] = rows[0]
    fitted = fit_calibration(rows, pids, camids=camids, data="copies", rates=(1e-2, 1e-3))
    assert [point.false_accept_rate for point in fitted.points] == [1e-2]
    assert fitted.points[0].threshold < 1
    with pytest.raises(CalibrationError, match=r"0\.001"):
        fitted.judge(1.0, false_accept_rate=1e-3)
