"""From a recipe to a model folder: data, starting weights, the loop, the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from passreid.card import PRESETS, ModelCard
from passreid.checkpoint import initialise, load_checkpoint, save_folder
from passreid.checkpoint.stem import initialise_stem
from passreid.data import ReIDDataset, relabel
from passreid.data.check import find_unreadable
from passreid.data.filelist import FileList
from passreid.errors import DatasetError
from passreid.finetuning.config import FinetuneConfig
from passreid.finetuning.sets import TrainingSets, read_sets
from passreid.finetuning.train import Finetuning
from passreid.hub import resolve
from passreid.model import PartViT
from passreid.training.augment import CropDataset, build_augmentation
from passreid.training.loop import LATE_PEAK, Score, fit, log
from passreid.training.process import Process, distributed, seed_all, tuned_for_cpu
from passreid.training.runfolder import RunFolder, begin
from passreid.training.scoring import embedding_copy, scorer


def finetune(config: FinetuneConfig, *, resume: bool = False, progress: bool = True) -> Path | None:
    """Fine-tune on a labelled set, or on the union of several.

    Started under torchrun, every process calls this with the same configuration.

    Args:
        config: The recipe, the data and the run folder.
        resume: Go on with the run in `config.output`; starts one where there is none.
        progress: Show a bar on stderr when it is a terminal.

    Returns:
        The model folder, or None when the run was asked to stop and waits to be resumed.

    Raises:
        DatasetError: No training images, too few people, two sets that overlap, or images that
            cannot be read.
        UsageError: The run folder holds another run, or one of other training images.
        ConfigError: No network can be built as the recipe says.
        TrainingError: The loss is not finite, or no checkpoint can be read.
    """
    with distributed(config.device) as process, tuned_for_cpu(process.device):
        folder = RunFolder(config.output)
        sets = _readable(read_sets(config.roots, config.kind), config, process)
        labels, people = relabel(sets.samples)
        seed_all(config.seed)
        model, card = _starting_point(config, len(people), sets)
        crops = CropDataset(
            FileList.of([sample.path for sample in sets.samples]),
            labels.tolist(),
            set_of=sets.set_of,
            transform=build_augmentation(config, model.architecture.image_size),
            seed=config.seed,
        )
        stage = Finetuning(model, config, process=process, crops=crops)
        # All that may fail has been tried: what follows makes a run folder.
        state = begin(folder, config, process, resume=resume)
        if state is not None:
            stage.restore(state)
        finished = fit(
            stage,
            folder,
            process,
            save_every=config.save_every,
            score=_scorer(card, sets.datasets, config, folder),
            score_every=config.evaluate_every,
            progress=progress,
        )
        if finished and process.is_main:
            _save(stage.exported, card, folder.model)
    return folder.model if finished else None


def _readable(sets: TrainingSets, config: FinetuneConfig, process: Process) -> TrainingSets:
    """Decode every image once before the first step, not after hours of work.

    Raises:
        DatasetError: Some cannot be read, and the recipe does not say to skip them.
    """
    if process.is_main:
        said = (line for d in sets.datasets for line in (*d.describe(), *d.notes))
        for line in (*said, *_remarks(sets, config)):
            log.info("%s", line)
    images = sets.images
    bad = find_unreadable(images)
    if not bad:
        return sets
    listing = "; ".join(f"{path}: {reason}" for path, reason in list(bad.items())[:5])
    if config.on_error == "raise":
        raise DatasetError(
            f"{len(bad)} of {len(images)} images cannot be read ({listing}). "
            "Mend them, or leave them out with --on-error skip."
        )
    log.warning("Left out %d images that cannot be read: %s", len(bad), listing)
    return sets.without(list(bad))


def _remarks(sets: TrainingSets, config: FinetuneConfig) -> list[str]:
    """Say what teaches little: people with one crop or one camera, a rate that never arrives."""
    samples = sets.samples
    crops: dict[int, set[int]] = {}
    counts: dict[int, int] = {}
    for sample in samples:
        crops.setdefault(sample.pid, set()).add(sample.camid)
        counts[sample.pid] = counts.get(sample.pid, 0) + 1
    single = sum(count == 1 for count in counts.values())
    one_camera = sum(len(cameras) == 1 for cameras in crops.values())
    of = f" of {', '.join(sets.names)}" if len(sets.names) > 1 else ""
    remarks = [f"Training on {len(samples)} crops of {len(counts)} people{of}."]
    if single:
        remarks.append(
            f"{single} of {len(counts)} people have one crop only; it is drawn several times a "
            "batch."
        )
    if one_camera and len({sample.camid for sample in samples}) > 1:
        remarks.append(f"{one_camera} of {len(counts)} people were seen by one camera only.")
    if config.warmup_epochs >= config.epochs:
        remarks.append(LATE_PEAK % (config.epochs, config.warmup_epochs))
    return remarks


def _starting_point(
    config: FinetuneConfig, people: int, sets: TrainingSets
) -> tuple[PartViT, ModelCard]:
    """Build the network: from published weights, or anew from a preset."""
    if config.init is None:
        base = PRESETS[config.preset]
        start, origin = None, "random weights"
        before: tuple[str, ...] = ()
    else:
        start = resolve(config.init)
        known = load_checkpoint(start).card
        base, origin, before = known.architecture, config.init, known.trained_on
    # Whatever the start embeds with, from here on the triplet loss trains the side before the neck.
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


def _scorer(
    card: ModelCard,
    datasets: Sequence[ReIDDataset],
    config: FinetuneConfig,
    folder: RunFolder,
) -> Score | None:
    """Return what scores a model on the held-out people and keeps the best, or None without any."""
    plain = scorer(card, datasets, precision=config.precision, on_error=config.on_error)
    if plain is None:
        log.info("No set has a query that counts: nothing is evaluated while training.")
        return None
    best = max((line["mAP"] for line in folder.lines() if "mAP" in line), default=-1.0)

    def score(model: PartViT) -> dict[str, float]:
        nonlocal best
        found = plain(model)
        if found["mAP"] > best:
            best = found["mAP"]
            _save(model, card, folder.best)
        return found

    return score


def _save(model: PartViT, card: ModelCard, folder: Path) -> None:
    kept = embedding_copy(model)
    save_folder(kept, replace(card, architecture=kept.architecture), folder)
