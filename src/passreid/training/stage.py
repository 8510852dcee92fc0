"""A training stage: its position, mixed precision, accumulation, log lines and state."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from passreid.backends.pytorch import find_dtype
from passreid.errors import TrainingError
from passreid.model import PartViT, use_fused_attention
from passreid.training.process import Process, in_parallel
from passreid.training.recipe import CropRecipe, Recipe

LOG_EVERY = 20
"""Steps between two lines of the log; losses stay on the device until then."""


@dataclass
class Position:
    """Steps done in the run, epochs completed, and batches done in the current epoch."""

    step: int = 0
    epoch: int = 0
    batch: int = 0


class Stage(ABC):
    """What the loop drives; a subclass supplies data, network, loss and `step`.

    Attributes:
        measures: Names of the values that `step` appends to `waiting`, the loss first.
        waiting: Values of the steps since the last line of the log.
        saved: Modules and optimisers by the name of their state in a checkpoint.
        crops_per_batch: Images in one batch over all processes.
    """

    measures: tuple[str, ...]
    crops_per_batch: int
    optimizer: torch.optim.Optimizer

    def __init__(self, config: Recipe, process: Process, *, accumulate: int = 1) -> None:
        self.config, self.process, self.accumulate = config, process, accumulate
        self.position, self.epochs = Position(), config.epochs
        self.waiting: list[Tensor] = []
        self.dtype = find_dtype(config.precision, process.device)
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=self.dtype is torch.float16)
        self.saved: dict[str, Any] = {"scaler": self.scaler}

    @property
    @abstractmethod
    def exported(self) -> PartViT:
        """The weights to score and export."""

    @abstractmethod
    def batches(self) -> int:
        """Return the length of the current epoch."""

    @abstractmethod
    def start_epoch(self) -> Iterable[Any]:
        """Return the batches left in the current epoch."""

    @abstractmethod
    def step(self, parts: Sequence[Any]) -> Mapping[str, float]:
        """Move the weights by up to `accumulate` batches; return further values to log."""

    def end_epoch(self) -> None:  # noqa: B027 - most stages need none
        """Do what the end of an epoch asks for."""

    def prepare(self, network: nn.Module, *, shared: Sequence[nn.Module]) -> nn.Module:
        """Compile a network if the recipe says so, and wrap it for several processes."""
        if self.config.compile:
            network.compile()
        return in_parallel(network, self.process, shared=shared)

    def run_epoch(self) -> Iterator[dict[str, Any] | None]:
        """Train on the rest of the epoch; after each step yield a line for the log, or None.

        Raises:
            TrainingError: The loss is not finite.
        """
        began, done = time.perf_counter(), 0
        for parts in _grouped(self.start_epoch(), self.accumulate):
            extra = self.step(parts)
            done += len(parts)
            line = None
            if self.is_log_due():
                seconds, began = time.perf_counter() - began, time.perf_counter()
                line, done = self._line(extra, done * self.crops_per_batch / seconds), 0
            yield line
        self.end_epoch()

    def is_log_due(self, ahead: int = 0) -> bool:
        """Whether a line of the log is due now, or `ahead` steps later."""
        last = self.position.batch + ahead == self.batches()
        return last or len(self.waiting) + ahead >= LOG_EVERY

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients, scaled under float16."""
        self.scaler.scale(loss).backward()

    def update_weights(self) -> None:
        """Apply the gradients and clear them."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _line(self, extra: Mapping[str, float], speed: float) -> dict[str, Any]:
        self._check_finite()
        means = torch.stack(self.waiting).mean(dim=0).tolist()
        self.waiting = []
        return {
            "step": self.position.step,
            "epoch": self.position.epoch + 1,
            **dict(zip(self.measures, means, strict=True)),
            **extra,
            "images_per_second": round(speed, 2),
        }

    def _check_finite(self) -> None:
        """Stop before a loss that is not finite is logged, or weights that gave it are saved."""
        loss = float(sum(values[0] for values in self.waiting))
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss} at step {self.position.step}. Lower the learning rate or use "
                "--precision float32; the last checkpoint is kept."
            )

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs; it needs no random state, see `training.process`."""
        self._check_finite()
        state: dict[str, Any] = {**vars(self.position), "waiting": self.waiting}
        for name, part in self.saved.items():
            state[name] = None if part is None else part.state_dict()
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a saved state."""
        self.position = Position(state["step"], state["epoch"], state["batch"])
        for name, part in self.saved.items():
            if part is not None:
                part.load_state_dict(state[name])
        device = self.process.device
        self.waiting = [torch.atleast_1d(values.to(device)) for values in state["waiting"]]


def prepare_model(model: PartViT, recipe: Recipe, process: Process) -> PartViT:
    """Move a model to the device and set it up for training."""
    model = model.to(process.device).train()
    model.vit.set_grad_checkpointing(recipe.checkpoint_blocks)
    # Convolutions train a tenth to a third faster in this memory format.
    model.vit.patch_embed.to(memory_format=torch.channels_last)
    use_fused_attention(model, process.device.type != "cpu")
    return model


def build_optimizer(groups: Iterable[Any], recipe: CropRecipe) -> torch.optim.Optimizer:
    """Build the recipe's optimiser for parameter groups."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
    return torch.optim.AdamW(groups, lr=recipe.lr)


def _grouped(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group
