"""Schedules, parameter groups, gradient clipping tensor by tensor, and the teacher's average.

PASS (Zhu et al., ECCV 2022) as released in `PASS/utils.py`, after DINO (Caron et al., ICCV 2021).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from passreid.checkpoint.layouts import PASS, spell
from passreid.pretraining.network import ViewNetwork
from passreid.pretraining.recipe import PretrainRecipe
from passreid.training.process import cosine


class Rates(NamedTuple):
    """Values of the schedules at one step."""

    lr: float
    weight_decay: float
    momentum: float
    teacher_temp: float


def rates(recipe: PretrainRecipe, step: int, steps_per_epoch: int) -> Rates:
    """Return the schedules' values at a step, counted from 0 over the whole run.

    The learning rate rises linearly from 0 to its peak, which it has at the last step of the
    warm-up and the first of the cosine. The teacher's temperature changes once an epoch.
    """
    total = recipe.epochs * steps_per_epoch
    warmup = recipe.warmup_epochs * steps_per_epoch
    peak = recipe.lr * recipe.batch_size / 256
    if step < warmup:
        lr = peak * step / max(warmup - 1, 1)
    else:
        lr = cosine((step - warmup) / (total - warmup), peak, recipe.min_lr)
    return Rates(
        lr,
        cosine(step / total, recipe.weight_decay, recipe.weight_decay_end),
        cosine(step / total, recipe.momentum, 1.0),
        _teacher_temp(recipe, step // steps_per_epoch),
    )


def _teacher_temp(recipe: PretrainRecipe, epoch: int) -> float:
    start, end = recipe.warmup_teacher_temp, recipe.teacher_temp
    epochs = recipe.warmup_teacher_temp_epochs
    return start + (end - start) * epoch / max(epochs - 1, 1) if epoch < epochs else end


def pieces(name: str, tensor: Tensor, network: ViewNetwork) -> list[Tensor]:
    """Cut a parameter, or its gradient, into the tensors that the original keeps apart.

    Part tokens, the positions of CLS, of each part and of the patches, and the heads are separate
    tensors there and slices here. What the recipe does to each tensor is done to each slice.
    """
    if name.startswith("heads."):
        return list(tensor.unbind(0))
    return list(spell(name, tensor, network.architecture, PASS).values())


def build_optimizer(network: ViewNetwork, recipe: PretrainRecipe) -> torch.optim.Optimizer:
    """Build AdamW; everything one-dimensional is not decayed, tokens and positions are."""
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            flat = all(piece.ndim == 1 for piece in pieces(name, parameter, network))
            groups[flat].append(parameter)
    settings = [{"params": groups[0], "decayed": True}, {"params": groups[1], "decayed": False}]
    return torch.optim.AdamW(settings, lr=recipe.lr, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, now: Rates) -> None:
    """Set every group's learning rate and weight decay."""
    for group in optimizer.param_groups:
        group["lr"] = now.lr
        group["weight_decay"] = now.weight_decay if group["decayed"] else 0.0


@torch.no_grad()
def clip_gradients(network: ViewNetwork, limit: float) -> list[float]:
    """Clip the gradient of every tensor, each on its own; a limit of 0 only measures.

    Returns:
        The norms before, in the order of the parameters and their pieces.
    """
    found = [
        piece
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
        for piece in pieces(name, parameter.grad, network)
    ]
    norms: list[float] = torch.stack([_norm(piece) for piece in found]).tolist()
    for piece, norm in zip(found, norms, strict=True):
        if limit and limit / (norm + 1e-6) < 1:
            piece.mul_(limit / (norm + 1e-6))
    return norms


def _norm(tensor: Tensor) -> Tensor:
    """Return the norm row by row and then over the rows: one long float32 sum is off by 1e-3."""
    rows: Tensor = torch.linalg.vector_norm(tensor, dim=-1)
    norm: Tensor = torch.linalg.vector_norm(rows)
    return norm


@torch.no_grad()
def update_teacher(teacher: ViewNetwork, student: ViewNetwork, momentum: float) -> None:
    """Move the teacher's parameters: momentum * teacher + (1 - momentum) * student."""
    ours: list[Tensor] = list(teacher.parameters())
    theirs: list[Tensor] = list(student.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - momentum)
