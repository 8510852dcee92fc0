"""finetune, pretrain, adapt, average: from crops to a model folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from passreid.adapting.config import AdaptConfig, AdaptRecipe
from passreid.cli.app import Output, app, check_folder, note
from passreid.errors import MissingExtraError
from passreid.finetuning.config import FinetuneConfig, FinetuneRecipe
from passreid.pretraining.config import PretrainConfig, PretrainRecipe

_Several = Annotated[list[Path], Parameter(negative=())]


@app.command
def finetune(
    data: _Several,
    /,
    *,
    output: Output,
    config: Path | None = None,
    resume: bool = False,
    recipe: Annotated[FinetuneRecipe, Parameter(name="*")] = FinetuneRecipe(),  # noqa: B008
) -> int:
    """Fine-tune a model on labelled crops.

    Several processes: torchrun --nproc-per-node 4 -m passreid finetune DATA --output RUN

    Of several sets the union is learnt from, and each is scored on its own.

    Example: passreid finetune market1501 --output runs/a --init pass_vit_small_full.pth

    Args:
        data: Labelled data sets with training people, in any layout `evaluate` knows.
        output: Run folder: config.toml, metrics.jsonl, checkpoint/, curves.png, best/ and model/.
        config: A TOML recipe; options on the command line win over it.
        resume: Go on with the run in that folder.
    """
    try:
        from passreid.finetuning.run import finetune as train
    except ModuleNotFoundError as error:
        raise MissingExtraError("Training", "torch") from error
    settings = FinetuneConfig(data=_one_or_all(data), output=output, **_values(recipe))
    return _run(lambda: train(settings, resume=resume), output)


@app.command
def pretrain(
    images: _Several,
    /,
    *,
    output: Output,
    config: Path | None = None,
    resume: bool = False,
    show_crops: bool = False,
    recipe: Annotated[PretrainRecipe, Parameter(name="*")] = PretrainRecipe(),  # noqa: B008
) -> int:
    """Pre-train a backbone on crops without labels: PASS, or DINO with --areas 0.

    Several processes: torchrun --nproc-per-node 8 -m passreid pretrain IMAGES --output RUN

    Example: passreid pretrain crops/ --output runs/p --preset tiny --batch-size 64

    Args:
        images: Folder trees of pictures or tar shards, lists of paths, or URLs of packed shards.
        output: Run folder: config.toml, metrics.jsonl, checkpoint/, curves.png and model/.
        config: A TOML recipe; options on the command line win over it.
        resume: Go on with the run in that folder.
        show_crops: Draw the views of six images as crops.png in the run folder and stop there.
    """
    try:
        from passreid.pretraining.run import pretrain as train
    except ModuleNotFoundError as error:
        raise MissingExtraError("Training", "torch") from error
    settings = PretrainConfig(data=_one_or_all(images), output=output, **_values(recipe))
    if show_crops:
        return _draw_crops(settings)
    return _run(lambda: train(settings, resume=resume), output)


@app.command
def adapt(
    images: _Several,
    /,
    *,
    output: Output,
    config: Path | None = None,
    resume: bool = False,
    recipe: Annotated[AdaptRecipe, Parameter(name="*")] = AdaptRecipe(),  # noqa: B008
) -> int:
    """Adapt a model to crops without labels: it learns from groups it finds itself.

    Several processes: torchrun --nproc-per-node 4 -m passreid adapt IMAGES --output RUN

    Example: passreid adapt crops/ --output runs/site --init passreid-tiny --iterations 0

    Args:
        images: Folder trees of pictures or tar shards, lists of paths, or URLs of packed shards.
        output: Run folder: config.toml, metrics.jsonl, checkpoint/, curves.png and model/.
        config: A TOML recipe; options on the command line win over it.
        resume: Go on with the run in that folder.
    """
    try:
        from passreid.adapting.run import adapt as train
    except ModuleNotFoundError as error:
        raise MissingExtraError("Training", "adapt") from error
    settings = AdaptConfig(data=_one_or_all(images), output=output, **_values(recipe))
    return _run(lambda: train(settings, resume=resume), output)


@app.command
def average(models: Annotated[list[str], Parameter(negative=())], /, *, output: Path) -> None:
    """Average the weights of several runs from one start: often better than each of them.

    Graphs for running without torch come along; files of other precisions must be exported again.

    Example: passreid average runs/a/model runs/b/model --output runs/both

    Args:
        models: Bundled names, model folders or hub ids, of one architecture.
        output: Model folder to write.
    """
    try:
        from passreid.checkpoint import average as mix
        from passreid.checkpoint import save_folder
    except ModuleNotFoundError as error:
        raise MissingExtraError("Averaging", "torch") from error
    from passreid.hub import resolve

    check_folder(output)
    folders = [resolve(model) for model in models]
    model, card = mix(folders)
    save_folder(model, replace(card, name=output.resolve().name), output)
    again = _bring_graphs(folders, output)
    note(f"Wrote {output}; use it with --model {output}.")
    for command in again:
        note(f"To be exported again: `{command}`.")


def _bring_graphs(models: Sequence[Path], output: Path) -> list[str]:
    """Copy the graphs, which read whatever weights lie beside them, from a model that stores its
    own alike; return the commands that write what else the models have.
    """
    from passreid import storage
    from passreid.backends import ATTENTION, GRAPH, WEIGHTS, export_command, exported
    from passreid.backends.onnx import read_header

    header = read_header(output / WEIGHTS)
    alike = [folder for folder in models if read_header(folder / WEIGHTS) == header]
    brought = set()
    for graph in (folder / name for folder in alike for name in (GRAPH, ATTENTION)):
        if graph.is_file() and graph.name not in brought:
            storage.copy(graph, output / graph.name)
            brought.add(graph.name)
    names = [file.name for folder in (*models, output) for file in exported(folder)]
    left = (export_command(output, name) for name in names if name not in brought)
    return list(dict.fromkeys(left))


def _draw_crops(settings: PretrainConfig) -> int:
    from passreid.pretraining.preview import sample_views
    from passreid.show.viewsheet import view_sheet

    rows = sample_views(settings)
    settings.output.mkdir(parents=True, exist_ok=True)
    sheet = view_sheet(rows, settings.output / "crops.png", areas=settings.areas)
    note(f"Wrote {sheet}; without --show-crops the run starts.")
    return 0


def _one_or_all(paths: list[Path]) -> Path | tuple[Path, ...]:
    return paths[0] if len(paths) == 1 else tuple(paths)


def _values(recipe: Any) -> dict[str, Any]:
    return {field.name: getattr(recipe, field.name) for field in fields(recipe)}


def _run(train: Callable[[], Path | None], output: Path) -> int:
    """Train, draw what was logged, and say how it ended; of several processes the first speaks."""
    from passreid.show.curves import draw_curves
    from passreid.training.loop import show_log

    speaks = os.environ.get("RANK", "0") == "0"
    show_log(logging.INFO if speaks else logging.WARNING)
    model = train()
    if not speaks:
        return int(model is None)
    if (output / "metrics.jsonl").exists():
        draw_curves(output, output / "curves.png")
    if model is None:
        note(f"Stopped; the same command with --resume goes on in {output}.")
        return 1
    note(f"Wrote {model}; use it with --model {model}.")
    return 0
