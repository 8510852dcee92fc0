"""Who is probably the same person: DBSCAN over Jaccard distances.

Cluster contrast (Dai et al., 2021) as released in `PASS_cluster_contrast_reid`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from passreid.errors import MissingExtraError
from passreid.reranking import encode, jaccard_blocks


def cluster(
    features: ArrayLike, *, k1: int = 30, k2: int = 6, eps: float = 0.6, min_samples: int = 4
) -> NDArray[np.int64]:
    """Group crops by their k-reciprocal neighbours.

    Distances above `eps` are never kept, so memory grows with the crops and their neighbours and
    not with the square of the crops.

    Args:
        features: (N, D) embeddings.
        k1, k2: Neighbourhoods, as in `reranking.jaccard_distance`.
        eps: Largest Jaccard distance of neighbours.
        min_samples: Neighbours, itself included, that make a crop the core of a cluster.

    Returns:
        (N,) cluster of each crop, 0 … C - 1, and -1 for those that belong to none.

    Raises:
        EmbeddingError: Embeddings that are not 2-D, empty or not finite.
        MissingExtraError: scikit-learn is not installed.
    """
    dbscan = load_dbscan()
    graph = neighbours(features, k1=k1, k2=k2, eps=eps)
    found = dbscan(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(graph)
    return np.asarray(found, np.int64)


def neighbours(features: ArrayLike, *, k1: int, k2: int, eps: float) -> Any:
    """Return all Jaccard distances up to `eps` as a scipy CSR matrix (N, N), near ones first."""
    from scipy.sparse import csr_array

    encoding = encode(features, k1=k1, k2=k2)
    size = len(encoding.starts) - 1
    counts, columns, values = [np.zeros(1, np.int64)], [], []
    for start, block in jaccard_blocks(encoding, range(size), range(size)):
        # Rounding leaves equal crops a hair to either side of 0; DBSCAN takes no negative ones,
        # and counts a crop among its own neighbours.
        np.maximum(block, 0, out=block)
        block[np.arange(len(block)), np.arange(start, start + len(block))] = 0
        row, column = np.nonzero(block <= eps)
        order = np.lexsort((block[row, column], row))
        counts.append(np.bincount(row, minlength=len(block)))
        columns.append(column[order])
        values.append(block[row, column][order])
    starts = np.cumsum(np.concatenate(counts))
    parts = (np.concatenate(values), np.concatenate(columns), starts)
    return csr_array(parts, shape=(size, size))


def load_dbscan() -> Any:
    """Return scikit-learn's DBSCAN.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import DBSCAN
    except ModuleNotFoundError as error:
        raise MissingExtraError("Clustering", "adapt") from error
    return DBSCAN
