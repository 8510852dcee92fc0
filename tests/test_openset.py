"""What a score means in a gallery: FMR, strangers, bands, cuts, and how they are written."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passreid.card import ModelCard
from passreid.errors import CalibrationError, ConfigError, UsageError
from passreid.formats import show_cosine, show_probability, show_rate
from passreid.openset import (
    Calibration,
    Curve,
    OperatingPoint,
    assess,
    cut,
)

# FMR falls by a factor of ten for each 0.1 of cosine, down to 1e-5.
CURVE = Curve(thresholds=(0.4, 0.5, 0.6, 0.7, 0.8, 0.9), fmr=(1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5))
FITTED = Calibration(points=(), different_pairs=10**6, data="a place", curve=CURVE)


@pytest.mark.parametrize(
    ("cosine", "fmr"), [(0.7, 1e-3), (0.65, 10**-2.5), (0.4, 1.0), (-1.0, 1.0), (0.9, 1e-5)]
)
def test_fmr_is_interpolated_in_its_logarithm(cosine: float, fmr: float) -> None:
    assert FITTED.fmr(cosine) == pytest.approx(fmr)


def test_beyond_what_was_measured_a_rate_is_a_bound_and_no_guess() -> None:
    assert FITTED.fmr(0.99) == pytest.approx(FITTED.smallest_fmr) == pytest.approx(1e-5)
    assert not FITTED.is_beyond(0.9)
    assert assess(0.99, FITTED, 10).is_bound
    assert not assess(0.89, FITTED, 10).is_bound
    with pytest.raises(CalibrationError, match="down to 1e-05, not 1e-06: calibrate on more"):
        FITTED.threshold_at(1e-6)


@pytest.mark.parametrize(
    "damage",
    [
        {"thresholds": (), "fmr": ()},
        {"fmr": (1.0,)},
        {"fnmr": (0.1,)},
        {"thresholds": (0.4, 0.5, 0.6, 0.7, 0.7, 0.9)},
        {"fmr": (1.0, 1e-1, 1e-2, 1e-1, 1e-4, 1e-5)},
        {"fmr": (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 0.0)},
        {"fmr": (2.0, 1e-1, 1e-2, 1e-3, 1e-4, -1.0)},
    ],
)
def test_a_card_with_a_damaged_curve_is_refused(damage: dict[str, Any]) -> None:
    values = json.loads(ModelCard(name="x", calibration=FITTED).to_json())
    values["calibration"]["curve"] |= damage
    with pytest.raises(ConfigError, match=r"card: .*curve"):
        ModelCard.from_mapping(values, where="card")


@given(st.floats(1e-5, 1.0))
def test_a_threshold_has_the_fmr_it_was_asked_for(fmr: float) -> None:
    assert FITTED.fmr(FITTED.threshold_at(fmr)) == pytest.approx(fmr, rel=1e-6)


def test_a_card_without_a_curve_knows_the_rates_of_its_points() -> None:
    old = Calibration(
        slope=10.0,
        intercept=-5.0,
        points=(
            OperatingPoint(false_accept_rate=1e-2, threshold=0.6, true_accept_rate=0.9),
            OperatingPoint(false_accept_rate=1e-3, threshold=0.7, true_accept_rate=0.8),
        ),
        equal_error_rate=0.1,
        equal_error_threshold=0.5,
        different_pairs=10**6,
        data="a place",
    )
    assert old.fmr(0.65) == pytest.approx(10**-2.5)
    assert old.fmr(0.5) == pytest.approx(0.1)
    assert old.fmr(0.9) == pytest.approx(1e-3)
    assert replace(old, points=(), equal_error_threshold=None).fmr(0.9) == 1


@pytest.mark.parametrize(
    ("entries", "band", "strangers"),
    [(10, "strong", 0.01), (49, "strong", 0.049), (51, "possible", 0.051), (1001, "weak", 1.001)],
)
def test_bands_count_the_strangers_expected_in_this_gallery(
    entries: int, band: str, strangers: float
) -> None:
    found = assess(0.7, FITTED, entries)
    assert found.false_match_rate == pytest.approx(1e-3)
    assert found.expected_strangers == pytest.approx(strangers)
    assert found.band == band


@given(st.integers(1, 900), st.floats(0.01, 0.5))
def test_a_cut_keeps_the_fpir_it_states(entries: int, fpir: float) -> None:
    found = cut(FITTED, entries, fpir=fpir)
    assert found.fpir == pytest.approx(fpir)
    assert 1 - (1 - FITTED.fmr(found.threshold)) ** entries == pytest.approx(fpir, rel=1e-4)


def test_a_cut_that_the_pairs_do_not_support_states_what_it_keeps() -> None:
    found = cut(FITTED, 100_000)
    assert found.threshold == pytest.approx(0.9)
    assert found.fpir == pytest.approx(1 - math.exp(-1), rel=1e-4)


@pytest.mark.parametrize("fpir", [0.0, 1.0, -0.1, math.nan])
def test_an_fpir_that_is_none_is_refused(fpir: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        cut(FITTED, 10, fpir=fpir)


def test_the_prior_shifts_the_probability() -> None:
    known = replace(FITTED, slope=10.0, intercept=-5.0)
    odds = math.exp(10 * 0.7 - 5)
    assert known.probability(0.7) == pytest.approx(odds / (1 + odds))
    searched = odds * 0.001 / 0.999
    assert known.probability(0.7, prior=0.001) == pytest.approx(searched / (1 + searched))
    with pytest.raises(UsageError, match="prior is 1"):
        known.probability(0.7, prior=1.0)


def test_without_labels_there_is_a_verdict_and_no_probability() -> None:
    fitted = replace(FITTED, points=(OperatingPoint(false_accept_rate=1e-3, threshold=0.7),))
    verdict = fitted.judge(0.71)
    assert verdict.same_person is True
    assert (verdict.probability, verdict.prior) == (None, None)
    with pytest.raises(CalibrationError, match="without labels"):
        fitted.probability(0.7)


def test_a_verdict_leaves_out_what_was_not_measured() -> None:
    verdict = FITTED.judge(0.75, false_accept_rate=None)
    assert (verdict.same_person, verdict.threshold, verdict.false_accept_rate) == (None,) * 3
    assert verdict.false_match_rate == pytest.approx(10**-3.5)
    with pytest.raises(CalibrationError, match=r"false-accept rate of 0\.001"):
        FITTED.judge(0.75)


def test_numbers_are_written_one_way_and_never_as_certainty() -> None:
    assert show_cosine(0.81250001) == "0.813"
    assert show_rate(0.000123) == "0.00012"
    assert show_rate(0.00001, is_bound=True) == "< 1e-05"
    assert [show_probability(p) for p in (1.0, 0.9995, 0.5, 0.0)] == [
        "> 0.999",
        "> 0.999",
        "0.500",
        "< 0.001",
    ]
