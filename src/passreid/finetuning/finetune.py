"""Supervised fine-tuning: identity loss after the neck, batch-hard triplet loss before it.

As released in `PASS_transreid/processor`, after TransReID (He et al., ICCV 2021).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from passreid.card import PRESETS, ModelCard
from passreid.checkpoint import initialise, load_checkpoint
from passreid.checkpoint.stem import initialise_stem
from passreid.data import relabel
from passreid.data.check import find_unreadable
from passreid.data.filelist import FileList
from passreid.errors import DatasetError, UsageError
from passreid.finetuning.losses import batch_hard_triplet, margin_logits
from passreid.finetuning.optim import grouped_optimizer, set_learning_rates
from passreid.finetuning.recipe import FinetuneConfig
from passreid.finetuning.sets import TrainingSets, read_sets
from passreid.hub import resolve
from passreid.model import PartViT
from passreid.training.augment import CropDataset, build_augmentation, mix_styles
from passreid.training.batches import Batches
from passreid.training.callbacks import Callback
from passreid.training.folder import UNREADABLE, RunFolder
from passreid.training.process import GatherTokens, Process, gather, main_first, seed_all
from passreid.training.run import Job, run, warn_of_late_peak
from passreid.training.sampler import PKSampler
from passreid.training.scoring import can_score
from passreid.training.stage import Stage, prepare_model

log = logging.getLogger("passreid")


def finetune(
    config: FinetuneConfig,
    *,
    resume: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Path | None:
    """Fine-tune on a labelled set, or on the union of several.

    Under torchrun, every process calls this with the same configuration.

    Args:
        config: The recipe, the data and the run folder.
        resume: Resume the run in `config.output`; start one if there is none.
        progress: Show a bar if stderr is a terminal.
        callbacks: Followers of the run, see `passreid.training.callbacks`.

    Returns:
        The model folder, or None when the run was stopped and can be resumed.

    Raises:
        DatasetError: No training images, too few people, overlapping sets or unreadable images.
        UsageError: The run folder holds another run, or one with other training images.
        ConfigError: The recipe describes no valid network.
        TrainingError: The loss is not finite, or no checkpoint can be read.
    """
    return run(config, _build, resume=resume, progress=progress, callbacks=callbacks)


class Objective(nn.Module):
    """The network with its losses, wrapped in DDP as one module."""

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
        logits, shifted = self._logits(after, labels)
        identity = F.cross_entropy(shifted, labels, label_smoothing=config.label_smoothing)
        triplet = batch_hard_triplet(before, labels, margin=config.triplet_margin).loss
        total = config.identity_weight * identity + config.triplet_weight * triplet
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        return torch.stack([total, identity, triplet, accuracy])

    def _logits(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, people) without and with the margin."""
        classifier, config = self.model.classifier, self.config
        assert classifier is not None
        if config.identity_loss == "softmax":
            logits: Tensor = classifier(features)
            return logits, logits
        cosines = F.normalize(features, dim=1) @ F.normalize(classifier.weight, dim=1).T
        return cosines, margin_logits(
            cosines,
            labels,
            kind=config.identity_loss,
            scale=config.identity_scale,
            margin=config.identity_margin,
        )


class Finetuning(Stage):
    """Model, optimiser, average and data of one run.

    Args:
        model: A network with a classifier.
        config: The recipe.
        process: This process.
        crops: The training set.
    """

    measures = ("loss", "identity", "triplet", "accuracy")
    config: FinetuneConfig

    def __init__(
        self, model: PartViT, config: FinetuneConfig, *, process: Process, crops: CropDataset
    ) -> None:
        super().__init__(config, process, accumulate=config.accumulate)
        self.crops_per_batch = config.people * config.images_per_person
        self._fingerprint = crops.fingerprint()
        self.model = prepare_model(model, config, process)
        if config.mixstyle:
            mix_styles(self.model, config.mixstyle)
        self.optimizer = grouped_optimizer(self.model, config)
        self.ema: AveragedModel | None = None
        if config.ema:
            average = get_ema_multi_avg_fn(config.ema)
            self.ema = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.saved |= {"model": self.model, "optimizer": self.optimizer, "ema": self.ema}
        # The neck sees the gathered tokens, but the batch norms of a stem do not.
        stem = self.model.vit.patch_embed
        self.objective = self.prepare(Objective(self.model, config), shared=[stem])
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
        """The averaged weights if there are any, else the weights."""
        return self.model if self.ema is None else cast(PartViT, self.ema.module)

    def batches(self) -> int:
        """Return the length of the current epoch."""
        return len(self.sampler.plan)

    def start_epoch(self) -> Iterable[list[Tensor]]:
        """Return the batches left in the current epoch."""
        self.sampler.set_epoch(self.position.epoch, skip=self.position.batch)
        return self.loader

    def step(self, parts: Sequence[list[Tensor]]) -> Mapping[str, float]:
        """Apply the gradients of some batches; the last step of an epoch may have fewer."""
        config, place, device = self.config, self.position, self.process.device
        progress = place.epoch + (place.batch + len(parts) - 1) / self.batches()
        rate = set_learning_rates(self.optimizer, config, progress)
        for part in parts:
            seed_all(config.seed, place.step, self.process.rank)
            images, labels = (x.to(device, non_blocking=True) for x in part)
            values: Tensor = self.objective(images, labels, self.dtype)
            self.backward(values[0] / len(parts))
            self.waiting.append(values.detach())
            place.step, place.batch = place.step + 1, place.batch + 1
        if config.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_grad)
        self.update_weights()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return {"lr": rate}

    def state(self) -> dict[str, Any]:
        """Return the state, with a fingerprint of the crops and labels."""
        return super().state() | {"crops": self._fingerprint}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a saved state.

        Raises:
            UsageError: It belongs to other crops, or to other people on them.
        """
        if state.get("crops", self._fingerprint) != self._fingerprint:
            raise UsageError(
                "The training images or the people on them are not those the run began with; "
                "restore them, or start a new run."
            )
        super().restore(state)


def _build(config: FinetuneConfig, process: Process, folder: RunFolder | None) -> Job:
    sets = read_sets(config.roots, config.kind)
    unreadable = main_first(process, lambda: _unreadable(sets, config, folder))
    sets = sets.without({Path(path) for path in unreadable})
    if process.is_main:
        for line in sets.describe():
            log.info("%s", line)
    warn_of_late_peak(config, process)
    labels, people = relabel(sets.samples)
    model, card = _starting_point(config, len(people), sets)
    crops = CropDataset(
        FileList.of([sample.path for sample in sets.samples]),
        labels.tolist(),
        set_of=sets.set_of,
        transform=build_augmentation(config, model.architecture.image_size),
        seed=config.seed,
    )
    scored = [dataset for dataset in sets.datasets if can_score(dataset)]
    if process.is_main and not scored:
        log.info("No set has a query that counts, so nothing is evaluated during training.")
    listing = "".join(f"{path}\t{reason}\n" for path, reason in unreadable.items())
    return Job(
        stage=Finetuning(model, config, process=process, crops=crops),
        card=card,
        scored_on=scored,
        score_every=config.evaluate_every,
        keep_best=True,
        on_error=config.on_error,
        files={UNREADABLE: listing.encode()} if listing else {},
    )


def _unreadable(
    sets: TrainingSets, config: FinetuneConfig, folder: RunFolder | None
) -> dict[str, str]:
    """Decode every image once before the first step; a resumed run has done so already.

    Raises:
        DatasetError: Some are unreadable, and the recipe does not say to skip them.
    """
    if folder is not None:
        listed = folder.path / UNREADABLE
        lines = listed.read_text().splitlines() if listed.exists() else []
        return {path: reason for path, _, reason in (line.partition("\t") for line in lines)}
    images = sets.images
    found = {str(path): reason for path, reason in find_unreadable(images).items()}
    if found:
        listing = "; ".join(f"{path}: {reason}" for path, reason in list(found.items())[:5])
        if config.on_error == "raise":
            raise DatasetError(
                f"{len(found)} of {len(images)} images cannot be read ({listing}). "
                "Repair them, or leave them out with --on-error skip."
            )
        log.warning("Left out %d images that cannot be read: %s", len(found), listing)
    return found


def _starting_point(
    config: FinetuneConfig, people: int, sets: TrainingSets
) -> tuple[PartViT, ModelCard]:
    """Build the network from published weights or, without any, from a preset."""
    start, before = None, tuple[str, ...]()
    base, origin = PRESETS[config.preset], "random weights"
    if config.init is not None:
        start = load_checkpoint(resolve(config.init))
        base, origin, before = start.card.architecture, config.init, start.card.trained_on
    # Whatever side the start embeds with, the triplet loss trains the one before the neck.
    architecture = base.adjusted(
        parts=config.parts, image_size=config.image_size, num_classes=people, feature="before"
    )
    model = PartViT(architecture, drop_path=config.drop_path, patch_drop=config.patch_drop)
    if start is not None:
        log.info("%s", initialise(model, start))
    if config.stem_init is not None:
        initialise_stem(model, config.stem_init)
        origin += f" with the stem of {config.stem_init.name} (ImageNet)"
    card = ModelCard(
        name=config.output.resolve().name,
        architecture=architecture,
        mean=config.mean,
        std=config.std,
        training_data=f"{', '.join(sets.names)} ({people} people), starting from {origin}",
        trained_on=tuple(dict.fromkeys((*before, *sets.names))),
    )
    return model, card
