"""Processes, devices and seeds of a run.

Every random number is a function of (seed, position in the run), never of what was drawn before:
`seed_all` is called with the step and, in a data worker, with the sample. So a resumed run needs no
random state, and any number of data workers gives the same batches.
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
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from passreid.backends.pytorch import find_device
from passreid.errors import PassreidError, TrainingError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # numbers of glibc's mallopt(3), and its defaults
_TRIM_THRESHOLD, _MMAP_MAX = 128 * 1024, 65536
# The main process lists, clusters and scores alone; torch's ten minutes would end large runs.
_TIMEOUT = timedelta(hours=4)

T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """One of the processes of a run (torchrun starts several; alone it is rank 0 of 1)."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0


@contextlib.contextmanager
def distributed(device: str = "auto") -> Iterator[Process]:
    """Join the process group that torchrun describes in the environment, or run alone.

    Raises:
        UsageError: The device does not exist.
        TrainingError: Another process has ended; its own message says why.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    chosen = find_device(device)
    if chosen.type == "cuda" and ":" not in device:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    if world > 1:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield Process(rank, world, chosen)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise TrainingError(
            f"The processes lost each other ({reason}). The message of the first one to end says "
            "why; the last checkpoint is kept."
        ) from None
    finally:
        if world > 1:
            dist.destroy_process_group()


def main_first(process: Process, call: Callable[[], T]) -> T:
    """Call in the main process while the others wait; all get its result, or raise its error."""
    if process.world == 1:
        return call()
    outcome: list[Any] = [None, None]
    if process.is_main:
        try:
            outcome[0] = call()
        except (PassreidError, OSError) as error:
            outcome[1] = error
    # If the main process just left, the others could only report that it is gone.
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return cast(T, outcome[0])


def seed_all(*place: int) -> None:
    """Seed torch and `random` from a position in the run, e.g. (seed, epoch, sample)."""
    state = np.random.SeedSequence(place).generate_state(2, np.uint64)
    torch.manual_seed(int(state[0]))
    random.seed(int(state[1]))


def cosine(progress: float, start: float, end: float) -> float:
    """Interpolate from `start` to `end` along half a cosine; `progress` in [0, 1]."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * progress))


def in_parallel(network: nn.Module, process: Process, *, shared: Sequence[nn.Module]) -> nn.Module:
    """Wrap a network in DDP; alone it stays as it is.

    Args:
        network: The network to train.
        process: This process.
        shared: Modules whose batch norms must see the whole batch. They are synchronised on CUDA;
            CPUs have no synchronised batch norm.
    """
    if process.world == 1:
        return network
    if process.device.type == "cuda":
        for module in shared:
            nn.SyncBatchNorm.convert_sync_batchnorm(module)
    return DistributedDataParallel(network)


def gather(rows: Tensor) -> Tensor:
    """Concatenate all processes' rows in rank order, without gradients."""
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


class GatherTokens(torch.autograd.Function):
    """Concatenate all processes' rows in rank order; gradients reach the local rows.

    Every process computes the loss of the gathered batch, and DDP averages gradients over the
    processes. Scaling the local gradient by their number gives the gradient of one process that
    had seen the whole batch.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        """Gather (b, …) from each process into (world * b, …)."""
        ctx.rank, ctx.world, ctx.rows = dist.get_rank(), dist.get_world_size(), rows.shape[0]
        return gather(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient of this process's rows."""
        begin = ctx.rank * ctx.rows
        mine: Tensor = gradients[0][begin : begin + ctx.rows] * ctx.world
        return mine


@contextlib.contextmanager
def tuned_for_cpu(device: torch.device) -> Iterator[None]:
    """Tune this process for training on a CPU, and undo it afterwards.

    Denormal numbers are flushed to zero: late optimiser states are full of them and they are slow.
    Freed memory is kept: glibc returns large tensors to the kernel, which must clear the pages of
    the next ones; that took a fifth to a half of a pre-training step.
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
