"""models, convert, export, doctor: list, convert and export models, check the installation."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.markup import escape
from rich.table import Table

from passreid.cli.app import Output, ReadingOptions, app, check_folder, console, note, say, say_json
from passreid.errors import MissingExtraError, PassreidError, UsageError, install_command
from passreid.formats import show_rate

if TYPE_CHECKING:
    from passreid.card import ModelCard

EXTRAS = {
    "torch": ("torch", "timm", "torchvision"),
    "adapt": ("sklearn",),
    "onnx": ("onnx", "onnxscript"),
    "hub": ("huggingface_hub",),
    "openvino": ("openvino",),
    "int8": ("nncf",),
    "gallery": ("faiss",),
    "qdrant": ("qdrant_client",),
    "serve": ("fastapi", "uvicorn", "python_multipart", "prometheus_client"),
    "bulk": ("pyarrow", "fsspec"),
    "ray": ("ray",),
    "shards": ("fsspec",),
    "tensorboard": ("tensorboard",),
}


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


@app.command
def doctor() -> int:
    """Show what is installed and what the machine offers, and test the bundled model."""
    from passreid.backends import gpu, torch_runs

    say(f"passreid {importlib.metadata.version('passreid')} on Python {platform.python_version()}")
    say(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    for package in ("numpy", "pillow", "onnxruntime", "safetensors"):
        say(f"  {package} {_version(package)}")
    for extra, packages in EXTRAS.items():
        missing = [p for p in packages if importlib.util.find_spec(p) is None]
        state = "installed" if not missing else f"not installed: {escape(install_command(extra))}"
        say(f"  extra {extra}: {state}")
    try:
        if torch_runs():
            say(f"  torch {_version('torch')}, accelerator: {gpu() or 'none'}")
        same, different = _self_test()
    except (PassreidError, ImportError, OSError) as error:  # also libraries that fail to load
        say(f"bundled model: fails ({escape(str(error))})")
        return 1
    say(f"bundled model: works (same person {same:.2f}, different people {different:.2f})")
    return 0


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # builds for other hardware have other names
        return "not installed under this name"


def _self_test() -> tuple[float, float]:
    """Embed drawn crops and return the cosines of a same-person and a different-people pair."""
    import numpy as np

    from passreid.data.drawing import draw_crop, random_camera, random_people
    from passreid.embed import load
    from passreid.verify import cosine

    rng = np.random.default_rng(0)
    people = random_people(3, rng)
    cameras = [random_camera(number, rng) for number in range(2)]
    shots = ((people[0], cameras[0]), (people[0], cameras[1]), (people[2], cameras[1]))
    one, again, other = load()([draw_crop(*shot, rng) for shot in shots])
    return float(cosine(one, again)), float(cosine(one, other))


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
        "network": f"ViT {a.depth} x {a.width}, {a.parts} part tokens, {a.dim} dimensions",
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
