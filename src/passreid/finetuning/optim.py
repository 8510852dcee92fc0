"""Parameter groups and learning rates of fine-tuning.

As released in `PASS_transreid/solver`, after TransReID (He et al., ICCV 2021).
"""

from __future__ import annotations

import re

import torch
from torch import nn

from passreid.finetuning.recipe import FinetuneRecipe
from passreid.model import PartViT
from passreid.training.process import cosine
from passreid.training.stage import build_optimizer

WARMUP_START = 0.01
"""Share of the base rate at which the released warm-up begins, the same for every group."""
FLOOR = 0.002
"""Share of the base rate at which the cosine ends."""


def grouped_optimizer(model: PartViT, recipe: FinetuneRecipe) -> torch.optim.Optimizer:
    """Build the optimiser; each parameter group has its peak rate as `peak`."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = recipe.layer_decay ** (model.architecture.depth + 1 - _layer_of(name, model))
        if "bias" in name:
            factor *= recipe.bias_lr
        decayed = parameter.ndim > 1 or recipe.decay_one_dimensional
        key = (recipe.lr * factor, recipe.weight_decay if decayed else 0.0)
        groups.setdefault(key, []).append(parameter)
    settings = (
        {"params": members, "lr": peak, "weight_decay": decay, "peak": peak}
        for (peak, decay), members in groups.items()
    )
    return build_optimizer(list(settings), recipe)


def _layer_of(name: str, model: PartViT) -> int:
    """Return a parameter's layer: 0 is the input, depth + 1 everything above the blocks."""
    block = re.match(r"vit\.blocks\.(\d+)\.", name)
    if block:
        return int(block[1]) + 1
    below = ("vit.patch_embed", "vit.cls_token", "vit.reg_token", "vit.pos_embed")
    return 0 if name.startswith(below) else model.architecture.depth + 1


def learning_rate(recipe: FinetuneRecipe, peak: float, progress: float) -> float:
    """Return a group's learning rate.

    "released" uses whole epochs t: from 0.01 of the base rate, in `warmup_epochs` linear steps to
    the peak, then floor + (peak - floor) (1 + cos(pi t / epochs)) / 2. It is not re-based, so the
    cosine begins below the peak.

    Args:
        recipe: Supplies base rate, warm-up, epochs and schedule.
        peak: The group's rate after warm-up.
        progress: Epochs done, including the fraction of the current one.
    """
    floor, warmup = recipe.lr * FLOOR, recipe.warmup_epochs
    if recipe.schedule == "released":
        epoch = int(progress)
        if epoch < warmup:
            start = recipe.lr * WARMUP_START
            return start + epoch * (peak - start) / warmup
        return cosine(epoch / recipe.epochs, peak, floor)
    if progress < warmup:
        return peak * progress / warmup
    return cosine((progress - warmup) / max(recipe.epochs - warmup, 1e-9), peak, floor)


def set_learning_rates(
    optimizer: torch.optim.Optimizer, recipe: FinetuneRecipe, progress: float
) -> float:
    """Set every group's rate; return that of the first group, for the log."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(recipe, group["peak"], progress)
    return float(optimizer.param_groups[0]["lr"])
