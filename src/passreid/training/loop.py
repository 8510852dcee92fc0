"""The loop of every training stage: epochs, metrics, checkpoints, a clean way out."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, Protocol

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from passreid.errors import TrainingError
from passreid.model import PartViT
from passreid.training.batches import dead_workers_named
from passreid.training.process import Process, main_first
from passreid.training.runfolder import RunFolder

log = logging.getLogger("passreid")

LOG_EVERY = 20
"""Steps between two lines of the log: losses stay on the device until then."""
LATE_PEAK = (
    "The learning rate rises to the very end (epochs %d, warmup_epochs %d): lower --warmup-epochs."
)
"""What to say of a warm-up as long as the run."""
Score = Callable[[PartViT], dict[str, float]]
"""A network in training -> mAP, mINP and rank1, as fractions. The network is left as it is."""


@dataclass
class Position:
    """Where a run stands: steps done, the epoch at work, batches done in it."""

    step: int = 0
    epoch: int = 0
    batch: int = 0


class Stage(Protocol):
    """What the loop moves on: a fine-tuning, a pre-training, an adaptation."""

    position: Position
    epochs: int

    @property
    def exported(self) -> PartViT:
        """The weights that are scored and kept."""

    def run_epoch(self) -> Iterator[dict[str, Any] | None]:
        """Do what is left of the epoch at work, yielding after each step a metrics line or None."""

    def batches(self) -> int:
        """Return the length of the epoch at work."""

    def state(self) -> dict[str, Any]:
        """Return all a resumed run needs."""


def fit(
    stage: Stage,
    folder: RunFolder,
    process: Process,
    *,
    save_every: int = 1,
    save_steps: int = 0,
    score: Score | None = None,
    score_every: int = 0,
    progress: bool = True,
) -> bool:
    """Run a stage to its last epoch, or until it is asked to stop.

    Checkpoints are written by the main process after every `save_every` epochs and `save_steps`
    steps (0 is never), after the last epoch and when SIGTERM or SIGINT ask the run to leave. Scores
    are taken there, too, after every `score_every` epochs and the last one: behind the checkpoint,
    as they take long and a kill must not cost the epoch.

    Returns:
        True when the run is finished, False when it was stopped and can be resumed.

    Raises:
        TrainingError: A data worker was killed.
    """
    shown = progress and process.is_main
    with (
        StopSignal() as stop,
        dead_workers_named(),
        _progress(stage, enabled=shown) as advance,
    ):
        scored = partial(_score, stage, folder, process, score, score_every)
        scored()  # unless a kill came first
        while stage.position.epoch < stage.epochs:
            for line in stage.run_epoch():
                advance(line)
                if line is not None:
                    main_first(process, partial(folder.record, line))
                if _anyone(stop.requested, process):
                    _save(stage, folder, process)
                    return False
                if _due(stage, save_steps) and stage.position.batch < stage.batches():
                    _save(stage, folder, process)
            stage.position.epoch += 1
            stage.position.batch = 0
            last = stage.position.epoch == stage.epochs
            whole = save_every and stage.position.epoch % save_every == 0
            if last or whole or _due(stage, save_steps):
                _save(stage, folder, process)
            scored()
    return True


def _due(stage: Stage, save_steps: int) -> bool:
    return save_steps > 0 and stage.position.step % save_steps == 0


def _save(stage: Stage, folder: RunFolder, process: Process) -> None:
    main_first(process, lambda: folder.save(stage.state()))


def _score(
    stage: Stage, folder: RunFolder, process: Process, score: Score | None, every: int
) -> None:
    """Score the weights at the end of an epoch, where it is due and was not done before."""
    place = stage.position
    due = place.epoch == stage.epochs or (every > 0 and place.epoch % every == 0)
    if score is None or not due or not place.epoch or place.batch:
        return

    def measured() -> None:
        if not any("mAP" in line and line["step"] == place.step for line in folder.lines()):
            found = score(stage.exported)
            folder.record({"step": place.step, "epoch": place.epoch, **found})

    main_first(process, measured)


def _anyone(requested: bool, process: Process) -> bool:
    """Agree on stopping: a signal may reach one process only, and all must leave at one step."""
    if process.world == 1:
        return requested
    flag = torch.tensor(float(requested), device=process.device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)


@contextlib.contextmanager
def _progress(stage: Stage, *, enabled: bool) -> Iterator[Callable[[dict[str, Any] | None], None]]:
    """Show epochs, batches, the last losses and the time left on stderr, when it is a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not enabled or not console.is_terminal) as bar:
        task = bar.add_task("training", total=None, note="")

        def advance(line: dict[str, Any] | None) -> None:
            total = stage.batches() * stage.epochs
            done = stage.batches() * stage.position.epoch + stage.position.batch
            bar.update(task, completed=done, total=total)
            if line is not None:
                note = f"loss {line['loss']:.3f}  {line['images_per_second']:.0f}/s"
                bar.update(task, description=f"epoch {stage.position.epoch + 1}", note=note)

        yield advance


class StopSignal:
    """SIGTERM and SIGINT become a wish: the loop finishes its step, saves and leaves.

    The second signal falls through to the previous handler, so that a stuck run can be stopped. In
    a thread other than the main one, where Python takes no handlers, nothing is caught.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        """Install the handlers."""
        if threading.current_thread() is not threading.main_thread():
            return self
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


def check_finite(losses: Sequence[Tensor], step: int) -> None:
    """Stop a run whose loss is no number any more, before it is logged or saved.

    Args:
        losses: Of the steps since the last look, each the total alone or in front of its terms.
        step: Where the run is.

    Raises:
        TrainingError: A loss is NaN or infinite.
    """
    loss = float(sum(values.flatten()[0] for values in losses))
    if not math.isfinite(loss):
        raise TrainingError(
            f"The loss is {loss} at step {step}. Lower the learning rate or use --precision "
            "float32; the last checkpoint is kept."
        )


def show_log(level: int = logging.INFO) -> None:
    """Send this package's log lines to stderr, once, for programs that set up no logging."""
    if not log.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(level)
