"""k-reciprocal re-ranking (Zhong et al. 2017, "Re-ranking Person Re-identification with
k-reciprocal Encoding") in bounded memory.

Two images are alike when they have the same neighbours. With all N = Q + G images together:

    d(i, j)  = |x_i - x_j|² / max_j |x_i - x_j|²             x L2-normalised
    N(i, k)  = the k nearest to i, i itself included
    R(i, k)  = {j in N(i, k + 1) : i in N(j, k + 1)}
    R*(i)    = R(i, k1) and every R(j, k1 / 2), j in R(i, k1), that lies in it by more than 2/3
    V_ij     = exp(-d(i, j)) / sum_l exp(-d(i, l))           for j in R*(i), else 0
    V̄_i      = mean of V_j over j in N(i, k2)
    J(i, j)  = 1 - sum_l min(V̄_il, V̄_jl) / sum_l max(V̄_il, V̄_jl)

and the result is (1 - lambda) J + lambda d. Only neighbour lists and the entries of V that are not
zero are kept; N x N similarities exist a block of rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from passreid.errors import UsageError
from passreid.similarity import F32, I64, best, in_threads, product_blocks, unit_pair, unit_rows

I32 = NDArray[np.int32]

# Rows that are expanded together: enough to keep NumPy busy, few enough to stay in the cache.
_ROWS = 256
_JACCARD_ROWS = 16
_JACCARD_PAIRS = 2**21
# Below the rounding of 2 - 2 cos in float32; keeps a set of equal images from dividing by zero.
_SMALLEST_DISTANCE = np.float32(1e-6)


@dataclass(frozen=True, eq=False)
class SparseRows:
    """A matrix by its entries that are not zero, row after row.

    Attributes:
        starts: (N + 1,) where each row begins in the other two.
        columns: (E,) column of each entry, rising within a row.
        values: (E,) the entries.
    """

    starts: I64
    columns: I32
    values: F32

    def take(self, rows: NDArray[np.integer]) -> tuple[I64, I32, F32]:
        """The entries of `rows`, one after the other: place in `rows`, column and value of each."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        ends = np.cumsum(lengths)
        owner = np.repeat(np.arange(len(rows)), lengths)
        entry = np.arange(len(owner)) + np.repeat(self.starts[rows] - ends + lengths, lengths)
        return owner, self.columns[entry], self.values[entry]

    def transposed(self, rows: range) -> SparseRows:
        """The same entries by column, of some `rows` only, which count from 0 then."""
        bounds = self.starts[rows.start : rows.stop + 1]
        first, last = bounds[0], bounds[-1]
        columns = self.columns[first:last]
        owner = np.repeat(np.arange(len(rows), dtype=np.int32), np.diff(bounds))
        order = np.argsort(columns, kind="stable")
        counts = np.bincount(columns, minlength=len(self.starts) - 1)
        return SparseRows(_starts(counts), owner[order], self.values[first:last][order])


@dataclass(frozen=True, eq=False)
class _Neighbours:
    """The nearest images of each image, itself first, and how far they are (d above)."""

    index: I32
    distance: F32
    farthest: F32


def rerank(
    query: ArrayLike,
    gallery: ArrayLike,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> F32:
    """Re-rank by k-reciprocal neighbours: (Q, G) float32 distances for `rank_distances`.

    Args:
        query: (Q, D) embeddings, normalised or not.
        gallery: (G, D) embeddings of the same model.
        k1: Size of the neighbourhoods.
        k2: Neighbours whose encodings are averaged; 1 switches that off.
        lambda_value: Weight of the plain distance, 0 to 1.

    Raises:
        EmbeddingError: Embeddings that are not 2-D, of two widths, empty or not finite.
        UsageError: `k1`, `k2` or `lambda_value` out of range.
    """
    if not 0 <= lambda_value <= 1:
        raise UsageError(f"lambda_value is {lambda_value}; it must lie between 0 and 1.")
    rows, columns = unit_pair(query, gallery)
    queries = len(rows)
    result = np.empty((queries, len(columns)), np.float32)
    encoding, farthest = _encode(np.concatenate((rows, columns)), k1, k2, cosines=result)
    scale = np.float32(lambda_value) / farthest[:queries, None]
    gallery_rows = range(queries, len(farthest))
    for start, jaccard in jaccard_blocks(encoding, range(queries), gallery_rows):
        block = result[start : start + len(jaccard)]
        plain = np.maximum(2 - 2 * block, 0) * scale[start : start + len(jaccard)]
        np.add(plain, np.float32(1 - lambda_value) * jaccard, out=block)
    return result


def jaccard_distance(features: ArrayLike, *, k1: int = 30, k2: int = 6) -> F32:
    """Jaccard distances J of one set to itself, (N, N) float32: what clustering starts from.

    `encode` and `jaccard_blocks` give the same a few rows at a time, for sets whose square does
    not fit into memory.

    Raises:
        EmbeddingError: Embeddings that are not 2-D, empty or not finite.
        UsageError: `k1` or `k2` below 1.
    """
    encoding = encode(features, k1=k1, k2=k2)
    everything = range(len(encoding.starts) - 1)
    result = np.empty((len(everything), len(everything)), np.float32)
    for start, block in jaccard_blocks(encoding, everything, everything):
        result[start : start + len(block)] = block
    return result


def encode(features: ArrayLike, *, k1: int, k2: int) -> SparseRows:
    """The k-reciprocal encoding V̄ of (N, D) embeddings, (N, N); each row sums to 1."""
    return _encode(unit_rows(features, "features"), k1, k2)[0]


def jaccard_blocks(encoding: SparseRows, rows: range, columns: range) -> Iterator[tuple[int, F32]]:
    """Yield (first row, block of J) between two stretches of the encoded images.

    As rows of V̄ sum to 1, the sum of maxima is 2 minus the sum of minima.
    """
    by_column = encoding.transposed(columns)
    pairs = np.concatenate([[0], np.cumsum(np.diff(by_column.starts)[encoding.columns])])
    pairs_before = pairs[encoding.starts]
    start = rows.start
    while start < rows.stop:
        enough = int(np.searchsorted(pairs_before, pairs_before[start] + _JACCARD_PAIRS))
        stop = min(enough, start + _JACCARD_ROWS, rows.stop)
        owner, shared, value = encoding.take(np.arange(start, stop))
        entry, other, other_value = by_column.take(shared)
        place = owner[entry] * len(columns) + other
        overlap = np.bincount(
            place,
            weights=np.minimum(value[entry], other_value),
            minlength=(stop - start) * len(columns),
        ).reshape(stop - start, len(columns))
        yield start - rows.start, (1 - overlap / (2 - overlap)).astype(np.float32)
        start = stop


def _encode(features: F32, k1: int, k2: int, cosines: F32 | None = None) -> tuple[SparseRows, F32]:
    """V̄ of normalised features, and the largest squared distance of each image."""
    if k1 < 1 or k2 < 1:
        raise UsageError(f"k1 is {k1} and k2 is {k2}; both must be at least 1.")
    near = _neighbours(features, max(k1 + 1, k2), cosines)
    members = _expanded(near.index, k1)
    encoding = _weighted(members, near, features)
    if k2 > 1:
        encoding = _averaged(encoding, near.index[:, :k2])
    return encoding, near.farthest


def _neighbours(features: F32, count: int, cosines: F32 | None) -> _Neighbours:
    """Find the `count` nearest of each image; query x gallery cosines are kept in `cosines`."""
    size = len(features)
    count = min(count, size)
    index = np.empty((size, count), np.int32)
    distance = np.empty((size, count), np.float32)
    farthest = np.empty(size, np.float32)
    for start, block in product_blocks(features, features):
        stop = start + len(block)
        if cosines is not None:
            kept = cosines[start:stop]
            kept[...] = block[: len(kept), len(cosines) :]
        farthest[start:stop] = 2 - 2 * block.min(axis=1)
        # Above every cosine: an image is its own nearest, whatever rounding says of duplicates.
        block[np.arange(len(block)), np.arange(start, stop)] = 2
        index[start:stop], similarity = best(block, count)
        distance[start:stop] = np.maximum(2 - 2 * similarity, 0)
    farthest = np.maximum(farthest, _SMALLEST_DISTANCE)
    return _Neighbours(index, distance / farthest[:, None], farthest)


def _reciprocal(nearest: I32) -> I32:
    """Keep j in i's list where i is in j's; -1 elsewhere."""
    kept = np.empty_like(nearest)
    for start in range(0, len(nearest), _ROWS):
        part = nearest[start : start + _ROWS]
        mine = np.arange(start, start + len(part), dtype=np.int32)[:, None, None]
        kept[start : start + _ROWS] = np.where((nearest[part] == mine).any(axis=2), part, -1)
    return kept


def _expanded(index: I32, k1: int) -> list[tuple[I64, I64]]:
    """R*(i) of all images: pairs (image, member) in rising order, block after block."""
    reciprocal = _reciprocal(np.ascontiguousarray(index[:, : k1 + 1]))
    # k1 / 2 is rounded half to even, as the published code rounds.
    half = _reciprocal(np.ascontiguousarray(index[:, : round(k1 / 2) + 1]))
    half_sizes = np.count_nonzero(half >= 0, axis=1)

    def work(part: range) -> list[tuple[I64, I64]]:
        return [
            _expand_rows(np.arange(s, min(s + _ROWS, part.stop)), reciprocal, half, half_sizes)
            for s in range(part.start, part.stop, _ROWS)
        ]

    return [pairs for found in in_threads(work, len(index)) for pairs in found]


def _expand_rows(rows: I64, reciprocal: I32, half: I32, half_sizes: I64) -> tuple[I64, I64]:
    """`_expanded` for some rows."""
    own = reciprocal[rows]
    place, slot = np.nonzero(own >= 0)
    member = own[place, slot]
    candidates = half[member]
    inside = (candidates[:, :, None] == own[place][:, None, :]).any(axis=2) & (candidates >= 0)
    joins = 3 * np.count_nonzero(inside, axis=1) > 2 * half_sizes[member]
    added = (candidates >= 0) & joins[:, None]
    owner = np.concatenate([rows[place], np.repeat(rows[place], added.sum(axis=1))])
    keys = np.unique(owner * len(half) + np.concatenate([member, candidates[added]]))
    return keys // len(half), keys % len(half)


def _weighted(members: list[tuple[I64, I64]], near: _Neighbours, features: F32) -> SparseRows:
    """V from the members of each image's R*."""

    def work(part: range) -> list[F32]:
        return [_weights(*members[m], near, features) for m in part]

    values = [v for found in in_threads(work, len(members)) for v in found]
    counts = np.bincount(np.concatenate([m[0] for m in members]), minlength=len(features))
    columns = np.concatenate([m[1] for m in members]).astype(np.int32)
    return SparseRows(_starts(counts), columns, np.concatenate(values))


def _weights(row: I64, column: I64, near: _Neighbours, features: F32) -> F32:
    """exp(-d) of some pairs, whole rows of them, normalised in each row."""
    at = near.index[row] == column[:, None].astype(np.int32)
    distance = near.distance[row, at.argmax(axis=1)]
    # Members that came with an expansion need not be near: their distance is new.
    far = np.flatnonzero(~at.any(axis=1))
    for start in range(0, len(far), 4 * _ROWS):
        pairs = far[start : start + 4 * _ROWS]
        cosine = np.einsum("pd,pd->p", features[row[pairs]], features[column[pairs]])
        distance[pairs] = np.maximum(2 - 2 * cosine, 0) / near.farthest[row[pairs]]
    weight = np.exp(-distance)
    place = row - row[0]
    share: F32 = (weight / np.bincount(place, weights=weight)[place]).astype(np.float32)
    return share


def _averaged(encoding: SparseRows, nearest: I32) -> SparseRows:
    """Mean of the encodings of each image's nearest ones."""

    def work(part: range) -> list[tuple[I64, I32, F32]]:
        return [
            _average_rows(encoding, nearest[s : min(s + _ROWS, part.stop)])
            for s in range(part.start, part.stop, _ROWS)
        ]

    parts = [p for found in in_threads(work, len(nearest)) for p in found]
    counts, columns, values = (np.concatenate([p[i] for p in parts]) for i in range(3))
    return SparseRows(_starts(counts), columns, values)


def _average_rows(encoding: SparseRows, nearest: I32) -> tuple[I64, I32, F32]:
    """`_averaged` for some rows: their numbers of entries, columns and values."""
    rows, k2 = nearest.shape
    owner, column, value = encoding.take(nearest.ravel())
    keys = owner // k2 * (len(encoding.starts) - 1) + column
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    sums = np.add.reduceat(value[order], first) / np.float32(k2)
    row, column = np.divmod(keys[first], len(encoding.starts) - 1)
    return np.bincount(row, minlength=rows), column.astype(np.int32), sums


def _starts(counts: NDArray[np.integer]) -> I64:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
