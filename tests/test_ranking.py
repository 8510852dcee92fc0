"""Ranking and its measures against slow versions written from the formulas, and golden numbers."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from passreid import similarity
from passreid.errors import DatasetError, EmbeddingError, UsageError
from passreid.ranking import (
    Labels,
    Ranking,
    measure,
    measure_distances,
    rank,
    rank_distances,
)
from passreid.similarity import in_threads, product_blocks, unit_pair

CASES = ["m60x200", "m10x30", "m100x1000", "m25x120"]


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    with np.load(Path(__file__).parent / "golden" / "metrics_cases.npz") as file:
        return dict(file)


def golden_labels(golden: dict[str, NDArray[Any]], case: str) -> Labels:
    return Labels(
        golden[f"{case}_q_pids"],
        golden[f"{case}_g_pids"],
        query_camids=golden[f"{case}_q_camids"],
        gallery_camids=golden[f"{case}_g_camids"],
    )


def random_set(
    seed: int, queries: int, gallery: int, *, levels: int = 4
) -> tuple[NDArray[np.float64], Labels]:
    """Distances with many ties; few people; junk, distractors and unknown cameras among them."""
    rng = np.random.default_rng(seed)
    labels = Labels(
        rng.integers(1, 5, queries),
        rng.integers(-1, 5, gallery),
        query_camids=rng.integers(-1, 3, queries),
        gallery_camids=rng.integers(-1, 3, gallery),
        camera_filter=bool(rng.integers(2)),
    )
    return rng.integers(0, levels, (queries, gallery)) / 4, labels


def slow_counts(labels: Labels, q: int, g: int) -> bool:
    """Does gallery image `g` count for query `q`?"""
    if labels.gallery_pids[g] == -1:
        return False
    same_camera = labels.query_camids[q] == labels.gallery_camids[g] != -1
    same_person = labels.query_pids[q] == labels.gallery_pids[g]
    return not (labels.camera_filter and same_person and same_camera)


def slow_order(distances: NDArray[Any], labels: Labels | None, q: int) -> list[int]:
    """Gallery images that count, nearest first, the earlier one first in a tie."""
    row = [float(d) for d in distances[q]]
    kept = [g for g in range(len(row)) if labels is None or slow_counts(labels, q, g)]
    return sorted(kept, key=lambda g: (row[g], g))


def slow_measure(distances: NDArray[Any], labels: Labels, max_rank: int) -> dict[str, Any]:
    """CMC, AP and INP of each query by walking down its list; None where it has no positive."""
    found: list[dict[str, Any] | None] = []
    for q in range(len(distances)):
        order = slow_order(distances, labels, q)
        precisions: list[float] = []
        first = last = 0
        for place, g in enumerate(order, 1):
            if labels.gallery_pids[g] == labels.query_pids[q]:
                precisions.append((len(precisions) + 1) / place)
                first, last = first or place, place
        found.append(
            {
                "ap": sum(precisions) / len(precisions),
                "inp": len(precisions) / last,
                "cmc": [float(first <= k) for k in range(1, max_rank + 1)],
            }
            if precisions
            else None
        )
    valid = [f for f in found if f]
    return {
        "valid": [f is not None for f in found],
        "ap": [f["ap"] if f else math.nan for f in found],
        "mAP": np.mean([f["ap"] for f in valid]) if valid else None,
        "mINP": np.mean([f["inp"] for f in valid]) if valid else None,
        "cmc": np.mean([f["cmc"] for f in valid], axis=0) if valid else None,
    }


# ------------------------------------------------------------------------------------- measures


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
    assert metrics.mAP == pytest.approx(expected["mAP"], rel=1e-12)
    assert metrics.mINP == pytest.approx(expected["mINP"], rel=1e-12)


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


def test_rank_10_is_defined_on_a_gallery_of_three() -> None:
    metrics = measure_distances(
        [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]], labels=Labels([1, 2], [3, 1, 2]), max_rank=10
    )
    assert metrics.cmc.tolist() == [0, 0.5] + [1.0] * 8
    assert metrics.rank(10) == 1


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
    with pytest.raises(DatasetError, match=r"None of the 6 people.*1, 2, 3, 4, 5, ….*alike"):
        measure_distances(np.ones((6, 2)), labels=Labels([1, 2, 3, 4, 5, 6], [0, -1]))


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
        (
            lambda: rank_distances([[1.0]], labels=Labels([1, 2], [1])),
            "2 queries and 1 gallery",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused(build: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        build()


# -------------------------------------------------------------------------------------- ranking


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 20), st.integers(1, 25))
def test_ranking_of_distances_agrees_with_sorting(
    seed: int, queries: int, gallery: int, top_k: int
) -> None:
    distances, labels = random_set(seed, queries, gallery)
    for used, limit in ((None, None), (labels, None), (labels, 0.5)):
        result = rank_distances(distances, top_k=top_k, max_distance=limit, labels=used)
        assert result.indices.shape == (queries, min(top_k, gallery))
        for q in range(queries):
            order = slow_order(distances, used, q)
            order = [g for g in order if limit is None or distances[q, g] <= limit][:top_k]
            assert result.hits(q) == [(g, 1 - distances[q, g]) for g in order]


@pytest.mark.parametrize("seed", range(3))
def test_ranking_by_cosine_agrees_with_sorting(seed: int) -> None:
    rng = np.random.default_rng(seed)
    query, gallery = rng.standard_normal((7, 5)), rng.standard_normal((40, 5)) * 100
    cosine = (query / np.linalg.norm(query, axis=1)[:, None]) @ (
        gallery / np.linalg.norm(gallery, axis=1)[:, None]
    ).T
    result = rank(query, gallery, top_k=6)
    np.testing.assert_array_equal(result.indices, np.argsort(-cosine, axis=1)[:, :6])
    np.testing.assert_allclose(result.similarity, -np.sort(-cosine, axis=1)[:, :6], atol=1e-6)
    assert result.indices.dtype == np.int64
    assert result.similarity.dtype == np.float32


def test_a_query_may_find_nobody() -> None:
    result = rank([[1, 0], [0, 1]], [[1.0, 0.1], [1.0, 0.0], [-1.0, 0.2]], top_k=5, threshold=0.5)
    assert result.indices.tolist() == [[1, 0, -1], [-1, -1, -1]]
    assert np.isnan(result.similarity[1]).all()
    assert result.no_match().tolist() == [False, True]
    assert result.no_match(1.01).tolist() == [True, True]
    assert result.hits(1) == []
    assert repr(result) == "Ranking(2 queries, top 3, 1 without a match)"


def test_ties_keep_gallery_order_even_where_the_list_is_cut() -> None:
    assert rank([[1, 0]], [[1, 0]] * 9, top_k=4).indices.tolist() == [[0, 1, 2, 3]]


def test_ranking_can_be_sliced() -> None:
    result = rank(np.eye(4), np.eye(4), top_k=2)
    assert len(result) == 4
    for part in (result[2], result[2:3], result[np.arange(4) == 2], result[np.array([2])]):
        assert part.indices.tolist() == result.indices[2:3].tolist()


@pytest.mark.parametrize(
    ("indices", "similarity", "message"),
    [
        ([0, 1], [1.0, 0.5], "one .* shape"),
        ([[0, 1]], [[1.0]], "one .* shape"),
        ([[0, 1]], [[0.5, 1.0]], "must fall"),
        ([[0, -1]], [[1.0, 0.5]], "-1 and NaN"),
        ([[-1, 0]], [[math.nan, 0.5]], "at the end"),
    ],
)
def test_a_ranking_is_checked_at_birth(indices: Any, similarity: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ranking(np.array(indices), np.array(similarity, np.float32))


def test_top_k_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="top_k is 0"):
        rank([[1.0]], [[1.0]], top_k=0)


# ----------------------------------------------------------------------------------- embeddings


@pytest.mark.parametrize(
    ("query", "gallery", "message"),
    [
        ([1.0, 2.0], [[1.0, 2.0]], r"query must be a matrix.*vector\[None\]"),
        ([[1.0, 2.0]], [[1.0], [1.0, 2.0]], "gallery cannot be read as a matrix"),
        ([["a", "b"]], [[1.0, 2.0]], "query must be a matrix of numbers"),
        ([[1.0, 2.0]], np.zeros((0, 2)), "gallery of shape .* is empty"),
        ([[1.0, 2.0]], [[1.0, 2.0, 3.0]], "2 numbers and gallery embeddings 3.*same model"),
        ([[1.0, 2.0]], [[1.0, 2.0], [math.nan, 0.0]], "gallery holds NaN .* row 1"),
        ([[math.inf, 2.0]], [[1.0, 2.0]], "query holds NaN or infinity"),
        ([[1e300, 2.0]], [[1.0, 2.0]], "query holds NaN or infinity"),
    ],
)
def test_embeddings_that_cannot_be_compared(query: Any, gallery: Any, message: str) -> None:
    with pytest.raises(EmbeddingError, match=message):
        rank(query, gallery)


def test_distances_that_are_none() -> None:
    with pytest.raises(EmbeddingError, match="distances holds NaN"):
        rank_distances([[math.nan]])
    with pytest.raises(EmbeddingError, match="distances must be a matrix"):
        measure_distances([0.5], labels=Labels([1], [1]))


def test_zero_and_extreme_vectors_have_a_cosine() -> None:
    result = rank([[0.0, 0.0], [1e-40, 0.0], [3e38, 3e38]], [[2.0, 0.0], [0.0, 1e-30]], top_k=2)
    np.testing.assert_allclose(result.similarity, [[0, 0], [1, 0], [0.5**0.5, 0.5**0.5]], atol=1e-6)


def test_no_cosine_exceeds_one() -> None:
    images = np.random.default_rng(0).standard_normal((300, 64))
    assert rank(images, images, top_k=1).similarity.max() == 1


def test_inputs_are_left_alone() -> None:
    query = np.full((2, 3), 5, np.float32)
    distances = np.arange(6, dtype=np.float32).reshape(2, 3)
    labels = Labels([1, 1], [1, 1, -1])
    rank(query, query)
    measure(query, query, labels=Labels([1, 1], [1, 1]))
    measure_distances(distances, labels=labels)
    rank_distances(distances, labels=labels)
    assert (query == 5).all()
    assert distances.ravel().tolist() == list(range(6))


# --------------------------------------------------------------------------------------- blocks


def test_blocks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    distances, labels = random_set(3, 11, 30)
    rng = np.random.default_rng(0)
    query, gallery = rng.standard_normal((11, 8)), rng.standard_normal((30, 8))

    def answers() -> list[NDArray[Any]]:
        return [
            measure_distances(distances, labels=labels).average_precision,
            measure(query, gallery, labels=labels).average_precision,
            rank_distances(distances, labels=labels).indices,
            rank(query, gallery, labels=labels).indices,
        ]

    whole = answers()
    for rows in (1, 4):
        monkeypatch.setattr(similarity, "BLOCK_BYTES", rows * 30 * 4)
        for one, other in zip(whole, answers(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_memory_is_that_of_a_few_blocks() -> None:
    rng = np.random.default_rng(0)
    query, gallery = rng.standard_normal((2000, 4)), rng.standard_normal((20_000, 4))
    labels = Labels(rng.integers(1, 50, 2000), rng.integers(0, 50, 20_000))
    tracemalloc.start()
    measure(query, gallery, labels=labels)
    rank(query, gallery, labels=labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2000 * 20_000 * 4 / 2


def test_threads_return_results_in_order_and_pass_errors_on() -> None:
    assert [n for part in in_threads(list, 11) for n in part] == list(range(11))
    assert in_threads(list, 0) == [[]]

    def fail(part: range) -> None:
        raise EmbeddingError("no")

    with pytest.raises(EmbeddingError):
        in_threads(fail, 3)
