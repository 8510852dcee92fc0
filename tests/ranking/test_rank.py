"""Who is ranked where; checks of embeddings; blocks and threads."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from passreid import similarity
from passreid.errors import EmbeddingError, UsageError
from passreid.labels import Labels
from passreid.ranking import Ranking, measure, measure_distances, rank, rank_distances
from passreid.similarity import in_threads
from tests.ranking.slow import random_set, slow_order


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
    single = Ranking(np.array([[0]]), np.array([[0.7]], np.float32))
    assert not single.no_match(np.float64(0.7)).any()  # compared as it is stored, as `rank` does
    assert result.hits(1) == []
    assert repr(result) == "Ranking(2 queries, top 3, 1 without a match)"


def test_a_threshold_of_nought_is_one() -> None:
    query, gallery = [[1.0, 0.0]], [[-1.0, 0.1], [0.0, 1.0], [1.0, 0.0]]
    assert rank(query, gallery, threshold=0.0).indices.tolist() == [[2, 1, -1]]
    assert rank(query, gallery).similarity[0, 2] == pytest.approx(-(1.01**-0.5))
    assert rank_distances([[0.0, 0.5]], max_distance=0.0).indices.tolist() == [[0, -1]]


def test_a_threshold_that_is_no_number_is_not_none() -> None:
    with pytest.raises(UsageError, match="threshold is NaN"):
        rank([[1, 0]], [[1, 0]], threshold=float("nan"))
    with pytest.raises(UsageError, match="threshold is NaN"):
        rank_distances([[1.0]], max_distance=float("nan"))


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


def test_ten_hits_are_found_unless_more_are_asked_for() -> None:
    assert rank([[1.0]], [[1.0]] * 12).indices.shape == (1, 10)
    assert rank_distances([[1.0] * 12]).indices.shape == (1, 10)


def test_top_k_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="top_k is 0"):
        rank([[1.0]], [[1.0]], top_k=0)


@pytest.mark.parametrize(
    ("query", "gallery", "message"),
    [
        ([1.0, 2.0], [[1.0, 2.0]], r"query must be a matrix.*vector\[None\]"),
        ([[1.0, 2.0]], [[1.0], [1.0, 2.0]], "gallery cannot be read as a matrix"),
        ([["a", "b"]], [[1.0, 2.0]], "query must be a matrix of numbers"),
        ([[True, False]], [[1.0, 2.0]], "query must be a matrix of numbers"),
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
    monkeypatch.setattr(similarity, "FEWEST_ROWS", 1)
    for rows in (1, 4):
        monkeypatch.setattr(similarity, "BLOCK_BYTES", rows * 30 * 4)
        for one, other in zip(whole, answers(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_however_wide_the_gallery_a_block_has_rows_enough_for_a_fast_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(similarity, "BLOCK_BYTES", 1)
    rows = np.eye(100, dtype=np.float32)
    blocks = [(start, len(block)) for start, block in similarity.product_blocks(rows, rows)]
    assert blocks == [(0, 64), (64, 36)]
    assert len(list(similarity.negated_blocks(rows))) == 100


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


@pytest.mark.parametrize("width", [384, 768, 1000])
@pytest.mark.parametrize("gallery", [0, 1, 30, 200])
def test_identical_gallery_rows_tie_wherever_they_stand(width: int, gallery: int) -> None:
    rng = np.random.default_rng(gallery)
    for _ in range(20):
        person = rng.standard_normal(width).astype(np.float32)
        columns = 0.1 * rng.standard_normal((gallery + 3, width)).astype(np.float32)
        places = np.sort(rng.permutation(gallery + 3)[:3])
        columns[places] = person
        query = (person + 0.3 * rng.standard_normal(width))[None].astype(np.float32)
        found = rank(query, columns, top_k=3)
        assert found.indices[0].tolist() == places.tolist()
        assert len(set(found.similarity[0].tolist())) == 1
        pids = np.ones(gallery + 3, np.int64)
        pids[places[0]] = 2
        assert measure(query, columns, labels=Labels([2], pids)).mAP == 1


def test_identical_queries_get_identical_scores_in_any_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(similarity, "BLOCK_BYTES", 4)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 384)).astype(np.float32)
    copies = [0, 1, 70, 71, 200, 299]
    rows[copies] = rows[5]
    columns = rng.standard_normal((90, 384)).astype(np.float32)
    found = rank(rows, columns, top_k=90)
    for copy in copies:
        assert np.array_equal(found.indices[copy], found.indices[5])
        assert np.array_equal(found.similarity[copy], found.similarity[5])
