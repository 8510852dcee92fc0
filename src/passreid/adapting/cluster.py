"""Clusters of crops that probably show one person, and the loss against their centres.

Cluster contrast (Dai et al., 2021) as released in `PASS_cluster_contrast_reid`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from passreid.errors import MissingExtraError
from passreid.reranking import encode, jaccard_blocks


def cluster(
    features: ArrayLike, *, k1: int = 30, k2: int = 6, eps: float = 0.6, min_samples: int = 4
) -> NDArray[np.int64]:
    """Cluster embeddings by DBSCAN over k-reciprocal Jaccard distances.

    Distances above `eps` are not kept, so memory grows with the crops and their neighbours, not
    with the square of the crops.

    Args:
        features: (N, D) embeddings.
        k1, k2: Neighbourhoods, as in `reranking.jaccard_distance`.
        eps: Largest Jaccard distance between neighbours.
        min_samples: Neighbours, itself included, that make a crop the core of a cluster.

    Returns:
        (N,) cluster of each crop, 0 … C - 1, or -1 if it belongs to none.
    """
    dbscan = load_dbscan()
    graph = neighbours(features, k1=k1, k2=k2, eps=eps)
    found = dbscan(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(graph)
    return np.asarray(found, np.int64)


def neighbours(features: ArrayLike, *, k1: int, k2: int, eps: float) -> Any:
    """Return all Jaccard distances up to `eps` as a scipy CSR matrix (N, N), nearest first."""
    from scipy.sparse import csr_array

    encoding = encode(features, k1=k1, k2=k2)
    size = len(encoding.starts) - 1
    counts, columns, values = [np.zeros(1, np.int64)], [], []
    for start, block in jaccard_blocks(encoding, range(size), range(size)):
        # Rounding leaves the distance of equal crops just above or below 0: DBSCAN rejects negative
        # distances, and counts a crop among its own neighbours.
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


class ClusterMemory:
    """One unit vector per cluster (C, D), updated with momentum (Dai et al., section 3.3)."""

    def __init__(self, centres: Tensor, *, momentum: float, temperature: float) -> None:
        self.centres, self.momentum, self.temperature = centres, momentum, temperature

    @staticmethod
    def average(features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean direction (C, D) of each cluster of (N, D); label -1 is left out."""
        inside = labels >= 0
        sums = features.new_zeros(int(labels.max()) + 1, features.shape[1])
        sums.index_add_(0, labels[inside], features[inside])
        return F.normalize(sums, dim=1)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the cluster-level InfoNCE of (B, D): -log softmax(cosine / temperature)."""
        cosines = F.normalize(features, dim=1) @ self.centres.T
        return F.cross_entropy(cosines / self.temperature, labels)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Move each cluster's centre c towards its hardest crop f in the batch.

        c <- normalise(m c + (1 - m) f), f the crop of the cluster with the lowest cosine to c.
        """
        features = F.normalize(features.float(), dim=1)
        cosines = (features * self.centres[labels]).sum(dim=1)
        # Sorted by cluster, lowest cosine first: each cluster's first row is its hardest crop.
        order = cosines.argsort(stable=True)
        order = order[labels[order].argsort(stable=True)]
        sorted_labels = labels[order]
        first = torch.ones_like(sorted_labels, dtype=torch.bool)
        first[1:] = sorted_labels[1:] != sorted_labels[:-1]
        moved, hardest = sorted_labels[first], order[first]
        mixed = self.momentum * self.centres[moved] + (1 - self.momentum) * features[hardest]
        self.centres[moved] = F.normalize(mixed, dim=1)
