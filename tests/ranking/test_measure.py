"""CMC, mAP and mINP against walking down the list, and the published evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from passreid.errors import DatasetError
from passreid.labels import Labels
from passreid.ranking import measure, measure_distances, rank, rank_distances
from passreid.similarity import product_blocks, unit_pair
from tests.ranking.slow import random_set, slow_measure

CASES = ["m60x200", "m10x30", "m100x1000", "m25x120"]


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    with np.load(Path(__file__).parents[1] / "golden" / "metrics_cases.npz") as file:
        return dict(file)


def golden_labels(golden: dict[str, NDArray[Any]], case: str) -> Labels:
    return Labels(
        golden[f"{case}_q_pids"],
        golden[f"{case}_g_pids"],
        query_camids=golden[f"{case}_q_camids"],
        gallery_camids=golden[f"{case}_g_camids"],
    )


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 25))
def test_measures_agree_with_walking_down_the_list(seed: int, queries: int, gallery: int) -> None:
    distances, labels = random_set(seed, queries, gallery)
    expected = slow_measure(distances, labels, max_rank=12)
    if not any(expected["valid"]):
        with pytest.raises(DatasetError):
            measure_distances(distances, labels=labels)
        return
    metrics = measure_distances(distances, labels=labels, max_rank=12)
    assert metrics.valid.tolist() == expected["valid"]
    np.testing.assert_allclose(metrics.average_precision, expected["ap"], rtol=1e-12)
    np.testing.assert_allclose(metrics.cmc, expected["cmc"], rtol=1e-12)
    np.testing.assert_allclose([metrics.rank(k) for k in range(1, 13)], metrics.cmc, rtol=1e-12)
    assert metrics.mAP == pytest.approx(expected["mAP"], rel=1e-12)
    assert metrics.mINP == pytest.approx(expected["mINP"], rel=1e-12)
    np.testing.assert_array_equal(metrics.best_mate, expected["best_mate"])
    np.testing.assert_array_equal(metrics.best_stranger, expected["best_stranger"])


@pytest.mark.parametrize("case", CASES)
def test_measures_match_the_published_evaluation(
    golden: dict[str, NDArray[Any]], case: str
) -> None:
    cmc = golden[f"{case}_cmc"]
    metrics = measure(
        golden[f"{case}_qf"],
        golden[f"{case}_gf"],
        labels=golden_labels(golden, case),
        max_rank=len(cmc),
    )
    expected = golden[f"{case}_average_precision"]
    np.testing.assert_array_equal(metrics.valid, ~np.isnan(expected))
    np.testing.assert_allclose(metrics.average_precision, expected, atol=1e-4)
    np.testing.assert_allclose(metrics.cmc, cmc, atol=1e-6)
    assert metrics.mAP == pytest.approx(float(golden[f"{case}_mAP"]), abs=1e-5)


@pytest.mark.parametrize("case", ["m10x30", "m25x120"])
def test_squared_distance_is_two_minus_twice_the_cosine(
    golden: dict[str, NDArray[Any]], case: str
) -> None:
    rows, columns = unit_pair(golden[f"{case}_qf"], golden[f"{case}_gf"])
    (_, cosines), *rest = product_blocks(rows, columns)
    assert not rest
    np.testing.assert_allclose(2 - 2 * cosines, golden[f"{case}_distances"], atol=5e-6)


def test_same_camera_is_ignored_distractors_are_wrong_and_junk_is_nothing() -> None:
    distances = [[0.1, 0.2, 0.3, 0.4, 0.5]]
    pids, cameras = [7, -1, 0, 7, 7], [1, 2, 2, 2, -1]
    labels = Labels([7], pids, query_camids=[1], gallery_camids=cameras)
    metrics = measure_distances(distances, labels=labels)
    # Left over: distractor, positive, positive.
    assert metrics.first_hit.tolist() == [2]
    assert metrics.mAP == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert metrics.mINP == pytest.approx(2 / 3)
    without = Labels([7], pids, query_camids=[1], gallery_camids=cameras, camera_filter=False)
    assert measure_distances(distances, labels=without).first_hit.tolist() == [1]


def test_unknown_camera_is_nobodys_own_camera() -> None:
    labels = Labels([7], [7], query_camids=[-1], gallery_camids=[-1])
    assert measure([[1.0, 0.0]], [[1.0, 0.0]], labels=labels).rank(1) == 1
    assert measure([[1.0, 0.0]], [[1.0, 0.0]], labels=Labels([7], [7])).rank(1) == 1


def test_labels_may_be_integers_of_any_size() -> None:
    labels = Labels(np.array([255], np.uint8), np.array([-1, 255], np.int16))
    assert labels.query_pids.dtype == labels.gallery_pids.dtype == np.int64
    assert measure_distances([[0.1, 0.2]], labels=labels).first_hit.tolist() == [1]


def test_rank_10_is_defined_on_a_gallery_of_three() -> None:
    metrics = measure_distances(
        [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]], labels=Labels([1, 2], [3, 1, 2]), max_rank=10
    )
    assert metrics.cmc.tolist() == [0, 0.5] + [1.0] * 8
    assert metrics.rank(10) == 1
    assert len(measure_distances([[0.1]], labels=Labels([1], [1])).cmc) == 50


def test_queries_without_a_positive_are_skipped_and_named() -> None:
    metrics = measure_distances([[0.1, 0.2]] * 3, labels=Labels([9, 1, -1], [1, -1]))
    assert metrics.invalid.tolist() == [0, 2]
    assert metrics.valid.tolist() == [False, True, False]
    assert np.isnan(metrics.average_precision[[0, 2]]).all()
    assert metrics.mAP == metrics.mINP == metrics.rank(1) == 1
    assert repr(metrics) == (
        "Metrics(mAP 100.00%, mINP 100.00%, Rank-1 100.00%, 1 of 3 queries count)"
    )


def test_no_positive_at_all_says_whose_fault_it_is() -> None:
    one_camera = Labels([1, 2], [2, 1], query_camids=[0, 0], gallery_camids=[0, 0])
    with pytest.raises(DatasetError, match=r"pids 1, 2.*another camera.*--no-camera-filter"):
        measure_distances(np.ones((2, 2)), labels=one_camera)
    anna = Labels([1, 2], [3, 4], people={1: "anna"})
    with pytest.raises(DatasetError, match=r"pids anna, 2\)"):
        measure_distances(np.ones((2, 2)), labels=anna)
    with pytest.raises(DatasetError, match=r"None of the 6 people.*1, 2, 3, 4, 5, ….*alike"):
        measure_distances(np.ones((6, 2)), labels=Labels([1, 2, 3, 4, 5, 6], [0, -1]))
    with pytest.raises(DatasetError, match=r"None of the 1 people of the queries \(pids 7\)"):
        measure_distances(np.ones((2, 1)), labels=Labels([-1, 7], [-1]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Labels([[1]], [1]), "query_pids must be a list of integers"),
        (lambda: Labels([1.5], [1]), "query_pids must be a list of integers"),
        (lambda: Labels([1], ["a"]), "gallery_pids must be a list of integers"),
        (lambda: Labels([1], [1], query_camids=[1]), "only one of query and gallery"),
        (
            lambda: Labels([1], [1], query_camids=[1, 2], gallery_camids=[1]),
            "query_camids has 2 entries for 1 pids",
        ),
        (
            lambda: measure_distances(np.ones((2, 3)), labels=Labels([1], [1])),
            "Labels of 1 queries and 1 gallery images .* 2 queries and 3 gallery",
        ),
        (lambda: rank([[1.0]], [[1.0]], labels=Labels([1], [1, 2])), "1 queries and 2 gallery"),
        (lambda: measure([[1.0]], [[1.0]], labels=Labels([1], [1, 2])), "1 queries and 2 gallery"),
        (
            lambda: rank_distances([[1.0]], labels=Labels([1, 2], [1])),
            "2 queries and 1 gallery",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused(build: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        build()
