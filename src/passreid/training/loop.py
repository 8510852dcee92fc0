"""The loop of every training stage: epochs, metrics, checkpoints, scores and a clean exit."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

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

from passreid.model import PartViT
from passreid.training.batches import dead_workers_named
from passreid.training.callbacks import Callback
from passreid.training.folder import RunFolder
from passreid.training.process import Process, main_first
from passreid.training.stage import Stage

log = logging.getLogger("passreid")

Score = Callable[[PartViT], dict[str, float]]
"""A network in training -> mAP, mINP and rank1, as fractions. The network is not changed."""
Export = Callable[[Path, Mapping[str, float]], None]
"""Writes the current weights as a model folder whose card holds the scores."""


@dataclass(kw_only=True)
class Loop:
    """Runs a stage to its last epoch, or until SIGTERM or SIGINT ask it to stop.

    Attributes:
        stage: The stage; its position says where to go on.
        folder: The run folder.
        process: This process; the main one writes.
        save_every, save_steps: Epochs and steps between checkpoints; 0 is never. One is also
            written after the last epoch and when the run is stopped.
        score: Scores the weights, after the checkpoint of the same epoch: it takes long, and a kill
            must not cost the epoch.
        score_every: Epochs between scores; 0 only at the end.
        export: Writes model folders: `model/`, `best/` and snapshots.
        keep_best: Export to `best/` whenever the mAP is the highest so far.
        keep_every: Epochs between snapshots; 0 keeps none.
        callbacks: Followers of the run.
        progress: Show a bar if stderr is a terminal.
    """

    stage: Stage
    folder: RunFolder
    process: Process
    save_every: int = 1
    save_steps: int = 0
    score: Score | None = None
    score_every: int = 0
    export: Export | None = None
    keep_best: bool = False
    keep_every: int = 0
    callbacks: Sequence[Callback] = ()
    progress: bool = True

    def run(self) -> bool:
        """Train; True when the run is finished, False when it was stopped and can be resumed.

        Raises:
            TrainingError: A data worker was killed, or the loss is not finite.
        """
        stage, place = self.stage, self.stage.position
        with StopSignal() as stop, dead_workers_named(), self._progress() as show:
            self._end_epoch()  # unless a kill came before
            while place.epoch < stage.epochs:
                for line in stage.run_epoch():
                    if line is not None:
                        self._in_main(partial(self._record, line))
                    show(line)
                    if self._any_process(stop.requested):
                        self._save()
                        return False
                    if self._save_due() and place.batch < stage.batches():
                        self._save()
                place.epoch, place.batch = place.epoch + 1, 0
                if self._every(self.save_every) or self._save_due():
                    self._save()
                self._end_epoch()
        if self.export:
            export, scores = self.export, self.folder.scores(place.step)
            self._in_main(lambda: export(self.folder.model, scores))
        return True

    def _every(self, epochs: int) -> bool:
        """Whether the completed epochs are a multiple, or all of the run."""
        done = self.stage.position.epoch
        return done == self.stage.epochs or (epochs > 0 and done % epochs == 0)

    def _save_due(self) -> bool:
        return self.save_steps > 0 and self.stage.position.step % self.save_steps == 0

    def _save(self) -> None:
        def write() -> None:
            self.folder.save(self.stage.state())
            self.folder.write_session()

        self._in_main(write)

    def _record(self, values: Mapping[str, Any]) -> None:
        self.folder.record(values)
        for callback in self.callbacks:
            callback.on_metrics(values)

    def _end_epoch(self) -> None:
        """Score and keep the weights where it is due and not done yet."""
        place = self.stage.position
        if place.epoch and not place.batch:
            if self.score is not None and self._every(self.score_every):
                self._in_main(self._score)
            if self.export and self.keep_every and place.epoch % self.keep_every == 0:
                self._in_main(self._keep_snapshot)

    def _score(self) -> None:
        place, lines = self.stage.position, [x for x in self.folder.lines() if "mAP" in x]
        if self.score is None or any(line["step"] == place.step for line in lines):
            return
        found = self.score(self.stage.exported)
        best = max((line["mAP"] for line in lines), default=-1.0)
        if self.keep_best and self.export and found["mAP"] > best:
            self.export(self.folder.best, found)
        self._record({"step": place.step, "epoch": place.epoch, **found})

    def _keep_snapshot(self) -> None:
        place, export = self.stage.position, self.export
        kept = self.folder.snapshots / f"epoch-{place.epoch:04d}"
        if export and not kept.exists():
            export(kept, self.folder.scores(place.step))

    def _in_main(self, call: Callable[[], None]) -> None:
        main_first(self.process, call)

    def _any_process(self, requested: bool) -> bool:
        """Agree on stopping: a signal may reach one process, and all must stop at one step."""
        if self.process.world == 1:
            return requested
        flag = torch.tensor(float(requested), device=self.process.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Callable[[dict[str, Any] | None], None]]:
        """Show epochs, losses and the time left: a bar on a terminal, else lines of the log."""
        stage, place = self.stage, self.stage.position
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        console = Console(stderr=True)
        shown = self.progress and self.process.is_main and console.is_terminal
        began, first = time.monotonic(), self._fraction_done()
        with Progress(*columns, console=console, disable=not shown) as bar:
            task = bar.add_task("training", total=None, note="")

            def show(line: dict[str, Any] | None) -> None:
                done, epochs = self._fraction_done(), stage.epochs
                total = stage.batches() * epochs
                bar.update(task, completed=round(done * total), total=total)
                if line is None:
                    return
                epoch = f"epoch {place.epoch + 1}/{epochs}"
                note = f"loss {line['loss']:.3f}  {line['images_per_second']:.0f} images/s"
                bar.update(task, description=epoch, note=note)
                if not shown and self.process.is_main:
                    left = (time.monotonic() - began) * (1 - done) / max(done - first, 1e-9)
                    clock = f"{left // 3600:.0f}:{left % 3600 // 60:02.0f} h left"
                    log.info("%s  step %d  %s  %s", epoch, line["step"], note, clock)

            yield show

    def _fraction_done(self) -> float:
        place = self.stage.position
        return (place.epoch + place.batch / max(self.stage.batches(), 1)) / self.stage.epochs


class StopSignal:
    """Turns the first SIGTERM or SIGINT into a request to stop after the current step.

    A second signal reaches the previous handler, so that a stuck run can be stopped. Outside the
    main thread, where Python accepts no handlers, nothing is caught.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self._previous[number])


def show_log(level: int = logging.INFO) -> None:
    """Send this package's log to stderr if the program has set up no logging."""
    if not log.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(level)
