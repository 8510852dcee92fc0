"""What every training stage shares: processes, precision, seeds, run folders, exact resume.

Every random number of a run is a function of (seed, place in the run), never of what was drawn
before: `seed_all` is called with the step (and, in a data worker, with the sample). So a resumed
run needs no random state, any number of data workers gives the same batches, and two runs that
agree up to a step go on alike.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import random
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import tomli_w
import torch
import torch.distributed as dist
from torch import Tensor

from passreid.config import plain, read_toml
from passreid.errors import TrainingError, UsageError

log = logging.getLogger("passreid")

Precision = Literal["auto", "float32", "bfloat16", "float16"]


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
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world > 1:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Process(rank, world, chosen)
    finally:
        if world > 1:
            dist.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and torch.backends.mps.is_available():
            name = "mps"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("No CUDA device is available here; use --device cpu.")
    if name not in ("cpu", "cuda", "mps"):
        raise UsageError(f"Unknown device '{name}'; use auto, cpu, cuda or mps.")
    if name == "cuda":
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    return torch.device(name)


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Return the autocast type, or None for plain float32.

    "auto" is bfloat16 where it pays: on CUDA devices that have it and on CPUs with AMX or AVX-512
    BF16; elsewhere float32.
    """
    if precision == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        fast = device.type == "cpu" and torch.backends.mkldnn.is_available() and _cpu_has_bf16()
        return torch.bfloat16 if fast else None
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def seed_all(*place: int) -> None:
    """Seed torch and `random` from a place in the run, e.g. (seed, epoch, sample)."""
    state = np.random.SeedSequence(place).generate_state(2, np.uint64)
    torch.manual_seed(int(state[0]))
    random.seed(int(state[1]))


def cosine(progress: float, start: float, end: float) -> float:
    """Interpolate from `start` to `end` along half a cosine; `progress` in [0, 1]."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * progress))


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
        parts = [torch.empty_like(rows) for _ in range(ctx.world)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Hand back this process's rows."""
        begin = ctx.rank * ctx.rows
        mine: Tensor = gradients[0][begin : begin + ctx.rows] * ctx.world
        return mine


class StopSignal:
    """SIGTERM and SIGINT become a wish: the loop finishes its step, saves and leaves.

    The second signal falls through to the previous handler, so that a stuck run can be stopped.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        """Install the handlers."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the previous handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self._previous[number])


class RunFolder:
    """`config.toml` (resolved), `metrics.jsonl`, `checkpoint/` and, at the end, `model/`.

    Args:
        path: The run folder.
        keep: How many checkpoints stay on disk.
    """

    def __init__(self, path: Path, *, keep: int = 2) -> None:
        self.path = path
        self.keep = keep
        self.metrics = path / "metrics.jsonl"
        self.model = path / "model"
        self._checkpoints = path / "checkpoint"

    def begin(self, config: Any, *, resume: bool) -> dict[str, Any] | None:
        """Start a run, or find where it stopped.

        Args:
            config: The resolved recipe (a dataclass), written to `config.toml`.
            resume: Go on with the run in this folder.

        Returns:
            The newest readable checkpoint, or None for a run that starts from nothing.

        Raises:
            UsageError: The folder holds a run and `resume` is off, or another recipe made it.
            TrainingError: Every checkpoint of the run is unreadable.
        """
        recipe = self.path / "config.toml"
        if not recipe.exists():
            self._checkpoints.mkdir(parents=True, exist_ok=True)
            write_atomic(recipe, tomli_w.dumps(plain(config)).encode())
            return None
        if not resume:
            raise UsageError(
                f"{self.path} already holds a run; add --resume or name another folder."
            )
        changed = _differences(read_toml(recipe), plain(config))
        if changed:
            raise UsageError(
                f"{self.path} was made by another recipe ({', '.join(changed)} differ); "
                "resume with the same one or name another folder."
            )
        state = self._newest()
        self._forget_metrics_after(-1 if state is None else state["step"])
        return state

    def record(self, values: Mapping[str, Any]) -> None:
        """Append one line to `metrics.jsonl`."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(values)) + "\n")

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint beside its name and rename it; `state["step"]` names it.

        The oldest ones beyond `keep` are removed only when the new one is in place.
        """
        target = self._checkpoints / f"step-{state['step']:09d}.pt"
        with tempfile.NamedTemporaryFile(
            dir=self._checkpoints, suffix=".tmp", delete=False
        ) as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(target)
        for old in self._saved()[: -self.keep]:
            old.unlink()
        for left in self._checkpoints.glob("*.tmp"):
            left.unlink()

    def _saved(self) -> list[Path]:
        return sorted(self._checkpoints.glob("step-*.pt"))

    def _newest(self) -> dict[str, Any] | None:
        """Load the newest checkpoint that can be read; a damaged one is passed over and named."""
        for path in reversed(self._saved()):
            try:
                return dict(torch.load(path, map_location="cpu", weights_only=True))
            except (RuntimeError, EOFError, OSError, ValueError) as error:
                log.warning("%s cannot be read (%s); trying the one before.", path, error)
        if self._saved():
            raise TrainingError(f"No checkpoint in {self._checkpoints} can be read.")
        return None

    def _forget_metrics_after(self, step: int) -> None:
        """Drop lines the resumed run will write again, and a last line cut short by a kill."""
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
        write_atomic(self.metrics, "".join(kept).encode())


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: a temporary name in the same folder, then a rename."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)


def check_finite(loss: float, step: int) -> None:
    """Stop a run whose loss is no number any more.

    Raises:
        TrainingError: The loss is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise TrainingError(
            f"The loss is {loss} at step {step}. Lower the learning rate or use --precision "
            "float32; the last checkpoint is kept."
        )


def tune_for_cpu(device: torch.device) -> None:
    """Flush denormal numbers on CPUs: they appear in late optimiser states and are very slow."""
    if device.type == "cpu":
        torch.set_flush_denormal(True)


def show_log() -> None:
    """Send this package's log lines to stderr, once, for programs that set up no logging."""
    if not log.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
