"""From a recipe to a model folder: files, starting weights, the loop, the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from passreid import storage
from passreid.backends.pytorch import TorchBackend
from passreid.card import ModelCard
from passreid.checkpoint import initialise, save_folder
from passreid.data import ReIDDataset, read_dataset
from passreid.data.filelist import FileList
from passreid.embed import Embedder
from passreid.evaluation import evaluate
from passreid.hub import resolve
from passreid.model import PartViT
from passreid.pretraining.config import PretrainConfig
from passreid.pretraining.crops import MultiCrop
from passreid.pretraining.data import EpochSampler, ViewDataset
from passreid.pretraining.network import ViewNetwork
from passreid.pretraining.train import Pretraining
from passreid.training.loop import fit, log
from passreid.training.process import Process, distributed, seed_all, tuned_for_cpu
from passreid.training.runfolder import RunFolder

FILES = "images.txt"
"""The run's own list of files: what is added to the data later changes nothing."""


def pretrain(config: PretrainConfig, *, resume: bool = False, progress: bool = True) -> Path | None:
    """Pre-train on images without labels (spec 2).

    Started under torchrun, every process calls this with the same configuration.

    Args:
        config: The recipe, the data and the run folder.
        resume: Go on with the run in `config.output`; starts one where there is none.
        progress: Show a bar on stderr when it is a terminal.

    Returns:
        The model folder with the teacher's backbone, or None when the run was asked to stop and
        waits to be resumed.

    Raises:
        UsageError: No images, or the run folder holds another run.
        DatasetError: Fewer images than a batch, or too many that cannot be read.
        TrainingError: The loss is not finite, or no checkpoint can be read.
    """
    with distributed(config.device) as process, tuned_for_cpu(process.device):
        folder = RunFolder(config.output)
        seed_all(config.seed)
        student = ViewNetwork(config, drop_path=config.drop_path)
        origin = _initialised(student, config)
        watched = None if config.watch is None else read_dataset(config.watch)
        # All that may fail has been tried: what follows makes a run folder.
        files, state = _begin(folder, config, process, resume=resume)
        card = ModelCard(
            name=config.output.resolve().name,
            architecture=config.architecture,
            mean=config.mean,
            std=config.std,
            training_data=f"{len(files)} unlabelled images, starting from {origin}",
        )
        stage = Pretraining(
            student,
            config,
            process=process,
            images=ViewDataset(files, MultiCrop.of(config), seed=config.seed),
            evaluate=None if watched is None else _scorer(card, watched, config, process),
        )
        if state is not None:
            stage.restore(state)
        finished = fit(
            stage,
            folder,
            process,
            save_every=config.save_every,
            save_steps=config.save_steps,
            progress=progress,
        )
        if finished and process.is_main:
            save_folder(stage.backbone(), card, folder.model)
    return folder.model if finished else None


def _begin(
    folder: RunFolder, config: PretrainConfig, process: Process, *, resume: bool
) -> tuple[FileList, dict[str, Any] | None]:
    """Open the run folder and list the images in the main process; the others read what it did."""
    listed, state = folder.path / FILES, None
    if process.is_main:
        found = None if listed.exists() else FileList.find(config.data)
        if found is not None:
            EpochSampler.of(config, len(found), process)
        state = folder.begin(config, resume=resume)
        if found is not None:
            storage.write(listed, found.text)
    if process.world > 1:
        dist.barrier()
        state = state if process.is_main else folder.newest()
    files = FileList.again(config.data, listed.read_bytes())
    if process.is_main:
        log.info("Pre-training on %d images.", len(files))
    return files, state


def _initialised(student: ViewNetwork, config: PretrainConfig) -> str:
    """Start the backbone from published weights, if the recipe names any; say from what."""
    if config.init is None:
        return "random weights"
    model = PartViT(config.architecture)
    log.info("%s", initialise(model, resolve(config.init)))
    student.vit.load_state_dict(model.vit.state_dict())
    return config.init


def _scorer(
    card: ModelCard, dataset: ReIDDataset, config: PretrainConfig, process: Process
) -> Callable[[PartViT], dict[str, float]]:
    """Return what finds the people of a labelled set with a backbone."""

    def score(model: PartViT) -> dict[str, float]:
        backend = TorchBackend(model, device=str(process.device), precision=config.precision)
        report = evaluate(Embedder(backend, card), dataset, on_error="skip")
        log.info("mAP %.4f  Rank-1 %.4f", report.mAP, report.rank1)
        return {"mAP": report.mAP, "mINP": report.mINP, "rank1": report.rank1}

    return score
