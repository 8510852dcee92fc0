"""Losses of supervised fine-tuning.

As released in `PASS_transreid/loss`: label smoothing (Szegedy et al., CVPR 2016) and batch-hard
triplets (Hermans et al., 2017), as in TransReID (He et al., ICCV 2021); and losses with a margin.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Triplet(NamedTuple):
    """A batch-hard triplet loss (scalar), and the distances (B,) it was computed from."""

    loss: Tensor
    hardest_positive: Tensor
    hardest_negative: Tensor


def euclidean(features: Tensor) -> Tensor:
    """Return pairwise Euclidean distances (B, B) of (B, D), squares clamped at 1e-12."""
    squares = features.square().sum(dim=1)
    distances = squares[:, None] + squares[None, :] - 2 * features @ features.T
    return distances.clamp(min=1e-12).sqrt()


def batch_hard_triplet(features: Tensor, labels: Tensor, *, margin: float | None = None) -> Triplet:
    """Compare each anchor's farthest positive with its nearest negative.

    Args:
        features: (B, D), not normalised; the side before the neck.
        labels: (B,) identities.
        margin: None is the soft margin ``log(1 + exp(d_ap - d_an))``, else a hinge.
    """
    distances = euclidean(features.float())
    same = labels[:, None] == labels[None, :]
    positive = distances.masked_fill(~same, -torch.inf).amax(dim=1)
    negative = distances.masked_fill(same, torch.inf).amin(dim=1)
    gap = positive - negative
    per_anchor = F.softplus(gap) if margin is None else F.relu(gap + margin)
    return Triplet(per_anchor.mean(), positive, negative)


def margin_logits(
    cosines: Tensor,
    labels: Tensor,
    *,
    kind: Literal["cosface", "arcface", "circle"],
    scale: float,
    margin: float,
) -> Tensor:
    """Turn cosines (B, people) into float32 logits with a margin for the right person.

    CosFace (Wang et al., CVPR 2018), ArcFace (Deng et al., CVPR 2019), circle loss at class level
    (Sun et al., CVPR 2020, equation 8).
    """
    cosines = cosines.float()
    right = F.one_hot(labels, cosines.shape[1]).bool()
    if kind == "cosface":
        return scale * (cosines - margin * right)
    if kind == "arcface":
        angles = cosines.clamp(-1 + 1e-6, 1 - 1e-6).arccos()
        # Beyond pi the cosine would rise again.
        moved = (angles + margin).clamp(max=torch.pi).cos()
        return scale * torch.where(right, moved, cosines)
    weights = cosines.detach()
    positive = F.relu(1 + margin - weights) * (cosines - (1 - margin))
    negative = F.relu(weights + margin) * (cosines - margin)
    return scale * torch.where(right, positive, negative)
