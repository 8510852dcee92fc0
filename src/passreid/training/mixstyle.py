"""MixStyle: crops of a batch exchange the look of their cameras (Zhou et al., ICLR 2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from passreid.model import PartViT

_ALPHA = 0.1
"""Of the Beta distribution that says how much of its own look a crop keeps, as published."""


def mix_styles(model: PartViT, probability: float) -> None:
    """Let the first stages of a network's stem mix styles while it trains.

    Nothing is added to the network's tensors, and nothing is mixed in evaluation.

    Args:
        model: With a stem of stages, as "lite0".
        probability: That a batch is mixed, drawn for each stage.
    """

    def mix(stage: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not stage.training or float(torch.rand(())) >= probability:
            return output
        return exchange_statistics(output)

    stem = model.vit.get_submodule("patch_embed.stem")
    for stage in list(stem.children())[2:5]:
        stage.register_forward_hook(mix)


def exchange_statistics(maps: Tensor) -> Tensor:
    """Mix each map's channel means and deviations with those of another one of the batch.

    Args:
        maps: (B, C, H, W).

    Returns:
        The same shape and dtype. Gradients do not pass through the statistics.
    """
    wide = maps.float()
    with torch.no_grad():
        variance, mean = torch.var_mean(wide, dim=(2, 3), keepdim=True)
        deviation = (variance + 1e-6).sqrt()
        own = torch.distributions.Beta(_ALPHA, _ALPHA).sample((len(maps), 1, 1, 1)).to(wide)
        other = torch.randperm(len(maps), device=maps.device)
        scale = (own * deviation + (1 - own) * deviation[other]) / deviation
        shift = own * mean + (1 - own) * mean[other] - mean * scale
    return (wide * scale + shift).to(maps.dtype)
