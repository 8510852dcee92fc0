"""From crops without labels to a model folder: files, starting weights, the loop, the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from passreid.adapting.cluster import load_dbscan
from passreid.adapting.config import AdaptConfig
from passreid.adapting.features import embed_all
from passreid.adapting.train import Adaptation
from passreid.card import ModelCard
from passreid.checkpoint import initialise, load_checkpoint, save_folder
from passreid.errors import DatasetError
from passreid.hub import resolve
from passreid.model import PartViT
from passreid.training.augment import CropDataset, build_augmentation
from passreid.training.loop import fit, log
from passreid.training.process import distributed, seed_all, tuned_for_cpu
from passreid.training.runfolder import RunFolder, begin_listed
from passreid.training.scoring import embedding_copy, read_watched, scorer


def adapt(config: AdaptConfig, *, resume: bool = False, progress: bool = True) -> Path | None:
    """Adapt a model to crops without labels by cluster contrast.

    Started under torchrun, every process calls this with the same configuration.

    Args:
        config: The recipe, the data and the run folder.
        resume: Go on with the run in `config.output`; starts one where there is none.
        progress: Show a bar on stderr when it is a terminal.

    Returns:
        The model folder, or None when the run was asked to stop and waits to be resumed.

    Raises:
        UsageError: No crops, or the run folder holds another run.
        ConfigError: No network can be built as the recipe says.
        DatasetError: Too few crops, or none that can be read.
        CheckpointError, ModelNotFoundError: The starting weights cannot be used.
        TrainingError: No clusters, a loss that is not finite, or no checkpoint that can be read.
        MissingExtraError: scikit-learn is not installed.
    """
    load_dbscan()
    with distributed(config.device) as process, tuned_for_cpu(process.device):
        folder = RunFolder(config.output)
        seed_all(config.seed)
        model, card = _starting_point(config)
        watched = read_watched(config.watch)
        files, state = begin_listed(
            folder,
            config,
            process,
            resume=resume,
            check=lambda count: _check_count(count, config.min_samples),
        )
        if process.is_main:
            log.info("Adapting to %d crops.", len(files))
        origin = f"{len(files)} unlabelled crops, starting from {config.init}"
        stage = Adaptation(
            model,
            config,
            process=process,
            crops=CropDataset(
                files,
                [-1] * len(files),
                transform=build_augmentation(config, model.architecture.image_size),
                seed=config.seed,
            ),
            embed=lambda network: embed_all(
                embedding_copy(network),
                card,
                files,
                process=process,
                precision=config.precision,
                workers=config.workers,
            ),
        )
        if state is not None:
            stage.restore(state)
        finished = fit(
            stage,
            folder,
            process,
            save_every=config.save_every,
            score=scorer(card, watched, precision=config.precision),
            score_every=config.watch_every,
            progress=progress,
        )
        if finished and process.is_main:
            described = replace(card, training_data=origin)
            save_folder(embedding_copy(stage.exported), described, folder.model)
    return folder.model if finished else None


def _check_count(count: int, min_samples: int) -> None:
    least = 2 * min_samples
    if count < least:
        raise DatasetError(
            f"{count} crops are too few: two clusters of min_samples ({min_samples}) need {least}."
        )


def _starting_point(config: AdaptConfig) -> tuple[PartViT, ModelCard]:
    """Build the network and start its backbone; the neck is new, as the released code has it."""
    start = resolve(config.init)
    base = load_checkpoint(start).card.architecture
    architecture = base.adjusted(
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
