"""Vectors of a gallery in memory, searched flat by FAISS.

Each vector is kept twice: as float16, which decides, and as one bit a number after a fixed
rotation, which finds the few thousand worth comparing. There is nothing to train or to build.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from passreid.similarity import F32, I64

F16 = NDArray[np.float16]
U8 = NDArray[np.uint8]
Mask = NDArray[np.bool_]

CANDIDATES = 3000
"""Nearest by their bits whose float16 vectors are compared; more where more hits are asked for."""
_PER_HIT = 50
_COARSE_FROM = 40_000_000
"""Numbers of all vectors together that are compared one by one as fast as through their bits."""
_GATHERED = 2048
"""Vectors that are compared sooner than FAISS looks through a selection."""
_MARGIN = 32
_ROUNDS = 3


@lru_cache(maxsize=4)
def rotation(dim: int) -> F32:
    """Return a fixed orthogonal matrix (D, D) that spreads what a vector holds over its numbers.

    Three rounds of random signs and Hadamard transforms over the first and the last power of two
    numbers. It is made of sums and signs alone, so that it is the same on every machine: the bits
    of stored vectors depend on it.
    """
    signs = random.Random(dim)
    width = 1 << (dim.bit_length() - 1)
    hadamard = np.ones((1, 1))
    while len(hadamard) < width:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    hadamard /= np.sqrt(width)
    matrix = np.eye(dim)
    for _ in range(_ROUNDS):
        matrix *= np.array([1 - 2 * signs.getrandbits(1) for _ in range(dim)])
        matrix[:, :width] = matrix[:, :width] @ hadamard
        matrix[:, dim - width :] = matrix[:, dim - width :] @ hadamard
    return matrix.astype(np.float32)


def to_bits(rows: F32) -> U8:
    """Return the signs of rotated rows (N, D), eight a byte: (N, ceil(D / 8))."""
    return np.packbits(rows @ rotation(rows.shape[1]) > 0, axis=1)


class Nearest(NamedTuple):
    """Positions of vectors and their cosines with a query, best first."""

    positions: I64
    scores: F32


class VectorIndex:
    """Unit vectors by their position, in the order they were appended.

    Args:
        dim: Numbers in a vector.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._full = faiss.IndexScalarQuantizer(
            dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        self._coarse = faiss.IndexBinaryFlat(8 * (-(-dim // 8)))
        self._coarse.use_heap = False  # counting distances is faster for thousands of candidates
        self._room = 0

    def __len__(self) -> int:
        return int(self._full.ntotal)

    @property
    def rows(self) -> F16:
        """The vectors (N, D) where they lie."""
        codes = self._full.codes
        held = faiss.rev_swig_ptr(codes.data(), codes.size()) if self._room else np.empty(0, "u1")
        rows: F16 = held.view(np.float16).reshape(-1, self._dim)[: len(self)]
        return rows

    @property
    def _bits(self) -> U8:
        codes = self._coarse.xb
        held = faiss.rev_swig_ptr(codes.data(), codes.size()) if self._room else np.empty(0, "u1")
        bits: U8 = held.reshape(-1, self._coarse.code_size)[: len(self)]
        return bits

    def reserve(self, count: int) -> None:
        """Make room for `count` vectors altogether."""
        if count > self._room:
            # FAISS's own growth doubles what is there, of which a million entries have no two.
            self._full.codes.resize(count * self._full.code_size)
            self._coarse.xb.resize(count * self._coarse.code_size)
            self._room = count

    def append(self, rows: F16, bits: U8) -> None:
        """Append vectors (N, D) and their bits (N, ceil(D / 8))."""
        start, end = len(self), len(self) + len(rows)
        if end > self._room:
            self.reserve(max(end, self._room + self._room // 4, 1024))
        self._full.ntotal = self._coarse.ntotal = end
        self.rows[start:] = rows
        self._bits[start:] = bits

    def keep(self, kept: Mask) -> None:
        """Drop the vectors that are not kept; the others move together."""
        left = int(kept.sum())
        self.rows[:left] = self.rows[kept]
        self._bits[:left] = self._bits[kept]
        self.rows[left:] = 0
        self._bits[left:] = 0
        self._full.ntotal = self._coarse.ntotal = left

    def search(
        self, queries: F32, limit: int, *, kept: Mask | None = None, exact: bool = False
    ) -> list[Nearest]:
        """Find the vectors nearest to each query.

        Args:
            queries: (T, D) at unit length.
            limit: Answers for each, at most.
            kept: (N,) which vectors count; None is all.
            exact: Compare the float16 vectors of all of them, however many there are.
        """
        passing = len(self) if kept is None else int(kept.sum())
        limit = min(limit, passing)
        if limit == 0:
            return [Nearest(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        if passing <= _GATHERED:
            chosen = np.arange(len(self)) if kept is None else np.flatnonzero(kept)
            return [self._best(query, chosen, limit) for query in queries]
        options = None
        if kept is not None:
            bits = np.packbits(kept, bitorder="little")
            options = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
        many = min(max(CANDIDATES, _PER_HIT * limit), passing)
        if not exact and passing * self._dim >= _COARSE_FROM and 8 * many <= passing:
            _, found = self._coarse.search(to_bits(queries), many, params=options)
        else:
            many = min(limit + _MARGIN, passing)
            _, found = self._full.search(queries, many, params=options)
        return [
            self._best(query, chosen[chosen >= 0], limit)
            for query, chosen in zip(queries, found, strict=True)
        ]

    def _best(self, query: F32, chosen: I64, limit: int) -> Nearest:
        """Compare chosen vectors with a query, each on its own: equal ones score the same."""
        scores = np.einsum("nd,d->n", self.rows[chosen].astype(np.float32), query)
        if limit < len(chosen):
            part = np.argpartition(-scores, limit - 1)[:limit]
            chosen, scores = chosen[part], scores[part]
        order = np.argsort(-scores, kind="stable")
        return Nearest(chosen[order], np.clip(scores[order], -1, 1))
