"""Adaptation without labels: embed, cluster, train against the cluster centres, repeat.

Cluster contrast (Dai et al., 2021) as released in `PASS_cluster_contrast_reid`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from passreid.adapting.cluster import ClusterMemory, cluster, load_dbscan
from passreid.adapting.recipe import AdaptConfig
from passreid.backends.pytorch import TorchBackend
from passreid.card import ModelCard
from passreid.checkpoint import initialise, load_checkpoint
from passreid.data.filelist import FileList
from passreid.embed import read_crop
from passreid.errors import DatasetError, ImageError, TrainingError
from passreid.hub import resolve
from passreid.images import normalise
from passreid.model import PartViT
from passreid.training.augment import CropDataset, build_augmentation
from passreid.training.batches import Batches
from passreid.training.callbacks import Callback
from passreid.training.folder import IMAGES, RunFolder
from passreid.training.process import GatherTokens, Process, gather, seed_all
from passreid.training.run import Job, list_images, run
from passreid.training.sampler import PKSampler
from passreid.training.scoring import embedding_copy, read_watched
from passreid.training.stage import Stage, build_optimizer, prepare_model

log = logging.getLogger("passreid")

Embed = Callable[[PartViT], NDArray[np.float32]]
"""A network -> embeddings (N, D) of all crops; the row of an unreadable crop is NaN."""
_EMBED_BATCH = 64


def adapt(
    config: AdaptConfig,
    *,
    resume: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Path | None:
    """Adapt a model to unlabelled crops by cluster contrast.

    Under torchrun, every process calls this with the same configuration. The arguments and the
    result are those of `finetune`.

    Raises:
        UsageError: No crops, or the run folder holds another run.
        ConfigError: The recipe describes no valid network.
        DatasetError: Too few crops, or none that can be read.
        CheckpointError, ModelNotFoundError: The starting weights cannot be used.
        TrainingError: No clusters, a loss that is not finite, or no checkpoint that can be read.
        MissingExtraError: scikit-learn is not installed.
    """
    load_dbscan()
    return run(config, _build, resume=resume, progress=progress, callbacks=callbacks)


class Gathered(nn.Module):
    """The network as DDP wraps it: it embeds the crops of all processes."""

    def __init__(self, model: PartViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, dtype: torch.dtype | None) -> Tensor:
        """Embed this process's crops (b, 3, H, W); return the embeddings of all (B, D)."""
        with torch.autocast(images.device.type, dtype or torch.float32, enabled=dtype is not None):
            tokens = self.model.tokens(images)
        tokens = tokens.float()
        if dist.is_initialized():
            tokens = GatherTokens.apply(tokens)
        return self.model.embedding(tokens)


class Adaptation(Stage):
    """Model, optimiser and clusters of one run.

    Args:
        model: The network.
        config: The recipe.
        process: This process.
        crops: The crops; each epoch sets their labels.
        embed: Embeds all of them without augmentation.
    """

    measures = ("loss",)
    config: AdaptConfig

    def __init__(
        self,
        model: PartViT,
        config: AdaptConfig,
        *,
        process: Process,
        crops: CropDataset,
        embed: Embed,
    ) -> None:
        super().__init__(config, process)
        self.crops, self._embed = crops, embed
        self._labels = torch.empty(0, dtype=torch.int64)
        self._memory: ClusterMemory | None = None
        self.sampler: PKSampler | None = None
        self.model = prepare_model(model, config, process)
        moved = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        group = {"params": moved, "weight_decay": config.weight_decay}
        self.optimizer = build_optimizer([group], config)
        self.saved |= {"model": self.model, "optimizer": self.optimizer}
        # The neck sees the gathered tokens, but the batch norms of a stem do not.
        self.network = self.prepare(Gathered(self.model), shared=[self.model.vit.patch_embed])

    @property
    def exported(self) -> PartViT:
        """The weights to score and export."""
        return self.model

    def batches(self) -> int:
        """Return the length of the current epoch."""
        return len(self.sampler.plan) if self.sampler else self.config.iterations

    def start_epoch(self) -> Iterable[list[Tensor]]:
        """Cluster at the start of an epoch; return batches of the clusters.

        Raises:
            DatasetError: No crop can be read.
            TrainingError: Fewer than two clusters are found.
        """
        config, process = self.config, self.process
        if self.position.batch == 0:
            self._cluster()
        assert self._memory is not None
        self.crops.labels = self._labels.tolist()
        share = max(min(config.people, len(self._memory.centres)) // process.world, 1)
        self.sampler = PKSampler(
            self.crops.labels,
            people=share * process.world,
            images_per_person=config.images_per_person,
            batches=config.iterations or None,
            seed=config.seed,
            rank=process.rank,
            world=process.world,
        )
        self.crops_per_batch = share * process.world * config.images_per_person
        self.sampler.set_epoch(self.position.epoch, skip=self.position.batch)
        return Batches(self.crops, self.sampler, workers=config.workers, device=process.device)

    def _cluster(self) -> None:
        """Cluster all crops by the network's current embeddings, and start new centres."""
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
        clusters, epoch = int(self._labels.max()) + 1, self.position.epoch + 1
        outside = int((self._labels < 0).sum())
        if self.process.is_main:
            log.info(
                "Epoch %d: %d clusters, %d of %d crops in none.",
                *(epoch, clusters, outside, len(features)),
            )
        if clusters < 2:
            raise TrainingError(
                f"{clusters} clusters were found among {len(features)} crops; a run needs two. "
                "Change eps, lower min_samples, or start from weights that tell these people apart."
            )
        rows = torch.from_numpy(np.nan_to_num(features)).to(self.process.device)
        self._set_centres(ClusterMemory.average(rows, self._labels))

    def _set_centres(self, centres: Tensor) -> None:
        self._memory = ClusterMemory(
            centres, momentum=self.config.memory_momentum, temperature=self.config.temperature
        )

    def step(self, parts: Sequence[list[Tensor]]) -> Mapping[str, float]:
        """Train on one batch and move the centres of its clusters."""
        config, place, memory = self.config, self.position, self._memory
        assert memory is not None
        rate = config.lr * config.step_factor ** (place.epoch // config.step_epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        seed_all(config.seed, place.step, self.process.rank)
        images, labels = (x.to(self.process.device, non_blocking=True) for x in parts[0])
        features: Tensor = self.network(images, self.dtype)
        if self.process.world > 1:
            labels = gather(labels)
        loss = memory.loss(features, labels)
        self.backward(loss)
        self.update_weights()
        memory.update(features.detach(), labels)
        self.waiting.append(loss.detach()[None])
        place.step, place.batch = place.step + 1, place.batch + 1
        return {
            "clusters": len(memory.centres),
            "unclustered": int((self._labels < 0).sum()),
            "lr": rate,
        }

    def state(self) -> dict[str, Any]:
        """Return the state, with the clusters of the current epoch."""
        centres = None if self._memory is None else self._memory.centres
        return super().state() | {"labels": self._labels, "centres": centres}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a saved state."""
        super().restore(state)
        self._labels = state["labels"].to(self.process.device)
        if state["centres"] is not None:
            self._set_centres(state["centres"].to(self.process.device))


def _build(config: AdaptConfig, process: Process, folder: RunFolder | None) -> Job:
    model, card = _starting_point(config)
    watched = read_watched(config.watch)
    files = list_images(config, process, folder)
    least = 2 * config.min_samples
    if len(files) < least:
        raise DatasetError(
            f"{len(files)} crops are too few: two clusters of min_samples ({config.min_samples}) "
            f"need {least}."
        )
    if process.is_main:
        log.info("Adapting to %d crops.", len(files))
    described = replace(
        card, training_data=f"{len(files)} unlabelled crops, starting from {config.init}"
    )
    augmentation = build_augmentation(config, model.architecture.image_size)
    crops = CropDataset(files, [-1] * len(files), transform=augmentation, seed=config.seed)

    def embed(network: PartViT) -> NDArray[np.float32]:
        plain = embedding_copy(network)
        return embed_all(
            *(plain, card, files),
            process=process,
            precision=config.precision,
            workers=config.workers,
        )

    return Job(
        stage=Adaptation(model, config, process=process, crops=crops, embed=embed),
        card=described,
        scored_on=watched,
        score_every=config.watch_every,
        files={IMAGES: files.text},
    )


def _starting_point(config: AdaptConfig) -> tuple[PartViT, ModelCard]:
    """Build the network and start its backbone; the neck is new, as in the released code."""
    start = load_checkpoint(resolve(config.init))
    architecture = start.card.architecture.adjusted(
        parts=config.parts,
        image_size=config.image_size,
        neck=config.neck,
        fusion=config.fusion,
        feature="normalized",
        num_classes=0,
    )
    model = PartViT(architecture, drop_path=config.drop_path, patch_drop=config.patch_drop)
    log.info("%s", initialise(model, start))
    card = ModelCard(
        name=config.output.resolve().name,
        architecture=architecture,
        mean=config.mean,
        std=config.std,
        interpolation="bicubic",
    )
    return model, card


class _PlainCrops(Dataset[tuple[Tensor, bool]]):
    """A process's share of the crops without augmentation, and whether each could be read."""

    def __init__(self, files: FileList, card: ModelCard, rows: range) -> None:
        self.files, self.card, self.rows = files, card, rows

    def __getitem__(self, index: int) -> tuple[Tensor, bool]:
        try:
            picture = self.files.read(self.rows[index])
            return torch.from_numpy(read_crop(picture, self.card)), True
        except ImageError:
            height, width = self.card.architecture.image_size
            return torch.zeros(height, width, 3, dtype=torch.uint8), False


def embed_all(
    model: PartViT,
    card: ModelCard,
    files: FileList,
    *,
    process: Process,
    precision: str = "float32",
    workers: int = 0,
) -> NDArray[np.float32]:
    """Embed every crop of a list, each process its share; an unreadable crop's row is NaN."""
    backend = TorchBackend(model, device=str(process.device), precision=precision)
    rows = range(process.rank, len(files), process.world)
    chunks = [range(len(rows))[i : i + _EMBED_BATCH] for i in range(0, len(rows), _EMBED_BATCH)]
    loader: Batches[list[Tensor]] = Batches(
        _PlainCrops(files, card, rows), chunks, workers=workers, device=process.device
    )
    found = []
    for pixels, readable in loader:
        part = backend.run(normalise(pixels.numpy(), card.mean, card.std))
        part[~readable.numpy()] = np.nan
        found.append(part)
    whole = np.empty((len(files), card.architecture.dim), np.float32)
    shares = [found] * process.world
    if process.world > 1:
        dist.all_gather_object(shares, found)
    for rank, share in enumerate(shares):
        whole[rank :: process.world] = np.concatenate(share)
    return whole
