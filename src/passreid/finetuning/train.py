"""Supervised fine-tuning: identity loss after the neck, batch-hard triplet before it.

As released in `PASS_transreid/processor`, after TransReID (He et al., ICCV 2021).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from passreid.backends.pytorch import find_dtype
from passreid.errors import UsageError
from passreid.finetuning.config import FinetuneConfig
from passreid.finetuning.losses import batch_hard_triplet, margin_logits
from passreid.finetuning.optim import build_optimizer, set_learning_rates
from passreid.model import PartViT, use_fused_attention
from passreid.training.augment import CropDataset
from passreid.training.batches import Batches
from passreid.training.loop import LOG_EVERY, Position, check_finite
from passreid.training.mixstyle import mix_styles
from passreid.training.process import GatherTokens, Process, gather, in_parallel, seed_all
from passreid.training.sampler import PKSampler


class Objective(nn.Module):
    """The network with its losses: what DDP wraps, so that all of it takes part in one backward.

    Args:
        model: With a classifier for the training identities.
        config: Supplies smoothing, margin and weights.
    """

    def __init__(self, model: PartViT, config: FinetuneConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, images: Tensor, labels: Tensor, dtype: torch.dtype | None) -> Tensor:
        """Return total, identity and triplet loss and accuracy over the global batch, as (4,).

        Args:
            images: This process's crops, float (b, 3, H, W).
            labels: Their identities (b,).
            dtype: Autocast type of the transformer; neck, classifier and losses are float32.
        """
        with torch.autocast(images.device.type, dtype or torch.float32, enabled=dtype is not None):
            tokens = self.model.tokens(images)
        tokens = tokens.float()
        if dist.is_initialized():
            tokens, labels = GatherTokens.apply(tokens), gather(labels)
        before, after = self.model.features(tokens)
        config = self.config
        logits, asked = self._logits(after, labels)
        identity = F.cross_entropy(asked, labels, label_smoothing=config.label_smoothing)
        triplet = batch_hard_triplet(before, labels, margin=config.triplet_margin).loss
        total = config.identity_weight * identity + config.triplet_weight * triplet
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        return torch.stack([total, identity, triplet, accuracy])

    def _logits(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return how each person's centre fits each crop, (B, people), without and with margin."""
        classifier, config = self.model.classifier, self.config
        assert classifier is not None
        if config.identity_loss == "softmax":
            logits: Tensor = classifier(features)
            return logits, logits
        cosines = F.normalize(features, dim=1) @ F.normalize(classifier.weight, dim=1).T
        asked = margin_logits(
            cosines,
            labels,
            kind=config.identity_loss,
            scale=config.identity_scale,
            margin=config.identity_margin,
        )
        return cosines, asked


class Finetuning:
    """Model, optimiser, averages, data and place of one run: a stage for `training.loop.fit`.

    Args:
        model: With a classifier; moved to the process's device.
        config: The recipe.
        process: This process.
        crops: The training set.
    """

    def __init__(
        self,
        model: PartViT,
        config: FinetuneConfig,
        *,
        process: Process,
        crops: CropDataset,
    ) -> None:
        self.config, self.process, self.position = config, process, Position()
        self.epochs = config.epochs
        self._waiting: list[Tensor] = []
        self._crops = crops.fingerprint()
        self.model = model.to(process.device).train()
        self.model.vit.set_grad_checkpointing(config.checkpoint_blocks)
        # Convolutions train a tenth to a third faster in this order of memory.
        self.model.vit.patch_embed.to(memory_format=torch.channels_last)
        if config.mixstyle:
            mix_styles(self.model, config.mixstyle)
        use_fused_attention(self.model, process.device.type != "cpu")
        self.dtype = find_dtype(config.precision, process.device)
        self.optimizer = build_optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=self.dtype is torch.float16)
        average = get_ema_multi_avg_fn(config.ema)
        self.ema = (
            AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
            if config.ema
            else None
        )
        self.objective: nn.Module = Objective(self.model, config)
        if config.compile:
            self.objective.compile()
        # The neck sees the gathered tokens: only a stem has batch norms that do not.
        stem = self.model.vit.patch_embed
        self.objective = in_parallel(self.objective, process, shared=[stem])
        self.sampler = PKSampler(
            crops.labels,
            people=config.people,
            images_per_person=config.images_per_person,
            set_of=crops.set_of,
            weights=config.set_weights,
            separate=config.batches == "separate",
            seed=config.seed,
            rank=process.rank,
            world=process.world,
        )
        self.loader: Batches[list[Tensor]] = Batches(
            crops, self.sampler, workers=config.workers, device=process.device
        )

    @property
    def exported(self) -> PartViT:
        """The weights that are scored and kept: the average where there is one."""
        return self.model if self.ema is None else cast(PartViT, self.ema.module)

    def batches(self) -> int:
        """Return the length of the epoch at work, in batches."""
        return len(self.sampler.plan)

    def run_epoch(self) -> Iterator[dict[str, Any] | None]:
        """Train on what is left of the epoch, handing control back after each optimiser step.

        Yields:
            The line for the metrics log every `LOG_EVERY` steps, else None.

        Raises:
            TrainingError: The loss is not finite.
        """
        place, began, crops = self.position, time.perf_counter(), 0
        self.sampler.set_epoch(place.epoch, skip=place.batch)
        for images, labels in self.loader:
            progress = place.epoch + place.batch / self.batches()
            rate = set_learning_rates(self.optimizer, self.config, progress)
            moved = self._step(images, labels)
            crops += len(images) * self.process.world
            line = None
            if moved and (len(self._waiting) >= LOG_EVERY or place.batch == self.batches()):
                seconds, began = time.perf_counter() - began, time.perf_counter()
                line, crops = self._line(rate, crops / seconds), 0
            # Between two optimiser steps there is no place to stop: half a gradient is not saved.
            if moved:
                yield line

    def _step(self, images: Tensor, labels: Tensor) -> bool:
        """Do one batch; whether the optimiser moved (after `accumulate` of them, or at the end)."""
        config, place, device = self.config, self.position, self.process.device
        seed_all(config.seed, place.step, self.process.rank)
        images, labels = (x.to(device, non_blocking=True) for x in (images, labels))
        values: Tensor = self.objective(images, labels, self.dtype)
        self.scaler.scale(values[0] / self._batches_of_step()).backward()
        self._waiting.append(values.detach())
        place.step += 1
        place.batch += 1
        if place.batch % config.accumulate and place.batch < self.batches():
            return False
        if config.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return True

    def _batches_of_step(self) -> int:
        """Return how many batches share the step at work; the last of an epoch may have fewer."""
        accumulate = self.config.accumulate
        first = self.position.batch // accumulate * accumulate
        return min(accumulate, self.batches() - first)

    def _line(self, rate: float, speed: float) -> dict[str, Any]:
        """Average what was not yet logged."""
        check_finite(self._waiting, self.position.step)
        total, identity, triplet, accuracy = torch.stack(self._waiting).mean(dim=0).tolist()
        self._waiting = []
        return {
            "step": self.position.step,
            "epoch": self.position.epoch,
            "loss": total,
            "identity": identity,
            "triplet": triplet,
            "accuracy": accuracy,
            "lr": rate,
            "images_per_second": round(speed, 2),
        }

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs (random numbers need nothing, see `training`).

        Raises:
            TrainingError: The loss is not finite.
        """
        check_finite(self._waiting, self.position.step)
        return {
            "step": self.position.step,
            "epoch": self.position.epoch,
            "batch": self.position.batch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "waiting": self._waiting,
            "crops": self._crops,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state.

        Raises:
            UsageError: It is of other crops or other people on them.
        """
        if state.get("crops", self._crops) != self._crops:
            raise UsageError(
                "The training images or the people on them are not those the run began with; put "
                "them back as they were, or start a new run."
            )
        self.position = Position(state["step"], state["epoch"], state["batch"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._waiting = [values.to(self.process.device) for values in state["waiting"]]
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
