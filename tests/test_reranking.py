"""k-reciprocal re-ranking against the formula written out with sets, and golden numbers."""

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

from passreid import reranking, similarity
from passreid.errors import EmbeddingError, UsageError
from passreid.labels import Labels
from passreid.ranking import measure, measure_distances, rank_distances
from passreid.reranking import SparseRows, encode, jaccard_blocks, jaccard_distance, rerank

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN / "metrics_rerank.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def case() -> dict[str, NDArray[Any]]:
    prefix = "m60x200_"
    with np.load(GOLDEN / "metrics_cases.npz") as file:
        return {k.removeprefix(prefix): file[k] for k in file.files if k.startswith(prefix)}


def signs(seed: int, count: int) -> NDArray[np.float32]:
    """±1 in 16 dimensions, many of them twice: cosines are exact in float32, ties are real ties."""
    rng = np.random.default_rng(seed)
    distinct = 2 * rng.integers(0, 2, (1 + count // 3, 16)) - 1
    return distinct[rng.integers(len(distinct), size=count)].astype(np.float32)


def clusters(seed: int, count: int, people: int = 6) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((people, 12))
    found = centres[rng.integers(people, size=count)] + 0.6 * rng.standard_normal((count, 12))
    return found.astype(np.float32)


def slow_distances(features: NDArray[Any]) -> list[list[float]]:
    """Squared Euclid of the normalised rows, divided by the largest of each row."""
    unit = [row / np.linalg.norm(row) for row in features.astype(np.float64)]
    squared = [[float(((a - b) ** 2).sum()) for b in unit] for a in unit]
    return [[d / (max(row) or 1.0) for d in row] for row in squared]


def slow_jaccard(distance: list[list[float]], k1: int, k2: int) -> NDArray[np.float64]:
    """J of the module's head, with sets and dictionaries."""
    everyone = range(len(distance))

    def near(i: int, k: int) -> list[int]:
        return sorted(everyone, key=lambda j: (j != i, round(distance[i][j], 12), j))[:k]

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in near(i, k + 1) if i in near(j, k + 1)}

    half = round(k1 / 2)
    encodings: list[dict[int, float]] = []
    for i in everyone:
        members = set(own := reciprocal(i, k1))
        for j in own:
            theirs = reciprocal(j, half)
            if len(theirs & own) > 2 / 3 * len(theirs):
                members |= theirs
        weights = {j: math.exp(-distance[i][j]) for j in members}
        encodings.append({j: w / sum(weights.values()) for j, w in weights.items()})
    means = []
    for i in everyone:
        sources = near(i, k2)
        columns = {c for s in sources for c in encodings[s]}
        means.append(
            {c: sum(encodings[s].get(c, 0) for s in sources) / len(sources) for c in columns}
        )
    result = np.empty((len(distance), len(distance)))
    for i in everyone:
        for j in everyone:
            columns = means[i].keys() | means[j].keys()
            pairs = [(means[i].get(c, 0), means[j].get(c, 0)) for c in columns]
            result[i, j] = 1 - sum(map(min, pairs)) / sum(map(max, pairs))
    return result


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.integers(1, 22),
    st.integers(1, 9),
    st.integers(1, 8),
    st.sampled_from([0, 0.3, 1]),
    st.sampled_from([signs, clusters]),
)
def test_agrees_with_the_formula(
    seed: int, queries: int, gallery: int, k1: int, k2: int, weight: float, make: Any
) -> None:
    features = make(seed, queries + gallery)
    distance = slow_distances(features)
    expected = (1 - weight) * slow_jaccard(distance, k1, k2) + weight * np.array(distance)
    found = rerank(features[:queries], features[queries:], k1=k1, k2=k2, lambda_value=weight)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected[:queries, queries:], atol=1e-5)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 9), st.integers(1, 5))
def test_jaccard_of_one_set_agrees_with_the_formula(
    seed: int, count: int, k1: int, k2: int
) -> None:
    features = signs(seed, count)
    found = jaccard_distance(features, k1=k1, k2=k2)
    np.testing.assert_allclose(found, slow_jaccard(slow_distances(features), k1, k2), atol=1e-5)
    np.testing.assert_allclose(found, found.T, atol=1e-6)
    np.testing.assert_allclose(np.diag(found), 0, atol=1e-6)


def test_matches_the_published_code(
    golden: dict[str, NDArray[Any]], case: dict[str, NDArray[Any]]
) -> None:
    query, gallery = case["qf"], case["gf"]
    np.testing.assert_allclose(rerank(query, gallery), golden["k20"], atol=1e-5)
    np.testing.assert_allclose(rerank(query, gallery, k1=30)[:15], golden["k30"], atol=1e-5)
    np.testing.assert_allclose(rerank(query, gallery, k2=1)[:30], golden["k20_no_mean"], atol=1e-5)
    everyone = np.concatenate([query, gallery])
    between = jaccard_distance(everyone)[:30, len(query) :]
    np.testing.assert_allclose(between, golden["jaccard_k30"], atol=1e-5)


def test_measures_of_the_re_ranked_match_and_beat_the_plain_ones(
    golden: dict[str, NDArray[Any]], case: dict[str, NDArray[Any]]
) -> None:
    labels = Labels(
        case["q_pids"],
        case["g_pids"],
        query_camids=case["q_camids"],
        gallery_camids=case["g_camids"],
    )
    metrics = measure_distances(rerank(case["qf"], case["gf"]), labels=labels)
    assert metrics.mAP == pytest.approx(float(golden["k20_mAP"]), abs=1e-4)
    np.testing.assert_allclose(metrics.cmc, golden["k20_cmc"], atol=1e-6)
    assert metrics.mAP > measure(case["qf"], case["gf"], labels=labels).mAP


def test_scale_and_type_of_embeddings_do_not_matter() -> None:
    query, gallery = clusters(0, 5), clusters(1, 30)
    plain = rerank(query, gallery, k1=6)
    np.testing.assert_allclose(
        rerank(7 * query.astype(np.float64), gallery, k1=6), plain, atol=1e-6
    )


def test_the_result_can_be_ranked() -> None:
    features = np.repeat(np.eye(4, dtype=np.float32), 3, axis=0)
    result = rank_distances(rerank(features[::3], features, k1=2, k2=1), top_k=3)
    assert result.indices.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_equal_and_zero_embeddings_give_numbers() -> None:
    for features in (np.ones((30, 4)), np.zeros((30, 4)), np.eye(30)[:, :2]):
        for found in (rerank(features[:3], features), jaccard_distance(features)):
            assert np.isfinite(found).all()
            assert found.min() >= -1e-6
            assert found.max() <= 1 + 1e-6


def test_blocks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery = clusters(2, 9), clusters(3, 50)
    whole = rerank(query, gallery, k1=8)
    monkeypatch.setattr(similarity, "FEWEST_ROWS", 1)
    monkeypatch.setattr(similarity, "BLOCK_BYTES", 7 * 59 * 4)
    monkeypatch.setattr(reranking, "_ROWS", 5)
    monkeypatch.setattr(reranking, "_JACCARD_ROWS", 4)
    np.testing.assert_allclose(rerank(query, gallery, k1=8), whole, atol=1e-6)
    monkeypatch.setattr(reranking, "_JACCARD_PAIRS", 1)
    np.testing.assert_allclose(rerank(query, gallery, k1=8), whole, atol=1e-6)


def test_memory_stays_below_one_square_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "BLOCK_BYTES", 2**20)
    count = 4000
    features = clusters(4, count, people=400)
    tracemalloc.start()
    rerank(features[:200], features[200:])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < count * count * 4 / 2


def test_sparse_rows_are_the_matrix_they_stand_for() -> None:
    rng = np.random.default_rng(5)
    dense = rng.random((7, 7), dtype=np.float32) * (rng.random((7, 7)) < 0.4)
    row, column = np.nonzero(dense)
    starts = np.searchsorted(row, np.arange(8))
    sparse = SparseRows(starts, column.astype(np.int32), dense[row, column])
    for wanted in ([3], [6, 0, 0], []):
        place, columns, values = sparse.take(np.array(wanted, np.int64))
        rebuilt = np.zeros((len(wanted), 7), np.float32)
        rebuilt[place, columns] = values
        np.testing.assert_array_equal(rebuilt, dense[np.array(wanted, np.int64)])
    turned = sparse.transposed(range(2, 6))
    place, columns, values = turned.take(np.arange(7))
    rebuilt = np.zeros((7, 4), np.float32)
    rebuilt[place, columns] = values
    np.testing.assert_array_equal(rebuilt, dense[2:6].T)


def test_encodings_sum_to_one_and_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    features = clusters(6, 40)
    encoding = encode(features, k1=8, k2=3)
    sums = np.add.reduceat(encoding.values, encoding.starts[:-1])
    np.testing.assert_allclose(sums, 1, atol=1e-6)
    whole = jaccard_distance(features, k1=8, k2=3)
    for start, block in jaccard_blocks(encoding, range(10, 30), range(5, 40)):
        rows = slice(10 + start, 10 + start + len(block))
        np.testing.assert_allclose(block, whole[rows, 5:40], atol=1e-6)
    monkeypatch.setattr(reranking, "_JACCARD_PAIRS", 1)
    pieces = jaccard_blocks(encoding, range(10, 30), range(5, 40))
    assert [(start, len(block)) for start, block in pieces] == [(n, 1) for n in range(20)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": 0}, "k1 is 0"),
        ({"k2": 0}, "k2 is 0"),
        ({"lambda_value": 1.5}, "lambda_value is 1.5"),
        ({"lambda_value": math.nan}, "lambda_value is nan"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rerank([[1.0, 0.0]], [[1.0, 0.0]], **options)


def test_embeddings_are_checked() -> None:
    with pytest.raises(EmbeddingError, match="same model"):
        rerank([[1.0, 0.0]], [[1.0]])
    with pytest.raises(EmbeddingError, match="features holds NaN"):
        jaccard_distance([[math.nan]])
