"""Callbacks: hooks of a run, called in the main process, and TensorBoard as one of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from passreid.errors import MissingExtraError


class Callback:
    """Base class of what follows a run; override what you need.

    Example, for Weights & Biases:

        class WandB(Callback):
            def on_start(self, folder, config, step):
                wandb.init(project="reid", dir=folder, config=config)

            def on_metrics(self, values):
                wandb.log(values, step=values["step"])

            def on_end(self, finished):
                wandb.finish()

        passreid.finetune(config, callbacks=[WandB()])
    """

    def on_start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        """Begin a run, or resume one at `step`: later values it may have logged are void."""

    def on_metrics(self, values: Mapping[str, Any]) -> None:
        """Take a line of `metrics.jsonl`: losses and rates, or scores ("mAP")."""

    def on_end(self, finished: bool) -> None:
        """End a session; `finished` is False when the run was stopped and can be resumed."""


class TensorBoard(Callback):
    """Writes metrics as TensorBoard events to the run folder's `tensorboard/`."""

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise MissingExtraError("Writing TensorBoard events", "tensorboard") from error
        self._make: Any = SummaryWriter

    def on_start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        """Open the event file."""
        self._writer = self._make(str(folder / "tensorboard"), purge_step=step + 1)

    def on_metrics(self, values: Mapping[str, Any]) -> None:
        """Write each value as a scalar."""
        for name in values.keys() - {"step"}:
            self._writer.add_scalar(name, values[name], values["step"])
        self._writer.flush()

    def on_end(self, finished: bool) -> None:
        """Close the event file."""
        self._writer.close()
