"""Cosines, and what a calibration makes of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from passreid.card import Architecture, ModelCard
from passreid.errors import CalibrationError, ConfigError, EmbeddingError
from passreid.hub import MODELS
from passreid.openset import Calibration, OperatingPoint
from passreid.verify import cosine, same_person
from tests import small

CALIBRATION = Calibration(
    slope=10.0,
    intercept=-5.0,
    points=(
        OperatingPoint(false_accept_rate=1e-2, threshold=0.6, true_accept_rate=0.9),
        OperatingPoint(false_accept_rate=1e-3, threshold=0.75, true_accept_rate=0.8),
    ),
    equal_error_rate=0.05,
    equal_error_threshold=0.55,
    same_pairs=10,
    different_pairs=10_000,
    data="a set",
)


def slow_cosine(a: Any, b: Any) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    lengths = math.sqrt(sum(float(x) ** 2 for x in a)) * math.sqrt(sum(float(y) ** 2 for y in b))
    return dot / lengths if lengths else 0.0


def test_cosine_has_an_axis_for_each_side_that_has_rows() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=(4, 5))
    table = cosine(a, b)
    assert table.shape == (3, 4)
    assert table.dtype == np.float32
    np.testing.assert_allclose(table, [[slow_cosine(x, y) for y in b] for x in a], atol=1e-6)
    np.testing.assert_allclose(cosine(a, b[0]), table[:, 0], atol=1e-6)
    np.testing.assert_allclose(cosine(a[1], b), table[1], atol=1e-6)
    single = cosine(a[1], b[2])
    assert type(single) is float
    assert single == pytest.approx(slow_cosine(a[1], b[2]), abs=1e-6)


NUMBERS = st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)


@settings(deadline=None)
@given(hnp.arrays(np.float32, (2, 6), elements=NUMBERS))
def test_cosine_is_bounded_symmetric_and_blind_to_length(pair: Any) -> None:
    a, b = pair
    value = cosine(a, b)
    assert -1 <= value <= 1
    assert value == pytest.approx(cosine(b, a), abs=1e-6)
    assert value == pytest.approx(slow_cosine(a, b), abs=1e-5)


def test_rounding_takes_no_cosine_beyond_one() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 1536)).astype(np.float32)
    assert cosine(rows, rows).max() == 1


def test_a_zero_vector_is_like_nothing() -> None:
    assert cosine([0, 0], [1, 2]) == 0.0
    assert cosine([0, 0], [0, 0]) == 0.0
    np.testing.assert_array_equal(cosine([[0, 0], [3, 4]], [3, 4]), [0, 1])


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, np.nan], [1, 2], "a holds NaN or infinity, first in row 0"),
        ([1, 2], [[1, 2], [np.inf, 2]], "b holds NaN or infinity, first in row 1"),
        ([1, 2, 3], [1, 2], "of 3 and 2 numbers cannot be compared"),
        (1.0, [1.0], "a must be a matrix of numbers"),
        (np.zeros((2, 2, 2)), [1.0], "a must be a matrix of numbers"),
        (["x"], [1.0], "a must be a matrix of numbers"),
        ([[1, 2], [3]], [1.0], "a cannot be read as a matrix"),
        ([], [1.0], "a of shape .* is empty"),
    ],
)
def test_what_cannot_be_compared(a: Any, b: Any, message: str) -> None:
    with pytest.raises(EmbeddingError, match=message):
        cosine(a, b)


def test_probability_is_the_logistic() -> None:
    assert CALIBRATION.probability(0.5) == pytest.approx(0.5)
    assert type(CALIBRATION.probability(0.5)) is float
    values = np.array([-1.0, 0.0, 0.7, 1.0])
    expected = [1 / (1 + math.exp(-(10 * v - 5))) for v in values]
    np.testing.assert_allclose(CALIBRATION.probability(values), expected)
    steep = replace(CALIBRATION, slope=1e5, intercept=0.0)
    assert steep.probability(-1.0) == 0.0
    assert steep.probability(1.0) == 1.0


def test_thresholds_are_the_measured_ones() -> None:
    assert CALIBRATION.threshold(0.01) == 0.6
    assert CALIBRATION.threshold(1e-3) == 0.75
    assert CALIBRATION.threshold(0.1**3) == 0.75  # which is not quite 0.001
    rare = OperatingPoint(false_accept_rate=1e-9, threshold=0.9, true_accept_rate=0.1)
    with pytest.raises(CalibrationError, match="rate of 2e-09"):
        replace(CALIBRATION, points=(rare,)).threshold(2e-9)
    with pytest.raises(
        CalibrationError, match=r"rate of 0\.0001; measured on a set: 0\.01, 0\.001"
    ):
        CALIBRATION.threshold(1e-4)
    with pytest.raises(CalibrationError, match="measured on a set: none"):
        replace(CALIBRATION, points=()).threshold(1e-2)


def test_a_verdict_accepts_from_the_threshold_on() -> None:
    verdict = CALIBRATION.judge(0.75)
    assert verdict.same_person is True
    assert (verdict.cosine, verdict.threshold, verdict.false_accept_rate) == (0.75, 0.75, 1e-3)
    assert verdict.probability == pytest.approx(1 / (1 + math.exp(-2.5)))
    assert CALIBRATION.judge(0.7499).same_person is False
    verdict = CALIBRATION.judge(0.7, false_accept_rate=1e-2)
    assert (verdict.same_person, verdict.false_accept_rate) == (True, 1e-2)


def test_same_person_of_two_images() -> None:
    a = Architecture(width=4, heads=1, parts=0, image_size=small.SIZE)
    card = ModelCard(name="c", architecture=a, calibration=CALIBRATION)
    embedder = small.colours(card=card)
    one, other = small.picture(1), 255 - small.picture(1)
    same = same_person(one, one, embedder, channel_order="rgb")
    assert same.cosine == pytest.approx(1.0, abs=1e-6)
    assert same.same_person
    different = same_person(one, other, embedder, channel_order="rgb", false_accept_rate=1e-2)
    assert not different.same_person
    assert different.threshold == 0.6


def test_a_model_that_was_never_calibrated_says_so() -> None:
    with pytest.raises(CalibrationError, match=r"passreid calibrate ROOT"):
        same_person("a", "b", small.colours())


def test_flip_must_be_that_of_the_calibration() -> None:
    card = replace(small.colours().card, calibration=CALIBRATION)
    with pytest.raises(CalibrationError, match="flip=False and the embedder runs with flip=True"):
        same_person("a", "b", small.colours(card=card, flip=True))


def test_the_bundled_calibration_is_marked_as_the_models() -> None:
    for folder in MODELS.iterdir():
        card = ModelCard.read(folder / "model.json")
        assert card.calibration is None or card.calibration.origin == "model"


def test_a_calibration_survives_the_card() -> None:
    card = ModelCard(name="x", calibration=CALIBRATION)
    assert ModelCard.from_mapping(json.loads(card.to_json()), where="x").calibration == CALIBRATION


@pytest.mark.parametrize("constant", [math.nan, math.inf])
def test_a_card_with_a_number_that_is_none_is_refused(constant: float, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(ModelCard(name="x", calibration=replace(CALIBRATION, slope=constant)).to_json())
    with pytest.raises(ConfigError, match=r"model\.json: not valid JSON: .* is not a JSON number"):
        ModelCard.read(path)


def test_identical_rows_have_identical_cosines() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((67, 384)).astype(np.float32)
    rows[[3, 30, 66]] = rows[7]
    for table in (cosine(rows[7] + 0.5, rows), cosine(rows, rows[7] + 0.5)):
        assert len({*table[[3, 7, 30, 66]].tolist()}) == 1
