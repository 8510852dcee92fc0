"""The run folder: recipe, metrics, checkpoints and a record of each session, written atomically."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w
import torch
import torch.distributed as dist

from passreid import storage
from passreid.checkpoint.files import DAMAGE, write_pickle
from passreid.config import plain, read_json, read_toml
from passreid.errors import TrainingError, UsageError
from passreid.training.process import Process

IMAGES = "images.txt"
"""The run's own list of images: what is added to the data later changes nothing."""
UNREADABLE = "unreadable.txt"
"""Images that could not be read, and why, separated by a tab."""
# They may change when a run is resumed: none of them changes a step that was already done.
_FREE = {"output", "workers", "epochs", "save_every", "save_steps", "keep_every", "evaluate_every"}
_FREE |= {"watch_every", "tensorboard", "compile", "checkpoint_blocks"}

log = logging.getLogger("passreid")


class RunFolder:
    """`config.toml`, `run.json`, `metrics.jsonl`, `checkpoint/` and, at the end, `model/`.

    Args:
        path: The run folder.
        keep: Number of checkpoints kept on disk.
    """

    def __init__(self, path: Path, *, keep: int = 2) -> None:
        self.path, self.keep = path, keep
        self.metrics = path / "metrics.jsonl"
        self.model, self.best, self.snapshots = (path / n for n in ("model", "best", "snapshots"))
        self._recipe, self._record = path / "config.toml", path / "run.json"
        self._checkpoints = path / "checkpoint"
        self._sessions: list[dict[str, Any]] = []
        self._began = time.monotonic(), sum(os.times()[:4])

    def holds_run(self, config: Any, *, resume: bool) -> bool:
        """Whether there is a run to resume; reject any other run.

        Raises:
            UsageError: The folder holds a run and `resume` is off, or a different recipe made it.
        """
        if not self._recipe.exists():
            return False
        if not resume:
            raise UsageError(
                f"{self.path} already holds a run; add --resume or name another folder."
            )
        before, now = read_toml(self._recipe), plain(config)
        keys = {*before, *now} - _FREE
        changed = sorted(key for key in keys if before.get(key) != now.get(key))
        if changed:
            raise UsageError(
                f"{self.path} was made by another recipe ({', '.join(changed)} differ); "
                "resume with the same one or name another folder."
            )
        return True

    def open(self, config: Any, files: Mapping[str, bytes], process: Process) -> None:
        """Write a new run's files, or make a resumed one ready; begin a session."""
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        for left in self._checkpoints.glob(".*.pt"):  # from a kill in the middle of writing
            left.unlink()
        for name, content in files.items():
            storage.write(self.path / name, content)
        storage.write(self._recipe, tomli_w.dumps(plain(config)).encode())
        self._sessions = read_json(self._record)["sessions"] if self._record.exists() else []
        self._sessions.append(
            {
                "started": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"),
                "command": shlex.join(sys.argv),
                "host": platform.node(),
                "processes": process.world,
                "device": str(process.device),
                "passreid": version("passreid"),
                "torch": torch.__version__,
                "python": platform.python_version(),
            }
        )
        self.write_session()

    def write_session(self) -> None:
        """Update the wall and processor time of this session in `run.json`."""
        if not self._sessions:
            return
        wall, cores = self._began
        self._sessions[-1]["wall_seconds"] = round(time.monotonic() - wall, 1)
        # Data workers count once they have ended, at the end of an epoch.
        self._sessions[-1]["core_seconds"] = round(sum(os.times()[:4]) - cores, 1)
        text = json.dumps({"sessions": self._sessions}, indent=2)
        storage.write(self._record, text.encode())

    def lines(self) -> list[dict[str, Any]]:
        """Read `metrics.jsonl`; a last line cut short by a kill is left out."""
        found = []
        if self.metrics.exists():
            for line in self.metrics.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    found.append(json.loads(line))
        return found

    def scores(self, step: int) -> dict[str, Any]:
        """Return the evaluation logged at a step, or {}."""
        return next((x for x in self.lines() if "mAP" in x and x["step"] == step), {})

    def record(self, values: Mapping[str, Any]) -> None:
        """Append one line to `metrics.jsonl`."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(values)) + "\n")

    def drop_lines_after(self, step: int) -> None:
        """Drop the lines that a resumed run will write again."""
        if self.metrics.exists():
            kept = [json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step]
            storage.write(self.metrics, "".join(kept).encode())

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint; the oldest beyond `keep` are removed once it is in place."""
        with storage.replacing(self._checkpoints / f"step-{state['step']:09d}.pt") as temporary:
            write_pickle(temporary, dict(state))
        for old in self._saved()[: -self.keep]:
            old.unlink()

    def _saved(self) -> list[Path]:
        return sorted(self._checkpoints.glob("step-*.pt"))

    def newest(self) -> dict[str, Any] | None:
        """Load the newest intact checkpoint, warning of each damaged one before it.

        Raises:
            TrainingError: There are checkpoints, but none is intact.
        """
        for path in reversed(self._saved()):
            try:
                storage.check_zip(path)
                state = dict(torch.load(path, map_location="cpu", weights_only=True))
                if "step" not in state:
                    raise ValueError("it is not a checkpoint of a run")
                return state
            except DAMAGE as error:
                reason = str(error).split("\n")[0]
                log.warning("%s cannot be read (%s); trying the one before.", path, reason)
        if self._saved():
            raise TrainingError(f"No checkpoint in {self._checkpoints} can be read.")
        return None

    def newest_of_all(self, process: Process) -> dict[str, Any] | None:
        """Load the newest checkpoint in every process, and make sure that it is the same one.

        Raises:
            TrainingError: The processes found different ones.
        """
        state = self.newest()
        steps: list[int | None] = [None if state is None else state["step"]] * process.world
        if process.world > 1:
            dist.all_gather_object(steps, steps[0])
        if len(set(steps)) > 1:
            raise TrainingError(
                f"The processes find different checkpoints in {self.path}; put it where all "
                "machines of the run see the same files."
            )
        return state
