"""Clusters and the memory of their centres against slow, obvious versions."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

from passreid.adapting.cluster import ClusterMemory, cluster, neighbours
from passreid.errors import EmbeddingError, MissingExtraError
from passreid.reranking import jaccard_distance


def groups(people: int = 6, each: int = 9, noise: float = 0.3) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(people, 32)).repeat(each, axis=0)
    return (centres + noise * rng.normal(size=centres.shape)).astype(np.float32)


def test_the_sparse_distances_are_the_dense_ones_up_to_eps() -> None:
    features = groups(noise=1.0)
    dense = jaccard_distance(features, k1=10, k2=3)
    for eps in (0.3, 0.6, 1.0):
        found = neighbours(features, k1=10, k2=3, eps=eps)
        expected = np.where(dense <= eps, dense, np.inf)
        mine = np.full_like(dense, np.inf)
        rows = np.repeat(np.arange(len(dense)), np.diff(found.indptr))
        mine[rows, found.indices] = found.data
        np.testing.assert_allclose(mine, expected, atol=1e-6)
        for row in np.split(found.data, found.indptr[1:-1]):
            assert (np.diff(row) >= 0).all()


@pytest.mark.parametrize("least", [4, 7])
def test_clusters_are_those_of_dense_dbscan(least: int) -> None:
    from sklearn.cluster import DBSCAN

    features = groups(people=12, noise=1.2)
    dense = np.maximum(jaccard_distance(features, k1=12, k2=4), 0)
    expected = DBSCAN(eps=0.4, min_samples=least, metric="precomputed").fit_predict(dense)
    found = cluster(features, k1=12, k2=4, eps=0.4, min_samples=least)
    assert (found == expected).all()
    assert len(set(found.tolist())) > 1
    assert -1 in found


def test_well_separated_people_are_found_and_a_stranger_is_left_out() -> None:
    features = np.concatenate([groups(), -10 * np.ones((1, 32), np.float32)])
    found = cluster(features, k1=8, k2=3, eps=0.6)
    assert found[:-1].reshape(6, 9).tolist() == [[person] * 9 for person in range(6)]
    assert found[-1] == -1


def test_what_cannot_be_clustered() -> None:
    with pytest.raises(EmbeddingError):
        cluster(np.full((5, 4), np.nan))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(MissingExtraError, match=r"Clustering needs.*\[adapt\]"):
        cluster(groups())


def test_centres_are_mean_directions() -> None:
    features, labels = torch.randn(20, 8), torch.tensor([0, 1, 2, -1, 1] * 4)
    centres = ClusterMemory.average(features, labels)
    for number in range(3):
        mean = features[labels == number].mean(dim=0)
        torch.testing.assert_close(centres[number], mean / mean.norm())


def test_the_loss_is_cross_entropy_over_all_centres() -> None:
    torch.manual_seed(0)
    centres, features = F.normalize(torch.randn(5, 8), dim=1), torch.randn(6, 8) * 3
    labels = torch.tensor([0, 4, 4, 2, 1, 0])
    memory = ClusterMemory(centres, momentum=0.2, temperature=0.05)
    expected = 0.0
    for feature, label in zip(features, labels.tolist(), strict=True):
        cosines = [float(feature @ centre / feature.norm()) for centre in centres]
        shares = np.exp(np.array(cosines) / 0.05)
        expected -= np.log(shares[label] / shares.sum()) / len(features)
    assert float(memory.loss(features, labels)) == pytest.approx(expected, rel=1e-4)


def test_a_centre_moves_towards_the_hardest_crop_of_its_cluster() -> None:
    torch.manual_seed(1)
    centres = F.normalize(torch.randn(7, 8), dim=1)
    labels = torch.randint(0, 6, (40,))
    features = torch.randn(40, 8) * 2
    memory = ClusterMemory(centres.clone(), momentum=0.2, temperature=0.05)
    memory.update(features, labels)
    for number in range(7):
        mine = F.normalize(features[labels == number], dim=1)
        if not len(mine):
            torch.testing.assert_close(memory.centres[number], centres[number])
            continue
        hardest = min(mine, key=lambda f, c=centres[number]: float(f @ c))  # type: ignore[misc]
        mixed = 0.2 * centres[number] + 0.8 * hardest
        torch.testing.assert_close(memory.centres[number], mixed / mixed.norm())
    assert (labels == 6).sum() == 0
