"""Rank a gallery for each query, and measure a labelled ranking: CMC, mAP, mINP.

    rank(query, gallery)                       -> Ranking     the best gallery images of each query
    measure(query, gallery, labels=Labels(…))  -> Metrics     how good that order is

`rank_distances` and `measure_distances` do the same on a (Q, G) matrix, as of re-ranked distances.
All walk over blocks of scores, a few query rows at a time, in which larger is better and ties keep
gallery order; so memory does not grow with Q x G.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray

from passreid.errors import DatasetError
from passreid.labels import JUNK, UNKNOWN_CLOTHES, Labels
from passreid.similarity import (
    F32,
    I64,
    as_matrix,
    best,
    in_threads,
    negated_blocks,
    product_blocks,
    unit_pair,
)

Bool = NDArray[np.bool_]
F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Ranking:
    """The best gallery images of each query, best first.

    Attributes:
        indices: (Q, K) int64 positions in the gallery; -1 where there is no further hit.
        similarity: (Q, K) float32, falling along each row; NaN where there is no hit. The cosine,
            or 1 - distance where distances were ranked.
    """

    indices: I64
    similarity: F32

    def __post_init__(self) -> None:
        if self.indices.ndim != 2 or self.indices.shape != self.similarity.shape:
            raise ValueError("indices and similarity must be of one (queries, hits) shape")
        none = self.indices < 0
        if (none != np.isnan(self.similarity)).any() or (none[:, :-1] & ~none[:, 1:]).any():
            raise ValueError("missing hits must be -1 and NaN at the end of a row")
        if (np.diff(self.similarity, axis=1) > 0).any():
            raise ValueError("similarity must fall along each row")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, queries: int | slice | Bool | I64) -> Ranking:
        """The ranking of some queries: an index, a slice, a mask or an array of indices."""
        chosen = np.atleast_1d(np.arange(len(self))[queries])
        return Ranking(self.indices[chosen], self.similarity[chosen])

    def hits(self, query: int) -> list[tuple[int, float]]:
        """One query's hits as (gallery index, similarity), best first; empty means no match."""
        found = zip(self.indices[query].tolist(), self.similarity[query].tolist(), strict=True)
        return [(index, similarity) for index, similarity in found if index >= 0]

    def no_match(self, threshold: float | None = None) -> Bool:
        """(Q,) True where a query has no hit at all, or none as similar as `threshold`."""
        floor = np.float32(-np.inf if threshold is None else threshold)
        matched: Bool = (self.similarity >= floor).any(axis=1)
        return ~matched

    def __repr__(self) -> str:
        none = np.count_nonzero(self.no_match())
        return f"Ranking({len(self)} queries, top {self.indices.shape[1]}, {none} without a match)"


@dataclass(frozen=True, eq=False, repr=False)
class Metrics:
    """How well a gallery was ranked; averages are over the queries that have a positive.

    Attributes:
        cmc: (max_rank,) Rank-1, Rank-2, …; beyond a short gallery the last value stays.
        mAP: Mean of `average_precision`, a fraction.
        mINP: Mean inverse negative penalty, positives / rank of the last one (Ye et al. 2021).
        average_precision: (Q,) non-interpolated: the mean over a query's positives of
            (positives up to it) / (its rank). NaN without a positive.
        first_hit: (Q,) rank of the first positive, from 1; 0 without a positive.
        best_mate: (Q,) float32 highest score of a positive; -inf without one.
        best_stranger: (Q,) float32 highest score of what counts and is no positive: the first hit
            of a search whose person is absent; -inf where there is none.
    """

    cmc: F64
    mAP: float  # noqa: N815 - the field's own spelling
    mINP: float  # noqa: N815 - the field's own spelling
    average_precision: F64
    first_hit: I64
    best_mate: F32
    best_stranger: F32

    @property
    def valid(self) -> Bool:
        """(Q,) True where the query has a positive and so counts."""
        return self.first_hit > 0

    @property
    def invalid(self) -> I64:
        """Indices of the queries that do not count."""
        return np.flatnonzero(~self.valid)

    def rank(self, k: int) -> float:
        """Rank-k: the fraction of queries with a positive among their first `k`."""
        return float((self.first_hit[self.valid] <= k).mean())

    def __repr__(self) -> str:
        return (
            f"Metrics(mAP {self.mAP:.2%}, mINP {self.mINP:.2%}, Rank-1 {self.rank(1):.2%}, "
            f"{np.count_nonzero(self.valid)} of {len(self.valid)} queries count)"
        )


def rank(
    query: ArrayLike,
    gallery: ArrayLike,
    *,
    top_k: int = 10,
    threshold: float | None = None,
    labels: Labels | None = None,
) -> Ranking:
    """Find the gallery embeddings of largest cosine for each query.

    Args:
        query: (Q, D) embeddings, normalised or not.
        gallery: (G, D) embeddings of the same model.
        top_k: Hits for each query, at most G.
        threshold: Smallest cosine that is a hit; a query without one answers "no match".
        labels: Leave out what does not count in an evaluation (own camera, junk).

    Raises:
        EmbeddingError: Embeddings that are not 2-D, of two widths, empty or not finite.
        DatasetError: Labels of other lengths.
    """
    rows, columns = unit_pair(query, gallery)
    floor = -np.inf if threshold is None else threshold
    if labels is not None:
        labels.check(len(rows), len(columns))
    found = _rank(product_blocks(rows, columns), top_k, floor, labels)
    return Ranking(found[0], np.clip(found[1], -1, 1))


def rank_distances(
    distances: ArrayLike,
    *,
    top_k: int = 10,
    max_distance: float | None = None,
    labels: Labels | None = None,
) -> Ranking:
    """Rank by a (Q, G) matrix, smaller is nearer; `max_distance` is the largest that is a hit.

    Otherwise as `rank`. The similarity in the result is 1 - distance.
    """
    matrix = as_matrix(distances, "distances")
    floor = -np.inf if max_distance is None else -max_distance
    if labels is not None:
        labels.check(*matrix.shape)
    found = _rank(negated_blocks(matrix), top_k, floor, labels)
    return Ranking(found[0], np.float32(1) + found[1])


def measure(query: ArrayLike, gallery: ArrayLike, *, labels: Labels, max_rank: int = 50) -> Metrics:
    """Measure retrieval by cosine on a labelled set, by the rules of `Labels`.

    Args:
        query: (Q, D) embeddings, normalised or not.
        gallery: (G, D) embeddings of the same model.
        labels: People and cameras of both.
        max_rank: Length of the CMC.

    Raises:
        EmbeddingError: As for `rank`.
        DatasetError: Labels of other lengths, or not one query has a positive.
    """
    rows, columns = unit_pair(query, gallery)
    labels.check(len(rows), len(columns))
    return _measure(product_blocks(rows, columns), labels, max_rank)


def measure_distances(distances: ArrayLike, *, labels: Labels, max_rank: int = 50) -> Metrics:
    """Measure the order that a (Q, G) matrix gives, smaller is nearer; otherwise as `measure`."""
    matrix = as_matrix(distances, "distances")
    labels.check(*matrix.shape)
    return _measure(negated_blocks(matrix), labels, max_rank)


def _rank(
    blocks: Iterator[tuple[int, F32]], top_k: int, floor: float, labels: Labels | None
) -> tuple[I64, F32]:
    """`best` of every block, without the images that `labels` leaves out."""
    found = []
    for start, scores in blocks:
        if labels is not None:
            for row in range(len(scores)):
                scores[row, labels.split(start + row)[1]] = -np.inf
        found.append(best(scores, top_k, floor))
    return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])


def _measure(blocks: Iterator[tuple[int, F32]], labels: Labels, max_rank: int) -> Metrics:
    found = [f for start, scores in blocks for f in _measure_rows(scores, start, labels)]
    ranks = [f[0] for f in found]
    counted = [r for r in ranks if len(r)]
    if not counted:
        raise DatasetError(_nothing_to_find(labels))
    precision = [(np.arange(1, len(r) + 1) / r).mean() if len(r) else np.nan for r in ranks]
    first = np.array([r[0] if len(r) else 0 for r in ranks], np.int64)
    return Metrics(
        cmc=np.array([np.mean([r[0] <= k for r in counted]) for k in range(1, max_rank + 1)]),
        mAP=float(np.nanmean(precision)),
        mINP=float(np.mean([len(r) / r[-1] for r in counted])),
        average_precision=np.array(precision),
        first_hit=first,
        best_mate=np.array([f[1] for f in found], np.float32),
        best_stranger=np.array([f[2] for f in found], np.float32),
    )


def _measure_rows(
    scores: F32, start: int, labels: Labels
) -> Iterator[tuple[I64, np.float32, np.float32]]:
    """Yield each row's ranks of positives, and the best scores of positives and of strangers."""

    def work(part: range) -> list[tuple[I64, np.float32, np.float32]]:
        return [_measure_row(scores[row], *labels.split(start + row)) for row in part]

    return chain.from_iterable(in_threads(work, len(scores)))


def _measure_row(scores: F32, positive: Bool, ignored: Bool) -> tuple[I64, np.float32, np.float32]:
    """Count instead of sorting indices: a rank is 1 + the scores above + equal ones before."""
    places = np.flatnonzero(positive)
    scores[ignored] = -np.inf
    values, ordered = scores[places], np.sort(scores)
    upto = np.searchsorted(ordered, values, side="right")
    ranks = len(scores) - upto + 1
    for tie in np.flatnonzero(upto - np.searchsorted(ordered, values, side="left") > 1):
        ranks[tie] += np.count_nonzero(scores[: places[tie]] == values[tie])
    scores[places] = -np.inf
    return np.sort(ranks), values.max(initial=-np.inf), scores.max()


def _nothing_to_find(labels: Labels) -> str:
    """Why not one query has a positive, and what to do."""
    people = np.unique(labels.query_pids[labels.query_pids != JUNK])
    named = ", ".join(str(labels.people.get(pid, pid)) for pid in people[:5].tolist())
    named += ", …" if len(people) > 5 else ""
    if np.isin(people, labels.gallery_pids).any():
        return (
            f"No query (pids {named}) has a picture of its person by another camera in the "
            "gallery: pass camera_filter=False (--no-camera-filter) to count its own camera."
            + (
                " Pictures in the query's clothes are left out, too."
                if (labels.query_clothids != UNKNOWN_CLOTHES).any()
                else ""
            )
        )
    return (
        f"None of the {len(people)} people of the queries (pids {named}) is in the gallery: check "
        "that both folders belong together and name people alike."
    )
