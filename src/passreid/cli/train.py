"""finetune, pretrain, adapt, average: from crops to a model folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from passreid.adapting.recipe import AdaptConfig, AdaptRecipe
from passreid.cli.app import Output, app, check_folder, note
from passreid.config import build, plain, read_toml
from passreid.errors import MissingExtraError, UsageError
from passreid.finetuning.recipe import FinetuneConfig, FinetuneRecipe
from passreid.pretraining.recipe import PretrainConfig, PretrainRecipe

_Several = Annotated[list[Path] | None, Parameter(negative=())]


@app.command
def finetune(
    data: _Several = None,
    /,
    *,
    output: Output | None = None,
    config: Path | None = None,
    resume: bool = False,
    recipe: Annotated[FinetuneRecipe, Parameter(name="*")] = FinetuneRecipe(),  # noqa: B008
) -> int:
    """Fine-tune a model on labelled crops, of one set or of the union of several.

    To resume or extend a run: passreid finetune --resume RUN [--epochs 200]

    With several processes: torchrun --nproc-per-node 4 -m passreid finetune DATA --output RUN

    Example: passreid finetune market1501 --output runs/a --init pass_vit_small_full.pth

    Args:
        data: Labelled sets with training people, in any layout `evaluate` reads.
        output: Run folder: config.toml, run.json, metrics.jsonl, curves.png, checkpoint/, best/ and
            model/.
        config: A TOML recipe; options on the command line take precedence.
        resume: Resume the run in that folder, with the recipe it was started with.
    """
    return _train("finetuning", "finetune", FinetuneConfig, data, output, recipe, resume=resume)


@app.command
def pretrain(
    images: _Several = None,
    /,
    *,
    output: Output | None = None,
    config: Path | None = None,
    resume: bool = False,
    show_crops: bool = False,
    recipe: Annotated[PretrainRecipe, Parameter(name="*")] = PretrainRecipe(),  # noqa: B008
) -> int:
    """Pre-train a backbone on unlabelled crops: PASS, or DINO with --areas 0.

    To resume or extend a run: passreid pretrain --resume RUN [--epochs 200]

    With several processes: torchrun --nproc-per-node 8 -m passreid pretrain IMAGES --output RUN

    Example: passreid pretrain crops/ --output runs/p --preset tiny --batch-size 64

    Args:
        images: Folder trees of images or tar shards, lists of paths, or URLs of packed shards.
        output: Run folder: config.toml, run.json, metrics.jsonl, curves.png, checkpoint/, model/.
        config: A TOML recipe; options on the command line take precedence.
        resume: Resume the run in that folder, with the recipe it was started with.
        show_crops: Draw the views of six images as crops.png in the run folder and stop.
    """
    if show_crops:
        return _draw_crops(_settings(PretrainConfig, images, output, recipe, resume=resume))
    return _train("pretraining", "pretrain", PretrainConfig, images, output, recipe, resume=resume)


@app.command
def adapt(
    images: _Several = None,
    /,
    *,
    output: Output | None = None,
    config: Path | None = None,
    resume: bool = False,
    recipe: Annotated[AdaptRecipe, Parameter(name="*")] = AdaptRecipe(),  # noqa: B008
) -> int:
    """Adapt a model to unlabelled crops: it learns from clusters it finds itself.

    To resume or extend a run: passreid adapt --resume RUN [--epochs 80]

    With several processes: torchrun --nproc-per-node 4 -m passreid adapt IMAGES --output RUN

    Example: passreid adapt crops/ --output runs/site --init passreid-tiny --iterations 0

    Args:
        images: Folder trees of images or tar shards, lists of paths, or URLs of packed shards.
        output: Run folder: config.toml, run.json, metrics.jsonl, curves.png, checkpoint/, model/.
        config: A TOML recipe; options on the command line take precedence.
        resume: Resume the run in that folder, with the recipe it was started with.
    """
    return _train("adapting", "adapt", AdaptConfig, images, output, recipe, resume=resume)


@app.command
def average(models: Annotated[list[str], Parameter(negative=())], /, *, output: Path) -> None:
    """Average the weights of several runs from one start: often better than each of them.

    The result runs on torch; `passreid export` writes what runs without it.

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
    model, card = mix([resolve(model) for model in models])
    save_folder(model, replace(card, name=output.resolve().name), output)
    note(f"Wrote {output}; use it with --model {output}, on torch until it is exported:")
    note(f"  passreid export {output}")


def _settings(
    kind: type[Any], data: list[Path] | None, output: Path | None, recipe: Any, *, resume: bool
) -> Any:
    """Combine data, run folder and recipe; `--resume RUN` alone names a run that knows its data."""
    if resume and output is None and data and len(data) == 1:
        output, data = data[0], None
    if output is None:
        raise UsageError("Name the run folder with --output, or the run to resume: --resume RUN.")
    values = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    if data:
        return kind(data=data[0] if len(data) == 1 else tuple(data), output=output, **values)
    written = output / "config.toml"
    if not resume or not written.exists():
        raise UsageError(f"{output} holds no run to resume; name the data to train on.")
    places = {"data": read_toml(written).get("data"), "output": str(output)}
    return build(kind, {**plain(recipe), **places}, where=str(written))


def _train(
    room: str,
    verb: str,
    kind: type[Any],
    data: list[Path] | None,
    output: Path | None,
    recipe: Any,
    *,
    resume: bool,
) -> int:
    """Train, redraw the curves at every evaluation, and say how it ended."""
    import importlib

    try:
        train = getattr(importlib.import_module(f"passreid.{room}.{verb}"), verb)
        from passreid.training.callbacks import Callback
        from passreid.training.loop import show_log
    except ModuleNotFoundError as error:
        raise MissingExtraError("Training", "adapt" if verb == "adapt" else "torch") from error
    from passreid.show.curves import draw_curves

    settings = _settings(kind, data, output, recipe, resume=resume)
    folder: Path = settings.output

    class Curves(Callback):
        def on_metrics(self, values: Mapping[str, Any]) -> None:
            if "mAP" in values:
                draw_curves(folder, folder / "curves.png")

        def on_end(self, finished: bool) -> None:
            if (folder / "metrics.jsonl").exists():
                draw_curves(folder, folder / "curves.png")

    # Of several processes only the first reports.
    reports = os.environ.get("RANK", "0") == "0"
    show_log(logging.INFO if reports else logging.WARNING)
    model = train(settings, resume=resume, callbacks=[Curves()])
    if reports and model is None:
        note(f"Stopped; resume with: passreid {verb} --resume {folder}")
    elif reports:
        note(f"Wrote {model}; use it with --model {model}.")
    return int(model is None)


def _draw_crops(settings: PretrainConfig) -> int:
    from passreid.pretraining.crops import sample_views
    from passreid.show.viewsheet import view_sheet

    rows = sample_views(settings)
    settings.output.mkdir(parents=True, exist_ok=True)
    sheet = view_sheet(rows, settings.output / "crops.png", areas=settings.areas)
    note(f"Wrote {sheet}; without --show-crops the run starts.")
    return 0
