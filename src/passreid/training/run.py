"""The driver of every training run: folder, data, network, loop and end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from passreid.card import ModelCard
from passreid.checkpoint import save_folder
from passreid.config import plain
from passreid.data import ReIDDataset
from passreid.data.filelist import FileList
from passreid.errors import UsageError
from passreid.training.callbacks import Callback, TensorBoard
from passreid.training.folder import IMAGES, RunFolder
from passreid.training.loop import Loop, log
from passreid.training.process import Process, distributed, main_first, seed_all, tuned_for_cpu
from passreid.training.scoring import Scorer, embedding_copy
from passreid.training.stage import Stage

LATE_PEAK = (
    "The learning rate rises to the very end (epochs %d, warmup_epochs %d): lower --warmup-epochs."
)
C = TypeVar("C")


@dataclass(kw_only=True)
class Job:
    """What a stage hands to the driver.

    Attributes:
        stage: The stage at its start.
        card: Card of the model to export; its architecture and scores are filled in.
        scored_on: Labelled sets to score on.
        score_every: Epochs between scores; 0 only at the end.
        keep_best: Keep the best weights in `best/`.
        save_steps: Steps between checkpoints; 0 is never.
        on_error: What scoring does with unreadable crops.
        files: Further files of a new run folder.
    """

    stage: Stage
    card: ModelCard
    scored_on: Sequence[ReIDDataset] = ()
    score_every: int = 0
    keep_best: bool = False
    save_steps: int = 0
    on_error: Literal["raise", "skip"] = "skip"
    files: Mapping[str, bytes] = field(default_factory=dict)


def run(
    config: Any,
    build: Callable[[Any, Process, RunFolder | None], Job],
    *,
    resume: bool,
    progress: bool,
    callbacks: Sequence[Callback],
) -> Path | None:
    """Run a stage in its run folder; return the model folder, or None when it was stopped.

    Args:
        config: The stage's recipe, with `data` and `output`.
        build: Builds the stage for a configuration, a process and the run folder to resume, if
            any. Whatever can fail should fail here: nothing has been written yet.
        resume: Resume the run in `config.output`, if there is one.
        progress: Show a bar if stderr is a terminal.
        callbacks: Followers of the run; called in the main process.
    """
    if config.tensorboard:
        callbacks = [*callbacks, TensorBoard()]
    with distributed(config.device) as process, tuned_for_cpu(process.device):
        folder = RunFolder(config.output)
        resuming = main_first(process, lambda: folder.holds_run(config, resume=resume))
        seed_all(config.seed)
        job = build(config, process, folder if resuming else None)
        stage = job.stage
        state = folder.newest_of_all(process) if resuming else None
        if state is not None:
            if state["epoch"] > config.epochs:
                raise UsageError(
                    f"{folder.path} has done {state['epoch']} epochs; --epochs must be at least as "
                    f"many, not {config.epochs}."
                )
            stage.restore(state)
        main_first(process, lambda: folder.open(config, {} if resuming else job.files, process))
        if resuming:
            main_first(process, lambda: folder.drop_lines_after(stage.position.step))
        loop = _loop(job, config, folder, process)
        loop.progress = progress
        loop.callbacks = callbacks if process.is_main else ()
        for callback in loop.callbacks:
            callback.on_start(folder.path, plain(config), stage.position.step)
        finished = loop.run()
        if process.is_main:
            folder.write_session()
        for callback in loop.callbacks:
            callback.on_end(finished)
    return folder.model if finished else None


def _loop(job: Job, config: Any, folder: RunFolder, process: Process) -> Loop:
    scorer = None
    if job.scored_on:
        scorer = Scorer(job.card, job.scored_on, precision=config.precision, on_error=job.on_error)

    def export(path: Path, found: Mapping[str, float]) -> None:
        model = embedding_copy(job.stage.exported)
        scores = scorer.card_scores(found) if scorer else {}
        save_folder(model, replace(job.card, architecture=model.architecture, scores=scores), path)

    return Loop(
        stage=job.stage,
        folder=folder,
        process=process,
        save_every=config.save_every,
        save_steps=job.save_steps,
        score=scorer,
        score_every=job.score_every,
        export=export,
        keep_best=job.keep_best,
        keep_every=config.keep_every,
    )


def list_images(config: Any, process: Process, folder: RunFolder | None) -> FileList:
    """List the images of a run: anew, or as a resumed run listed them at its first start."""

    def find() -> bytes:
        if folder is not None:
            return (folder.path / IMAGES).read_bytes()
        return FileList.find(config.data).text

    return FileList.again(config.data, main_first(process, find))


def warn_of_late_peak(config: Any, process: Process) -> None:
    """Log that the learning rate never comes down again, if so."""
    if process.is_main and config.warmup_epochs >= config.epochs:
        log.info(LATE_PEAK, config.epochs, config.warmup_epochs)
