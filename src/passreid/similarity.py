"""Embeddings as unit rows, and walks over blocks of their similarities in bounded memory.

Ranking and re-ranking stand on these: rows are checked once at the door, matrix products are as
large as `BLOCK_BYTES` allows, and work on single rows runs in threads (NumPy's sorts and partitions
let other threads run).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from passreid.errors import EmbeddingError, UsageError

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
T = TypeVar("T")

BLOCK_BYTES = 32 * 2**20
# Fewer rows make a product slow: all columns pass through memory for each block.
FEWEST_ROWS = 64


def unit_rows(embeddings: ArrayLike, name: str) -> F32:
    """Check (N, D) embeddings and return an L2-normalised float32 copy; a zero row stays zero.

    Raises:
        EmbeddingError: Not 2-D numbers, empty or not finite; the message calls them `name`.
    """
    rows = _finite(as_matrix(embeddings, name), name)
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    norms[norms == 0] = 1
    np.divide(rows, norms[:, None], out=rows, casting="same_kind")
    return rows


def unit_pair(query: ArrayLike, gallery: ArrayLike) -> tuple[F32, F32]:
    """`unit_rows` of two sides, which must have one width."""
    rows, columns = unit_rows(query, "query"), unit_rows(gallery, "gallery")
    if rows.shape[1] != columns.shape[1]:
        raise EmbeddingError(
            f"query embeddings have {rows.shape[1]} numbers and gallery embeddings "
            f"{columns.shape[1]}: embed both with the same model."
        )
    return rows, columns


def product_blocks(rows: F32, columns: F32) -> Iterator[tuple[int, F32]]:
    """Yield (first row, block of `rows @ columns.T`); the next step overwrites the block.

    Byte-identical rows or columns get identical products wherever they stand. BLAS sums in an
    order that depends on the position, so copies take the products of the first one.
    """
    step = max(FEWEST_ROWS, BLOCK_BYTES // (4 * len(columns)))
    buffer = np.empty((min(step, len(rows)), len(columns)), np.float32)
    first_column, first_row = first_equal(columns), first_equal(rows)
    copied = np.flatnonzero(first_column != np.arange(len(columns)))
    last_copy = {int(first): row for row, first in enumerate(first_row) if first != row}
    kept: dict[int, F32] = {}  # products of rows whose copies are in a later block
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        block = np.matmul(part, columns.T, out=buffer[: len(part)])
        block[:, copied] = block[:, first_column[copied]]
        for place, first in enumerate(first_row[start : start + step].tolist()):
            row = start + place
            if first < row:
                block[place] = block[first - start] if first >= start else kept[first]
                if last_copy[first] == row:
                    kept.pop(first, None)
            elif last_copy.get(row, 0) >= start + len(part):
                kept[row] = block[place].copy()
        yield start, block


def first_equal(rows: F32) -> I64:
    """Find for each row the first row that equals it byte for byte: (N,) indices."""
    seen: dict[int, int] = {}
    first = np.array([seen.setdefault(hash(row.tobytes()), n) for n, row in enumerate(rows)])
    copies = np.flatnonzero(first != np.arange(len(rows)))
    collided = copies[(rows[copies] != rows[first[copies]]).any(axis=1)]
    first[collided] = collided
    return first


def in_threads(work: Callable[[range], T], rows: int) -> list[T]:
    """Run `work` on consecutive ranges of `rows`, one for each core; results in order."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = max(1, min(cores or 1, rows))
    edges = [rows * w // workers for w in range(workers + 1)]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, map(range, edges[:-1], edges[1:])))


def best(scores: F32, top_k: int, floor: float = -np.inf) -> tuple[I64, F32]:
    """Indices and values of each row's `top_k` largest above -inf and from `floor` on.

    Ties keep column order. Rows with fewer are padded with -1 and NaN.
    """
    if top_k < 1:
        raise UsageError(f"top_k is {top_k}; ask for at least one hit.")
    if np.isnan(floor):
        raise UsageError("The threshold is NaN; nothing can be held against that.")
    rows, width = scores.shape
    top_k = min(top_k, width)
    indices = np.full((rows, top_k), -1, np.int64)
    values = np.full((rows, top_k), np.nan, np.float32)
    lowest = np.float32(max(floor, np.finfo(np.float32).min))

    def work(part: range) -> None:
        for row in part:
            line = scores[row]
            last = np.partition(line, width - top_k)[width - top_k]
            # More than top_k where the last place is shared; the stable sort settles who stays.
            found = np.flatnonzero(line >= max(last, lowest))
            found = found[np.argsort(-line[found], kind="stable")[:top_k]]
            indices[row, : len(found)] = found
            values[row, : len(found)] = line[found]

    in_threads(work, rows)
    return indices, values


def as_matrix(values: ArrayLike, name: str) -> NDArray[Any]:
    """`values` as a 2-D array of real numbers with at least one entry."""
    try:
        matrix = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise EmbeddingError(f"{name} cannot be read as a matrix: {error}.") from error
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise EmbeddingError(
            f"{name} must be a matrix of numbers, one row for each image, not {matrix.dtype} of "
            f"shape {matrix.shape}; a single vector goes in as vector[None]."
        )
    if not matrix.size:
        raise EmbeddingError(f"{name} of shape {matrix.shape} is empty: give at least one image.")
    return matrix


def _finite(matrix: NDArray[Any], name: str) -> F32:
    """A float32 copy, which must hold no NaN or infinity."""
    with np.errstate(over="ignore"):
        copy = matrix.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(copy).all(axis=1))
    if bad.size:
        raise EmbeddingError(f"{name} holds NaN or infinity, first in row {bad[0]}.")
    return copy


def negated_blocks(distances: NDArray[Any]) -> Iterator[tuple[int, F32]]:
    """Yield (first row, block of -distances as float32)."""
    step = max(1, BLOCK_BYTES // (4 * distances.shape[1]))
    for start in range(0, len(distances), step):
        block = _finite(distances[start : start + step], "distances")
        yield start, np.negative(block, out=block)
