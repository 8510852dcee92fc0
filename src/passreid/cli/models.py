"""models, convert, export: list models, convert weights, write files for other engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.markup import escape
from rich.table import Table

from passreid.cli.app import Output, ReadingOptions, app, check_folder, console, note, say, say_json
from passreid.errors import MissingExtraError, UsageError
from passreid.formats import show_rate

if TYPE_CHECKING:
    from passreid.card import ModelCard


@app.command
def models(
    name: str | None = None,
    /,
    *,
    json: bool = False,
    reading: ReadingOptions = ReadingOptions(),  # noqa: B008
) -> None:
    """List the bundled models, or show one model's card.

    Args:
        name: A bundled name, a model folder, or a ModelScope or Hugging Face id.
        json: Print one JSON object per model.
    """
    from passreid.hub import bundled, resolve

    names = bundled() if name is None else [name]
    cards = {n: _card(resolve(n), reading) for n in names}
    if json:
        from passreid.config import plain

        for key, card in cards.items():
            say_json({"model": key, **plain(card)})
    elif name is not None:
        _say_card(cards[name])
    else:
        table = Table("name", "input", "dim", "scores", "licence", box=None, pad_edge=False)
        for key, card in cards.items():
            height, width = card.architecture.image_size
            dim = str(card.architecture.dim)
            table.add_row(key, f"{height}x{width}", dim, _scores(card), escape(card.licence))
        console.print(table)
        note("Also: a model folder, a weight file, damo/… (ModelScope), owner/name (Hugging Face).")


@app.command
def convert(
    source: str,
    output: Output,
    /,
    *,
    to: Literal["passreid", "pass", "timm"] = "passreid",
    half: bool = False,
    role: Literal["auto", "teacher", "student"] = "auto",
    merge: int | None = None,
    reading: ReadingOptions = ReadingOptions(),  # noqa: B008
) -> None:
    """Convert weights of any supported layout, read strictly, to a model folder.

    Example: passreid convert transformer_120.pth my-model

    Args:
        source: A weight file, a folder or a hub id.
        output: A model folder or, with --to, a file (.safetensors or .pth).
        to: Write a file for the original PASS code, or the backbone alone for timm.
        half: Store weights as float16 (model folders only).
        role: Network of a self-supervised checkpoint.
        merge: Patches merged in each block: faster, slightly less accurate; 0 disables merging.
    """
    try:
        from passreid.checkpoint import load_checkpoint, save_as, save_folder
    except ModuleNotFoundError as error:
        raise MissingExtraError("Converting weights", "torch") from error
    from passreid.hub import resolve

    if half and to != "passreid":
        raise UsageError(f"--half does not go with --to {to}; leave one of them out.")
    if to == "passreid":
        check_folder(output)
    loaded = load_checkpoint(
        resolve(source),
        role=role,
        keep_classifier=to != "timm",
        merge=merge,
        **reading.overrides(),
    )
    say(escape(str(loaded.report)))
    if to == "passreid":
        save_folder(loaded.model, loaded.card, output, half=half)
    else:
        save_as(loaded.model, loaded.card, output, format=to)
    note(f"Wrote {output}.")


@app.command
def export(
    folder: Path,
    /,
    *,
    format: Literal["onnx", "openvino"] = "onnx",
    precision: Literal["float32", "float16", "int8"] = "float32",
    normalise: bool = False,
    calibrate: Path | None = None,
) -> None:
    """Export a model folder for ONNX Runtime and OpenVINO, checked against torch.

    By default, writes graphs that use the folder's own weights. With options, writes one file
    that holds its weights, `model.PRECISION.onnx` or `.xml`, for `--precision` to find.

    Example: passreid export runs/a/model --format openvino --precision int8 --calibrate crops

    Args:
        folder: A model folder.
        format: File format.
        precision: float16 halves the size; int8 also computes faster.
        normalise: Take uint8 RGB pixels (batch, height, width, 3) and normalise them inside.
        calibrate: Folder of typical crops; int8 needs it, the others are checked on it.
    """
    try:
        from passreid.exporting import write_graph, write_variant
    except ModuleNotFoundError as error:
        raise MissingExtraError("Exporting", "torch,onnx") from error
    from passreid.hub import bundled
    from passreid.listing import find_images

    if str(folder) in bundled():
        raise UsageError(
            f"{folder} is bundled and read-only; `passreid convert {folder} FOLDER` makes a copy "
            "to export."
        )
    crops = [] if calibrate is None else find_images(calibrate)
    if (format, precision, normalise) != ("onnx", "float32", False):
        written = write_variant(
            folder, format=format, precision=precision, normalise=normalise, crops=crops
        )
    elif crops:
        raise UsageError(
            "--calibrate is for files that hold weights: add --precision, --format openvino or "
            "--normalise, or leave it out."
        )
    else:
        written = write_graph(folder)
    note(f"Wrote {written}.")


def _card(path: Path, reading: ReadingOptions) -> ModelCard:
    """Read a card without torch where there is one, else infer it from the weights."""
    from passreid.card import ModelCard

    if (path / "model.json").is_file() and not reading.overrides():
        return ModelCard.read(path / "model.json")
    try:
        from passreid.checkpoint import load_checkpoint
    except ModuleNotFoundError as error:
        raise MissingExtraError("Reading foreign weights", "torch") from error
    return load_checkpoint(path, **reading.overrides()).card


def _scores(card: ModelCard) -> str:
    return escape(", ".join(f"{name} {value:g}" for name, value in card.scores.items()))


def _say_card(card: ModelCard) -> None:
    a = card.architecture
    calibration = "none; fit one with `passreid calibrate`"
    if card.calibration is not None:
        rate = card.calibration.equal_error_rate
        detail = "without labels" if rate is None else f"equal error rate {show_rate(rate)}"
        calibration = f"{escape(card.calibration.data)}, {detail}"
    rows = {
        "network": f"ViT {a.depth} x {a.width}, {a.parts} part tokens, {a.dim} dimensions"
        if card.external is None
        else f"{card.external.file}, {a.dim} dimensions",
        "merging": f"{a.merge} patches per block" if a.merge else "",
        "input": f"{a.image_size[0]} x {a.image_size[1]}, {card.interpolation}",
        "trained on": escape(card.training_data),
        "licence": escape(card.licence),
        "scores": _scores(card),
        "calibration": calibration,
    }
    say(f"[bold]{escape(card.name)}[/bold]")
    if card.description:
        say(escape(card.description))
    for name, value in rows.items():
        if value:
            say(f"  {name:13} {value}")
