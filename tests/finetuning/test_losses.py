"""The losses against loops over triplets and people, and the released values."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from passreid.finetuning.losses import batch_hard_triplet, euclidean, margin_logits

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "finetune.npz")


def slow_triplet(features: np.ndarray, labels: list[int], margin: float | None) -> float:
    total = 0.0
    for i, anchor in enumerate(features):
        distances = [math.dist(anchor, other) for other in features]
        positive = max(d for d, label in zip(distances, labels, strict=True) if label == labels[i])
        negative = min(d for d, label in zip(distances, labels, strict=True) if label != labels[i])
        gap = positive - negative
        total += math.log1p(math.exp(gap)) if margin is None else max(0.0, gap + margin)
    return total / len(features)


@given(seed=st.integers(0, 1000), margin=st.sampled_from([None, 0.3]), people=st.integers(2, 4))
@settings(max_examples=40, deadline=None)
def test_matches_a_loop_over_triplets(seed: int, margin: float | None, people: int) -> None:
    features = np.random.default_rng(seed).standard_normal((people * 3, 5))
    labels = [i // 3 for i in range(people * 3)]
    ours = batch_hard_triplet(torch.tensor(features), torch.tensor(labels), margin=margin).loss
    assert float(ours) == pytest.approx(slow_triplet(features, labels, margin), rel=1e-5)


def test_released_values() -> None:
    features = torch.tensor(GOLDEN["train_before_f64"]).double()
    labels = torch.tensor(GOLDEN["pids"])
    triplet = batch_hard_triplet(features, labels)
    assert float(triplet.loss) == pytest.approx(float(GOLDEN["loss_triplet_f64"]), rel=2e-5)
    np.testing.assert_allclose(triplet.hardest_positive, GOLDEN["dist_ap_f64"], rtol=1e-4)
    np.testing.assert_allclose(triplet.hardest_negative, GOLDEN["dist_an_f64"], rtol=1e-4)
    distances = euclidean(features)
    same = labels[:, None] == labels[None]
    farthest = distances.masked_fill(~same, -1).argmax(dim=1)
    nearest = distances.masked_fill(same, 1e9).argmin(dim=1)
    assert farthest.tolist() == GOLDEN["hard_positive"].tolist()
    assert nearest.tolist() == GOLDEN["hard_negative"].tolist()


def test_gradient_is_finite_for_equal_crops() -> None:
    features = torch.ones(4, 3, requires_grad=True)
    batch_hard_triplet(features, torch.tensor([0, 0, 1, 1])).loss.backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("kind", ["cosface", "arcface", "circle"])
def test_margins_are_asked_of_the_right_person_alone(kind: str) -> None:
    torch.manual_seed(0)
    cosines = torch.rand(5, 7, dtype=torch.float64) * 2 - 1
    labels = torch.tensor([0, 3, 6, 2, 2])
    scale, margin = 16.0, 0.3
    found = margin_logits(cosines, labels, kind=kind, scale=scale, margin=margin)  # type: ignore[arg-type]
    for row in range(5):
        for person in range(7):
            c, right = float(cosines[row, person]), person == labels[row]
            if kind == "cosface":
                expected = c - margin if right else c
            elif kind == "arcface":
                expected = math.cos(min(math.acos(c) + margin, math.pi)) if right else c
            elif right:
                expected = max(1 + margin - c, 0) * (c - (1 - margin))
            else:
                expected = max(c + margin, 0) * (c - margin)
            assert abs(float(found[row, person]) - scale * expected) < 1e-4, (kind, row, person)


def test_a_margin_keeps_gradients_finite_at_the_ends() -> None:
    cosines = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], requires_grad=True)
    labels = torch.tensor([0, 0])
    for kind in ("cosface", "arcface", "circle"):
        logits = margin_logits(cosines, labels, kind=kind, scale=30.0, margin=0.35)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels), cosines)
        assert gradient.isfinite().all()
