"""Processes of a run: how long they wait, whose batch norms see the whole batch."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import nn

from passreid.errors import DatasetError, TrainingError
from passreid.model import PartViT
from passreid.training import process
from passreid.training.process import Process, distributed, in_parallel, main_first
from tests import small


def test_processes_wait_for_what_the_main_one_does_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes, torch's own limit on GPUs, are short for listing or clustering millions."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda _, **options: asked.append(options)
    )
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    with distributed("cpu") as joined:
        assert joined == Process(0, 2, torch.device("cpu"))
    assert asked[0]["timeout"] > timedelta(hours=1)


@pytest.mark.parametrize("error", [DatasetError("No crops."), PermissionError(13, "no", "run")])
def test_what_ends_the_main_process_reaches_the_others(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[list[Exception]] = []
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", told.append)

    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        main_first(Process(0, 2, torch.device("cpu")), fail)
    assert told == [[None, error]]


def test_a_process_whose_others_are_gone_ends_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    said = r"lost each other \(\[gloo/pair\] closed by peer\)\."
    with pytest.raises(TrainingError, match=said), distributed("cpu"):
        raise RuntimeError("[gloo/pair] closed by peer. This is typical.")
    with pytest.raises(RuntimeError, match="shapes"), distributed("cpu"):
        raise RuntimeError("shapes differ")


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
