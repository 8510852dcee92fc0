"""The encoder for trackers: unit rows for every box, whatever the box, and fitting thresholds."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import passreid
from passreid.errors import CalibrationError, UsageError
from passreid.trackers import encoder, thresholds


@pytest.fixture(scope="module")
def embedder() -> passreid.Embedder:
    return passreid.load()


FRAME = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
GOOD: list[list[float]] = [[10.0, 20, 74, 148], [100, 40, 180, 220]]
BAD: list[list[float]] = [
    [400.0, 10, 500, 90],
    [50, 50, 10, 10],
    [np.nan, 0, 5, 5],
    [10, 10, 10, 10],
    [0, 0, np.inf, 9],
]


def test_rows_equal_those_of_the_crops_in_the_frame(embedder: passreid.Embedder) -> None:
    rows = encoder(embedder).get_features(GOOD, FRAME)
    expected = embedder.boxes(FRAME, GOOD, channel_order="bgr")
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(rows, expected, atol=1e-5)


def test_every_call_a_tracker_makes_gives_the_same_rows(embedder: passreid.Embedder) -> None:
    encode = encoder(embedder)
    rows = encode.get_features(GOOD, FRAME)
    found = SimpleNamespace(xyxy=np.array(GOOD))
    assert np.array_equal(encode.extract_features(found, FRAME), rows)
    assert np.array_equal(encode.extract_embeddings(found, FRAME), rows)
    assert np.array_equal(encode(FRAME, GOOD), rows)
    wide = [[*box, 0.9, 0] for box in GOOD]
    assert np.array_equal(encode.get_features(wide, FRAME), rows)


def test_bad_boxes_get_rows_similar_to_nobody_and_are_counted(embedder: passreid.Embedder) -> None:
    encode = encoder(embedder)
    rows = encode.get_features([*GOOD, *BAD], FRAME)
    assert rows.shape == (7, embedder.dim)
    assert np.isfinite(rows).all()
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    cosines = rows @ rows.T - 2 * np.eye(7)
    assert cosines[2:].max() < 0.4
    assert encode.unusable == len(BAD)
    assert encode.get_features([], FRAME).shape == (0, embedder.dim)


def test_a_frame_that_is_no_picture_is_refused(embedder: passreid.Embedder) -> None:
    with pytest.raises(UsageError, match="uint8"):
        encoder(embedder).get_features(GOOD, FRAME.astype(np.float32))


def test_thresholds_follow_the_calibration(embedder: passreid.Embedder) -> None:
    loose, strict = thresholds(embedder, fmr=0.05), thresholds(embedder, fmr=0.001)
    assert strict["strongsort"]["max_cos_dist"] < loose["strongsort"]["max_cos_dist"]
    assert embedder.calibration is not None
    cosine = embedder.calibration.threshold_at(0.05)
    assert loose["strongsort"]["max_cos_dist"] == pytest.approx(1 - cosine)
    assert loose["botsort"]["appearance_thresh"] == pytest.approx((1 - cosine) / 2)


def test_thresholds_of_an_uncalibrated_model_are_refused() -> None:
    bare = SimpleNamespace(calibration=None)
    with pytest.raises(CalibrationError, match="passreid calibrate"):
        thresholds(bare)  # type: ignore[arg-type]
