"""models, convert, export, doctor: what there is, in which form, and whether it works."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.markup import escape
from rich.table import Table

from passreid.cli.app import ReadingOptions, app, check_folder, console, note, say, say_json
from passreid.errors import MissingExtraError, PassreidError, UsageError
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
        json: One object a model.
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
        table = Table("name", "input", "numbers", "scores", "licence", box=None, pad_edge=False)
        for key, card in cards.items():
            a = card.architecture
            size = f"{a.image_size[0]}x{a.image_size[1]}"
            table.add_row(key, size, str(a.dim), _scores(card), escape(card.licence))
        console.print(table)
        note("Also: a model folder, a weight file, damo/… (ModelScope), owner/name (Hugging Face).")


@app.command
def convert(
    source: str,
    output: Path,
    /,
    *,
    to: Literal["passreid", "pass", "modelscope", "cluster-contrast", "transreid-ssl", "timm"] = (
        "passreid"
    ),
    half: bool = False,
    role: Literal["auto", "teacher", "student"] = "auto",
    merge: int | None = None,
    reading: ReadingOptions = ReadingOptions(),  # noqa: B008
) -> None:
    """Read weights of any known layout, strictly, and write them in another.

    Example: passreid convert transformer_120.pth my-model

    Args:
        source: A weight file, a folder or a hub id.
        output: A folder ("passreid", "modelscope") or a file (the others).
        to: Layout to write.
        half: Store weights as float16 ("passreid" alone).
        role: Which network of a self-supervised checkpoint.
        merge: Patches that each block merges into others: faster, a little less exact; 0 is none.
    """
    try:
        from passreid.checkpoint import load_checkpoint, save_as, save_folder
    except ModuleNotFoundError as error:
        raise MissingExtraError("Converting weights", "torch") from error
    from passreid.hub import resolve

    if half and to != "passreid":
        raise UsageError(f"--half is for --to passreid alone; leave it out for {to}.")
    if to in ("passreid", "modelscope"):
        check_folder(output)
    path = resolve(source)
    keep = to not in ("cluster-contrast", "timm")  # which have no place for a classifier
    options = reading.overrides()
    loaded = load_checkpoint(path, role=role, keep_classifier=keep, merge=merge, **options)
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
    """Write a model folder's files for engines other than torch, checked against torch.

    Without options: graphs on the folder's own weights, for ONNX Runtime and OpenVINO. Else one
    file with its own weights, `model.PRECISION.onnx` or `.xml`, which `--precision` finds.

    Example: passreid export runs/a/model --format openvino --precision int8 --calibrate crops

    Args:
        folder: A model folder.
        format: Whose file.
        precision: float16 halves the size; int8 also computes faster.
        normalise: The file takes uint8 RGB pixels as they are read (batch, height, width, 3).
        calibrate: Folder of crops as the model will see them; int8 needs it, the others are
            checked on it.
    """
    try:
        from passreid.exporting import write_graph, write_variant
    except ModuleNotFoundError as error:
        raise MissingExtraError("Exporting", "torch,onnx") from error
    from passreid.hub import bundled
    from passreid.listing import find_images

    if str(folder) in bundled():
        raise UsageError(
            f"{folder} is bundled and stays as it is: `passreid convert {folder} FOLDER` makes a "
            "copy to export."
        )
    crops = [] if calibrate is None else find_images(calibrate)
    if (format, precision, normalise) == ("onnx", "float32", False):
        if crops:
            raise UsageError(
                "--calibrate is for a file with weights of its own: add --precision, --format "
                "openvino or --normalise, or leave it out."
            )
        note(f"Wrote {write_graph(folder)}.")
        return
    written = write_variant(
        folder, format=format, precision=precision, normalise=normalise, crops=crops
    )
    note(f"Wrote {written}.")


@app.command
def doctor() -> int:
    """Say what is installed, what the machine offers, and whether the bundled model works."""
    from passreid.backends import gpu, torch_runs

    say(f"passreid {importlib.metadata.version('passreid')} on Python {platform.python_version()}")
    say(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    for package in ("numpy", "pillow", "onnxruntime", "safetensors"):
        say(f"  {package} {_version(package)}")
    for extra, packages in EXTRAS.items():
        missing = [p for p in packages if importlib.util.find_spec(p) is None]
        state = "installed" if not missing else f"not installed: pip install 'passreid\\[{extra}]'"
        say(f"  extra {extra}: {state}")
    try:
        if torch_runs():
            say(f"  torch {_version('torch')}, accelerator: {gpu() or 'none'}")
        same, different = _self_test()
    except (PassreidError, ImportError, OSError) as error:  # libraries that do not load, too
        say(f"bundled model: fails ({escape(str(error))})")
        return 1
    say(f"bundled model: works (same person {same:.2f}, different people {different:.2f})")
    return 0


def _version(package: str) -> str:
    """The version of a package; builds for other hardware go by other names."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed under this name"


def _self_test() -> tuple[float, float]:
    """Embed three drawn crops: one person by two cameras, and another; cosines of the two pairs."""
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
    """Read a card without torch where there is one, else deduce it from the weights."""
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
    say(f"[bold]{escape(card.name)}[/bold]")
    if card.description:
        say(escape(card.description))
    say(f"  network       ViT {a.depth} x {a.width}, {a.parts} part tokens, {a.dim} numbers")
    if a.merge:
        say(f"  merging       {a.merge} patches a block")
    say(f"  input         {a.image_size[0]} x {a.image_size[1]}, {card.interpolation}")
    say(f"  trained on    {escape(card.training_data)}")
    say(f"  licence       {escape(card.licence)}")
    if card.scores:
        say(f"  scores        {_scores(card)}")
    if card.calibration is None:
        say("  calibration   none; fit one with `passreid calibrate`")
    else:
        rate = card.calibration.equal_error_rate
        known = "without labels" if rate is None else f"equal error rate {show_rate(rate)}"
        say(f"  calibration   {escape(card.calibration.data)}, {known}")
