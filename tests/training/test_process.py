"""Processes of a run: whose batch norms see the whole batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from passreid.model import PartViT
from passreid.training import process
from passreid.training.process import Process, in_parallel
from tests import small


@pytest.mark.parametrize(
    ("world", "device", "wrapped", "synchronised"),
    [(1, "cuda", False, False), (2, "cpu", True, False), (2, "cuda", True, True)],
)
def test_only_shared_batch_norms_are_synchronised(
    world: int,
    device: str,
    wrapped: bool,
    synchronised: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[nn.Module] = []

    def wrap(module: nn.Module) -> nn.Module:
        seen.append(module)
        return module

    monkeypatch.setattr(process, "DistributedDataParallel", wrap)
    model = PartViT(small.architecture(stem="conv4"))
    parameters = list(model.parameters())
    shared = [model.vit.patch_embed]
    assert in_parallel(model, Process(0, world, torch.device(device)), shared=shared) is model
    assert seen == ([model] if wrapped else [])
    found = {name for name, m in model.named_modules() if isinstance(m, nn.SyncBatchNorm)}
    assert bool(found) == synchronised
    assert all(name.startswith("vit.patch_embed.") for name in found)
    stem = {m for m in model.vit.patch_embed.modules() if isinstance(m, nn.BatchNorm2d)}
    assert bool(stem) != synchronised
    assert all(ours is theirs for ours, theirs in zip(model.parameters(), parameters, strict=True))
