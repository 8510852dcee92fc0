"""From a recipe to a model folder: files, starting weights, the loop, the end."""

from __future__ import annotations

from pathlib import Path

from passreid.card import ModelCard
from passreid.checkpoint import initialise, save_folder
from passreid.hub import resolve
from passreid.model import PartViT
from passreid.pretraining.config import PretrainConfig
from passreid.pretraining.crops import MultiCrop
from passreid.pretraining.data import EpochSampler, ViewDataset
from passreid.pretraining.network import ViewNetwork
from passreid.pretraining.train import Pretraining
from passreid.training.loop import LATE_PEAK, fit, log
from passreid.training.process import distributed, seed_all, tuned_for_cpu
from passreid.training.runfolder import RunFolder, begin_listed
from passreid.training.scoring import read_watched, scorer


def pretrain(config: PretrainConfig, *, resume: bool = False, progress: bool = True) -> Path | None:
    """Pre-train on images without labels.

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
        watched = read_watched(config.watch)
        # All that may fail has been tried: what follows makes a run folder.
        files, state = begin_listed(
            folder,
            config,
            process,
            resume=resume,
            check=lambda count: EpochSampler.of(config, count, process),
        )
        if process.is_main:
            log.info("Pre-training on %d images.", len(files))
            if config.warmup_epochs >= config.epochs:
                log.info(LATE_PEAK, config.epochs, config.warmup_epochs)
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
        )
        if state is not None:
            stage.restore(state)
        finished = fit(
            stage,
            folder,
            process,
            save_every=config.save_every,
            save_steps=config.save_steps,
            score=scorer(card, watched, precision=config.precision),
            score_every=config.watch_every,
            progress=progress,
        )
        if finished and process.is_main:
            save_folder(stage.exported, card, folder.model)
    return folder.model if finished else None


def _initialised(student: ViewNetwork, config: PretrainConfig) -> str:
    """Start the backbone from published weights, if the recipe names any; say from what."""
    if config.init is None:
        return "random weights"
    model = PartViT(config.architecture)
    log.info("%s", initialise(model, resolve(config.init)))
    student.vit.load_state_dict(model.vit.state_dict())
    return config.init
