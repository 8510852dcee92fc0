"""finetune: from labelled crops to a model folder."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from passreid.cli.app import app, note
from passreid.errors import MissingExtraError
from passreid.finetuning.config import FinetuneConfig, FinetuneRecipe


@app.command
def finetune(
    data: Path,
    /,
    *,
    output: Path,
    config: Path | None = None,
    resume: bool = False,
    recipe: Annotated[FinetuneRecipe, Parameter(name="*")] = FinetuneRecipe(),  # noqa: B008
) -> int:
    """Fine-tune a model on labelled crops.

    Several processes: torchrun --nproc-per-node 4 -m passreid finetune DATA --output RUN

    Example: passreid finetune market1501 --output runs/a --init pass_vit_small_full.pth

    Args:
        data: A labelled data set with training people, any layout `evaluate` knows.
        output: Run folder: config.toml, metrics.jsonl, checkpoint/, curves.png and model/.
        config: A TOML recipe; options on the command line win over it.
        resume: Go on with the run in that folder.
    """
    try:
        from passreid.finetuning.run import finetune as train
        from passreid.show.curves import draw_curves
        from passreid.training.loop import show_log
    except ModuleNotFoundError as error:
        raise MissingExtraError("Training", "torch") from error
    show_log()
    values: dict[str, Any] = {f.name: getattr(recipe, f.name) for f in fields(recipe)}
    model = train(FinetuneConfig(data=data, output=output, **values), resume=resume)
    draw_curves(output, output / "curves.png")
    if model is None:
        note(f"Stopped; go on with: passreid finetune {data} --output {output} --resume …")
        return 1
    note(f"Wrote {model}; use it with --model {model}.")
    return 0
