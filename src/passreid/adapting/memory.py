"""One vector per cluster that crops are held against (Dai et al. 2021, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class ClusterMemory:
    """The centres of the clusters, moved along with the network by momentum.

    Args:
        centres: (C, D) unit vectors.
        momentum: Share of a centre that an update keeps.
        temperature: Of the softmax over clusters.
    """

    def __init__(self, centres: Tensor, *, momentum: float, temperature: float) -> None:
        self.centres, self.momentum, self.temperature = centres, momentum, temperature

    @staticmethod
    def average(features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean direction of each cluster, (C, D).

        Args:
            features: (N, D).
            labels: (N,) clusters 0 … C - 1, each there at least once; -1 is left out.
        """
        inside = labels >= 0
        sums = features.new_zeros(int(labels.max()) + 1, features.shape[1])
        sums.index_add_(0, labels[inside], features[inside])
        return F.normalize(sums, dim=1)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the cluster-level InfoNCE, -log softmax(f · c / temperature), a scalar.

        Args:
            features: (B, D), of any length.
            labels: (B,) their clusters.
        """
        cosines = F.normalize(features, dim=1) @ self.centres.T
        return F.cross_entropy(cosines / self.temperature, labels)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Move the centre of each cluster of a batch towards its hardest crop.

        c <- normalise(m c + (1 - m) f), f the crop of the cluster with the lowest cosine to c.
        """
        features = F.normalize(features.float(), dim=1)
        cosines = (features * self.centres[labels]).sum(dim=1)
        # By cluster, the lowest cosine first: the first row of each cluster is its hardest crop.
        order = cosines.argsort(stable=True)
        order = order[labels[order].argsort(stable=True)]
        sorted_labels = labels[order]
        first = torch.ones_like(sorted_labels, dtype=torch.bool)
        first[1:] = sorted_labels[1:] != sorted_labels[:-1]
        moved, hardest = sorted_labels[first], order[first]
        mixed = self.momentum * self.centres[moved] + (1 - self.momentum) * features[hardest]
        self.centres[moved] = F.normalize(mixed, dim=1)
