"""Clusters as people: embed, cluster, train against the centres, and again.

Cluster contrast (Dai et al., 2021) as released in `PASS_cluster_contrast_reid`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from passreid.adapting.cluster import cluster
from passreid.adapting.config import AdaptConfig
from passreid.adapting.memory import ClusterMemory
from passreid.backends.pytorch import find_dtype
from passreid.errors import DatasetError, TrainingError
from passreid.model import PartViT, use_fused_attention
from passreid.training.augment import CropDataset
from passreid.training.batches import Batches
from passreid.training.loop import LOG_EVERY, Position, check_finite
from passreid.training.process import GatherTokens, Process, gather, in_parallel, seed_all
from passreid.training.sampler import PKSampler

log = logging.getLogger("passreid")

Embed = Callable[[PartViT], NDArray[np.float32]]
"""A network -> embeddings of all crops (N, D); a row of NaN is a crop that cannot be read."""


class Gathered(nn.Module):
    """The network as DDP wraps it: embeddings of the batch of all processes."""

    def __init__(self, model: PartViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, dtype: torch.dtype | None) -> Tensor:
        """Embed this process's crops (b, 3, H, W), giving those of all processes (B, D) float32."""
        with torch.autocast(images.device.type, dtype or torch.float32, enabled=dtype is not None):
            tokens = self.model.tokens(images)
        tokens = tokens.float()
        if dist.is_initialized():
            tokens = GatherTokens.apply(tokens)
        return self.model.embedding(tokens)


class Adaptation:
    """Model, optimiser, clusters and place of one run: a stage for `training.loop.fit`.

    Args:
        model: Moved to the process's device.
        config: The recipe.
        process: This process.
        crops: The crops; their labels are set at the start of every epoch.
        embed: Embeds all of them as they are, unaugmented.
    """

    def __init__(
        self,
        model: PartViT,
        config: AdaptConfig,
        *,
        process: Process,
        crops: CropDataset,
        embed: Embed,
    ) -> None:
        self.config, self.process, self.position = config, process, Position()
        self.epochs, self.crops = config.epochs, crops
        self._embed = embed
        self._waiting: list[Tensor] = []
        self._labels = torch.empty(0, dtype=torch.int64)
        self._memory: ClusterMemory | None = None
        self.sampler: PKSampler | None = None
        self.model = model.to(process.device).train()
        self.model.vit.set_grad_checkpointing(config.checkpoint_blocks)
        use_fused_attention(self.model, process.device.type != "cpu")
        self.dtype = find_dtype(config.precision, process.device)
        self.optimizer = _optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=self.dtype is torch.float16)
        # The neck sees the gathered tokens: only a stem has batch norms that do not.
        stem = self.model.vit.patch_embed
        self.network = in_parallel(Gathered(self.model), process, shared=[stem])

    @property
    def exported(self) -> PartViT:
        """The weights that are scored and kept."""
        return self.model

    def batches(self) -> int:
        """Return the length of the epoch at work, in batches."""
        return len(self.sampler.plan) if self.sampler else self.config.iterations

    def run_epoch(self) -> Iterator[dict[str, Any] | None]:
        """Cluster at the start of an epoch, then train on what is left of it.

        Yields:
            The line for the metrics log every `LOG_EVERY` steps, else None.

        Raises:
            DatasetError: None of the crops can be read.
            TrainingError: Fewer than two clusters are found, or the loss is not finite.
        """
        place, began, crops = self.position, time.perf_counter(), 0
        if place.batch == 0:
            self._cluster()
        loader = self._loader()
        rate = self._set_rate()
        for images, labels in loader:
            self._step(images, labels)
            crops += len(images) * self.process.world
            line = None
            if len(self._waiting) >= LOG_EVERY or place.batch == self.batches():
                seconds, began = time.perf_counter() - began, time.perf_counter()
                line, crops = self._line(rate, crops / seconds), 0
            yield line

    def _cluster(self) -> None:
        """Group all crops as the network sees them now, and start the centres anew."""
        config = self.config
        features = self._embed(self.model)
        readable = np.flatnonzero(np.isfinite(features).all(axis=1))
        if not len(readable):
            raise DatasetError(f"None of the {len(features)} crops can be read.")
        labels = np.full(len(features), -1, np.int64)
        if self.process.is_main:
            labels[readable] = cluster(
                features[readable],
                k1=config.k1,
                k2=config.k2,
                eps=config.eps,
                min_samples=config.min_samples,
            )
        self._labels = torch.from_numpy(labels).to(self.process.device)
        if self.process.world > 1:
            dist.broadcast(self._labels, 0)
        clusters = int(self._labels.max()) + 1
        outside = int((self._labels < 0).sum())
        if self.process.is_main:
            log.info(
                "Epoch %d: %d clusters, %d of %d crops in none.",
                self.position.epoch + 1,
                clusters,
                outside,
                len(features),
            )
        if clusters < 2:
            raise TrainingError(
                f"{clusters} clusters were found among {len(features)} crops; a run needs two. "
                "Change eps, lower min_samples, or start from weights that tell these people apart."
            )
        rows = torch.from_numpy(np.nan_to_num(features)).to(self.process.device)
        self._remember(ClusterMemory.average(rows, self._labels))

    def _remember(self, centres: Tensor) -> None:
        self._memory = ClusterMemory(
            centres, momentum=self.config.memory_momentum, temperature=self.config.temperature
        )

    def _loader(self) -> Batches[list[Tensor]]:
        """Draw batches of the clusters as they are now."""
        config, process = self.config, self.process
        assert self._memory is not None
        self.crops.labels = self._labels.tolist()
        share = min(config.people, len(self._memory.centres)) // process.world
        self.sampler = PKSampler(
            self.crops.labels,
            people=max(share, 1) * process.world,
            images_per_person=config.images_per_person,
            batches=config.iterations or None,
            seed=config.seed,
            rank=process.rank,
            world=process.world,
        )
        self.sampler.set_epoch(self.position.epoch, skip=self.position.batch)
        return Batches(self.crops, self.sampler, workers=config.workers, device=process.device)

    def _step(self, images: Tensor, labels: Tensor) -> None:
        place, device, memory = self.position, self.process.device, self._memory
        assert memory is not None
        seed_all(self.config.seed, place.step, self.process.rank)
        images, labels = (x.to(device, non_blocking=True) for x in (images, labels))
        features: Tensor = self.network(images, self.dtype)
        if self.process.world > 1:
            labels = gather(labels)
        loss = memory.loss(features, labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        memory.update(features.detach(), labels)
        self._waiting.append(loss.detach())
        place.step += 1
        place.batch += 1

    def _set_rate(self) -> float:
        """Set the learning rate of the epoch, and return it."""
        config = self.config
        rate = config.lr * config.step_factor ** (self.position.epoch // config.step_epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _line(self, rate: float, speed: float) -> dict[str, Any]:
        """Average what was not yet logged."""
        check_finite(self._waiting, self.position.step)
        loss = float(torch.stack(self._waiting).mean())
        self._waiting = []
        return {
            "step": self.position.step,
            "epoch": self.position.epoch,
            "loss": loss,
            "clusters": int(self._labels.max()) + 1,
            "unclustered": int((self._labels < 0).sum()),
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
            "labels": self._labels,
            "centres": None if self._memory is None else self._memory.centres,
            "waiting": self._waiting,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state."""
        device = self.process.device
        self.position = Position(state["step"], state["epoch"], state["batch"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self._labels = state["labels"].to(device)
        self._waiting = [value.to(device) for value in state["waiting"]]
        if state["centres"] is not None:
            self._remember(state["centres"].to(device))


def _optimizer(model: PartViT, config: AdaptConfig) -> torch.optim.Optimizer:
    moved = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            moved, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(moved, lr=config.lr, weight_decay=config.weight_decay)
