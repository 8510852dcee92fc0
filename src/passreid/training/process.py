"""Processes, devices, precision and seeds.

Every random number of a run is a function of (seed, place in the run), never of what was drawn
before: `seed_all` is called with the step (and, in a data worker, with the sample). So a resumed
run needs no random state, any number of data workers gives the same batches, and two runs that
agree up to a step go on alike.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from passreid.backends.pytorch import find_device
from passreid.errors import PassreidError, TrainingError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # numbers of glibc's mallopt(3), and its defaults
_TRIM_THRESHOLD, _MMAP_MAX = 128 * 1024, 65536
_PATIENCE = timedelta(hours=4)
"""How long processes wait for each other; the main one alone lists, clusters and scores.

torch's own ten minutes on GPUs end a run on millions of images before its first step.
"""

T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """One of the processes of a run (torchrun starts several; alone it is rank 0 of 1)."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0


@contextlib.contextmanager
def distributed(device: str = "auto") -> Iterator[Process]:
    """Join the process group torchrun describes in the environment, or run alone.

    Args:
        device: "auto" (CUDA, then MPS, then CPU), "cpu", "cuda" or "mps".

    Raises:
        UsageError: The device is not there.
        TrainingError: Another process has left; its own message says why.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    chosen = find_device(device)
    if chosen.type == "cuda" and ":" not in device:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    if world > 1:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Process(rank, world, chosen)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise TrainingError(
            f"The processes lost each other ({reason}). What the first to end said tells why; the "
            "last checkpoint is kept."
        ) from None
    finally:
        if world > 1:
            dist.destroy_process_group()


def main_first(process: Process, call: Callable[[], T]) -> T | None:
    """Call in the main process while the others wait; what it raises, all raise.

    Returns:
        What the call returned; None in the other processes.
    """
    result: T | None = None
    failed: list[PassreidError | OSError | None] = [None]
    if process.is_main:
        try:
            result = call()
        except (PassreidError, OSError) as error:
            if process.world == 1:
                raise
            failed = [error]
    if process.world > 1:
        # Would the main process just leave, the others could only say that it is gone.
        dist.broadcast_object_list(failed)
    if failed[0] is not None:
        raise failed[0]
    return result


def seed_all(*place: int) -> None:
    """Seed torch and `random` from a place in the run, e.g. (seed, epoch, sample)."""
    state = np.random.SeedSequence(place).generate_state(2, np.uint64)
    torch.manual_seed(int(state[0]))
    random.seed(int(state[1]))


def cosine(progress: float, start: float, end: float) -> float:
    """Interpolate from `start` to `end` along half a cosine; `progress` in [0, 1]."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * progress))


def in_parallel(network: nn.Module, process: Process, *, shared: Sequence[nn.Module]) -> nn.Module:
    """Wrap a network for the processes of a run (DDP).

    Args:
        network: What is trained.
        process: This process; alone, the network stays as it is.
        shared: Modules whose batch norms would see one process's share of the batch. On CUDA they
            see all of it from here on; CPUs have no synchronised batch norm.
    """
    if process.world == 1:
        return network
    if process.device.type == "cuda":
        for module in shared:
            nn.SyncBatchNorm.convert_sync_batchnorm(module)
    return DistributedDataParallel(network)


def gather(rows: Tensor) -> Tensor:
    """Return all processes' rows in rank order, (b, …) -> (world * b, …), without gradients."""
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


class GatherTokens(torch.autograd.Function):
    """All processes' rows, in rank order; gradients reach the local rows alone.

    Losses over the gathered batch are computed by every process alike. DDP then averages gradients
    over the processes, so the local gradient is scaled by their number: what is left is exactly the
    gradient of one process that had seen the whole batch.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        """Gather (b, …) from each process into (world * b, …)."""
        ctx.rank, ctx.world, ctx.rows = dist.get_rank(), dist.get_world_size(), rows.shape[0]
        return gather(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Hand back this process's rows."""
        begin = ctx.rank * ctx.rows
        mine: Tensor = gradients[0][begin : begin + ctx.rows] * ctx.world
        return mine


@contextlib.contextmanager
def tuned_for_cpu(device: torch.device) -> Iterator[None]:
    """Set up this process for training on a CPU, and set it back afterwards.

    Denormal numbers become zero: they appear in late optimiser states and are very slow. And memory
    that was freed is kept for the next step: glibc hands large tensors back to the kernel, which
    clears new pages for the next ones; that took a fifth to a half of a pre-training step.
    """
    if device.type != "cpu":
        yield
        return
    flushed = not bool(torch.tensor(1e-40) * 1)
    mallopt: Any = None
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # a C library other than glibc
            mallopt = ctypes.CDLL(None).mallopt
    torch.set_flush_denormal(True)
    if mallopt:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
        if mallopt:
            mallopt(_M_MMAP_MAX, _MMAP_MAX)
            mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
