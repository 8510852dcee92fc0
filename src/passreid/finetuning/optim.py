"""Parameter groups and learning rates of fine-tuning.

As released in `PASS_transreid/solver`, after TransReID (He et al., ICCV 2021).
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from passreid.finetuning.config import FinetuneConfig
from passreid.model import PartViT
from passreid.training.process import cosine

WARMUP_START = 0.01
"""Share of the base rate at which the released warm-up begins, for every group alike."""
FLOOR = 0.002
"""Share of the base rate at which the cosine ends."""


def build_optimizer(model: PartViT, config: FinetuneConfig) -> torch.optim.Optimizer:
    """Make the optimiser; each group carries its peak rate as `peak`.

    Biases run at `bias_lr` times the rate; `layer_decay` lowers it towards the input.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = config.layer_decay ** (model.architecture.depth + 1 - layer_of(name, model))
        if "bias" in name:
            factor *= config.bias_lr
        decayed = parameter.ndim > 1 or config.decay_one_dimensional
        key = (config.lr * factor, config.weight_decay if decayed else 0.0)
        groups.setdefault(key, []).append(parameter)
    settings: list[dict[str, Any]] = [
        {"params": members, "lr": peak, "weight_decay": decay, "peak": peak}
        for (peak, decay), members in groups.items()
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(settings, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(settings, lr=config.lr)


def layer_of(name: str, model: PartViT) -> int:
    """Return a parameter's depth: 0 for patches, tokens and positions, depth + 1 for all on top."""
    block = re.match(r"vit\.blocks\.(\d+)\.", name)
    if block:
        return int(block[1]) + 1
    below = ("vit.patch_embed", "vit.cls_token", "vit.reg_token", "vit.pos_embed")
    return 0 if name.startswith(below) else model.architecture.depth + 1


def learning_rate(config: FinetuneConfig, peak: float, progress: float) -> float:
    """Return a group's rate.

    Args:
        config: Supplies base rate, warm-up, epochs and kind of schedule.
        peak: The group's rate after warm-up.
        progress: Epochs done, with the fraction of the one at work.

    "released" looks at whole epochs t: from 0.01 of the base rate, in `warmup_epochs` linear steps
    to the peak, then floor + (peak - floor) (1 + cos(pi t / epochs)) / 2, not re-based, so that the
    cosine begins below the peak.
    """
    floor, warmup = config.lr * FLOOR, config.warmup_epochs
    if config.schedule == "released":
        epoch = int(progress)
        if epoch < warmup:
            start = config.lr * WARMUP_START
            return start + epoch * (peak - start) / warmup
        return cosine(epoch / config.epochs, peak, floor)
    if progress < warmup:
        return peak * progress / warmup
    return cosine((progress - warmup) / max(config.epochs - warmup, 1e-9), peak, floor)


def set_learning_rates(
    optimizer: torch.optim.Optimizer, config: FinetuneConfig, progress: float
) -> float:
    """Set every group's rate; return the one of the first group, for the log."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, group["peak"], progress)
    return float(optimizer.param_groups[0]["lr"])
