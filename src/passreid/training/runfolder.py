"""Where a run lives on disk: recipe, metrics, checkpoints, all written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomli_w
import torch
import torch.distributed as dist

from passreid import storage
from passreid.checkpoint.files import DAMAGE, write_pickle
from passreid.config import plain, read_toml
from passreid.data.filelist import FileList
from passreid.errors import MissingExtraError, TrainingError, UsageError
from passreid.training.process import Process, main_first

FILES = "images.txt"
"""A run's own list of files: what is added to the data later changes nothing."""

log = logging.getLogger("passreid")


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
        self.best = path / "best"
        self._checkpoints = path / "checkpoint"
        self._events: Any = None

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
            MissingExtraError: The recipe asks for TensorBoard, which is not installed.
        """
        if config.tensorboard:
            _event_writer()
        recipe = self.path / "config.toml"
        if not recipe.exists():
            self._checkpoints.mkdir(parents=True, exist_ok=True)
            storage.write(recipe, tomli_w.dumps(plain(config)).encode())
            self._open_events(config, 0)
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
        for left in self._checkpoints.glob(".*.pt"):  # a kill while one was being written
            left.unlink()
        state = self.newest()
        step = -1 if state is None else state["step"]
        self._forget_metrics_after(step)
        self._open_events(config, step + 1)
        return state

    def _open_events(self, config: Any, forget_from: int) -> None:
        """Send records to TensorBoard too; it is told to drop what a killed run wrote later."""
        if config.tensorboard:
            folder = str(self.path / "tensorboard")
            self._events = _event_writer()(folder, purge_step=forget_from)

    def lines(self) -> list[dict[str, Any]]:
        """Read `metrics.jsonl`; a last line cut short by a kill is left out."""
        found = []
        if self.metrics.exists():
            for line in self.metrics.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    found.append(json.loads(line))
        return found

    def record(self, values: Mapping[str, Any]) -> None:
        """Append one line to `metrics.jsonl`."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(values)) + "\n")
        if self._events is not None:
            for name in values.keys() - {"step"}:
                self._events.add_scalar(name, values[name], values["step"])
            self._events.flush()

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint beside its name and rename it; `state["step"]` names it.

        The oldest ones beyond `keep` are removed only when the new one is in place.
        """
        target = self._checkpoints / f"step-{state['step']:09d}.pt"
        with storage.replacing(target) as temporary:
            write_pickle(temporary, dict(state))
        for old in self._saved()[: -self.keep]:
            old.unlink()

    def _saved(self) -> list[Path]:
        return sorted(self._checkpoints.glob("step-*.pt"))

    def newest(self) -> dict[str, Any] | None:
        """Load the newest intact checkpoint; warn of each damaged one before it.

        Raises:
            TrainingError: There are checkpoints, but none is intact.
        """
        for path in reversed(self._saved()):
            try:
                storage.check_zip(path)
                state = dict(torch.load(path, map_location="cpu", weights_only=True))
                if "step" not in state:
                    raise ValueError("it holds no state of a run")
                return state
            except DAMAGE as error:
                reason = str(error).split("\n")[0]
                log.warning("%s cannot be read (%s); trying the one before.", path, reason)
        if self._saved():
            raise TrainingError(f"No checkpoint in {self._checkpoints} can be read.")
        return None

    def _forget_metrics_after(self, step: int) -> None:
        """Drop lines the resumed run will write again."""
        if self.metrics.exists():
            kept = [json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step]
            storage.write(self.metrics, "".join(kept).encode())


def begin(
    folder: RunFolder, config: Any, process: Process, *, resume: bool
) -> dict[str, Any] | None:
    """Open a run folder in the main process, then let the others read what it found."""
    state = main_first(process, lambda: folder.begin(config, resume=resume))
    return _shared(state, folder, process)


def _shared(
    state: dict[str, Any] | None, folder: RunFolder, process: Process
) -> dict[str, Any] | None:
    """Return the checkpoint the main process found, read by each process itself.

    Raises:
        TrainingError: They found different ones, and would train different networks as one.
    """
    if process.world == 1:
        return state
    if not process.is_main:
        state = folder.newest()
    steps: list[int | None] = [None] * process.world
    dist.all_gather_object(steps, None if state is None else state["step"])
    if len(set(steps)) > 1:
        raise TrainingError(
            f"The processes find different checkpoints in {folder.path}; put it where all machines "
            "of the run see the same files."
        )
    return state


def begin_listed(
    folder: RunFolder,
    config: Any,
    process: Process,
    *,
    resume: bool,
    check: Callable[[int], object] = lambda count: None,
) -> tuple[FileList, dict[str, Any] | None]:
    """`begin` for a run on unlabelled images, which are listed once, at its first start.

    Args:
        folder, config, process, resume: As in `begin`; `config.data` is what is listed.
        check: Raises where a run cannot be made of so many images, before anything is written.
    """
    listed = folder.path / FILES

    def open_folder() -> dict[str, Any] | None:
        found = None
        if not listed.exists():
            found = FileList.find(config.data)
            check(len(found))
        state = folder.begin(config, resume=resume)
        if found is not None:
            storage.write(listed, found.text)
        return state

    state = _shared(main_first(process, open_folder), folder, process)
    return FileList.again(config.data, listed.read_bytes()), state


def _event_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise MissingExtraError("Writing TensorBoard events", "tensorboard") from error
    return SummaryWriter


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    # A folder may be moved, and how many processes load images changes none of them.
    free = {"output", "workers"}
    return sorted(k for k in {*before, *now} - free if before.get(k) != now.get(k))
