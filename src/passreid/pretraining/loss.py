"""Self-distillation over pairs of views, token by token.

PASS (Zhu et al., ECCV 2022) as released in `PASS/main_pass.py`, after DINO (Caron et al., ICCV
2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

SINKHORN_ROUNDS = 3


class Distillation(NamedTuple):
    """A loss and its terms.

    Attributes:
        loss: Mean of all terms, a scalar.
        terms: One tensor (n, 2, V) for each kind of token: the mean cross entropy of teacher view
            q and student view v; NaN where they are the same view.
    """

    loss: Tensor
    terms: list[Tensor]


class PartDistillation(nn.Module):
    """Cross entropy of every student view with every other global view of the teacher.

    Logits are one tensor for each kind of token, CLS and parts: student (n, V, B, K), teacher
    (n, 2, B, K) with n heads, views, images and K prototypes; the first two views of each kind are
    global. For a head and an image::

        P_q = softmax((teacher_q - centre) / teacher_temp)        q in {0, 1}
        H_qv = -sum_k P_q log_softmax(student_v / student_temp)   v != q
        loss = mean of H over all heads, pairs and images

    CLS is compared in every local view, part i in those of area i: 20 + 8 + 8 + 8 terms of equal
    weight for three areas of three crops.

    Args:
        heads: Number of heads of all kinds, 1 + P.
        out_dim: K.
        student_temp: Temperature.
        center_momentum: Momentum of the centres.
        centering: "mean" is the P_q above, "sinkhorn" uses `even_shares` instead.
    """

    centers: Tensor
    _seen: Tensor

    def __init__(
        self,
        heads: int,
        out_dim: int,
        *,
        student_temp: float = 0.1,
        center_momentum: float = 0.9,
        centering: Literal["mean", "sinkhorn"] = "mean",
    ) -> None:
        super().__init__()
        self.centering = centering
        self.student_temp, self.center_momentum = student_temp, center_momentum
        self.register_buffer("centers", torch.zeros(heads, out_dim))
        self.register_buffer("_seen", torch.zeros(heads, out_dim), persistent=False)

    def targets(self, teacher: Sequence[Tensor], teacher_temp: float) -> list[Tensor]:
        """Centre and sharpen teacher logits into probabilities of the same shapes."""
        if self.centering == "sinkhorn":
            return [even_shares(logits, teacher_temp) for logits in teacher]
        centers = self.centers.split([len(logits) for logits in teacher])
        return [
            ((logits.float() - center[:, None, None]) / teacher_temp).softmax(dim=-1)
            for logits, center in zip(teacher, centers, strict=True)
        ]

    def forward(self, student: Sequence[Tensor], targets: Sequence[Tensor]) -> Distillation:
        """Return the loss of student logits against the teacher's probabilities."""
        terms = []
        for logits, probabilities in zip(student, targets, strict=True):
            log = F.log_softmax(logits.float() / self.student_temp, dim=-1)
            pairs = torch.einsum("nqbk,nvbk->nqv", probabilities, log) / -log.shape[2]
            same = torch.eye(*pairs.shape[1:], dtype=torch.bool, device=pairs.device)
            terms.append(pairs.masked_fill(same, torch.nan))
        count = sum(len(t) * (t[0].numel() - t.shape[1]) for t in terms)
        total = torch.stack([t.nansum() for t in terms]).sum()
        return Distillation(total / count, [t.detach() for t in terms])

    @torch.no_grad()
    def observe(self, teacher: Sequence[Tensor], share: float = 1.0) -> None:
        """Record teacher logits (n, 2, B, K) for the centres; the batch is `share` of a step."""
        means = [logits.float().mean(dim=(1, 2)) for logits in teacher]
        self._seen.add_(torch.cat(means), alpha=share)

    @torch.no_grad()
    def update_centers(self) -> None:
        """Move the centres towards the mean of what all processes observed since last time."""
        if dist.is_initialized():
            dist.all_reduce(self._seen)
            self._seen /= dist.get_world_size()
        self.centers.lerp_(self._seen, 1 - self.center_momentum)
        self._seen.zero_()


def even_shares(logits: Tensor, temperature: float) -> Tensor:
    """Turn teacher logits (n, 2, B, K) into probabilities that use every prototype equally.

    A softmax, then a few rounds of scaling prototypes to equal sums over all views of all processes
    and views to sum 1, head by head: the Sinkhorn-Knopp assignment of SwAV (Caron et al. 2020,
    section 3.1), used by DINOv2 in place of the centre. A few prototypes cannot dominate, even in
    steps of a few dozen images.
    """
    n, views, batch, prototypes = logits.shape
    shares = (logits.float() / temperature).flatten(1, 2).softmax(dim=-1)
    for _ in range(SINKHORN_ROUNDS):
        sums = shares.sum(dim=1, keepdim=True)
        if dist.is_initialized():
            dist.all_reduce(sums)
        shares = shares / sums.clamp_min(torch.finfo(sums.dtype).tiny)
        shares = shares / shares.sum(dim=-1, keepdim=True)
    return shares.view(n, views, batch, prototypes)
