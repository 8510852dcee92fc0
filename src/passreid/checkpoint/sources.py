"""Where a model's weights are, and what the files beside them say of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from passreid.card import ModelCard
from passreid.checkpoint.modelscope import CONFIGURATION, WEIGHTS, read_configuration
from passreid.errors import CheckpointError, ModelNotFoundError

NATIVE_CARD = "model.json"
NATIVE_WEIGHTS = "model.safetensors"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_HUGGING_FACE = ("config.json", "preprocessor_config.json")
_RESAMPLE = ((2, "bilinear"), (3, "bicubic"))  # Pillow's numbers, which transformers writes


class Source(NamedTuple):
    """A weight file and its description.

    Attributes:
        weights: The file.
        card: Of a passreid folder.
        said: What a configuration beside the file says, as arguments of `load_checkpoint`.
        format: Whose configuration; "" for none.
    """

    weights: Path
    card: ModelCard | None = None
    said: Mapping[str, Any] = {}
    format: str = ""


def locate(path: Path) -> Source:
    """Find the weight file of a folder and its description.

    Raises:
        ModelNotFoundError: Nothing is there, or more than one thing might be meant.
        CheckpointError, ConfigError: A description that cannot be used.
    """
    if path.is_file():
        beside = path.parent / NATIVE_CARD
        if path.name == NATIVE_WEIGHTS and beside.is_file():
            return Source(path, ModelCard.read(beside))
        return _describe(path)
    if not path.is_dir():
        raise ModelNotFoundError(f"{path}: no such file or folder.")
    if (path / NATIVE_CARD).is_file():
        return Source(path / NATIVE_WEIGHTS, ModelCard.read(path / NATIVE_CARD))
    modelscope = (path / CONFIGURATION).is_file()
    if modelscope and (path / WEIGHTS).is_file():
        found = [path / WEIGHTS]
    else:
        found = [file for file in sorted(path.iterdir()) if file.suffix in SUFFIXES]
        found = [file for file in found if file.is_file()]
    if len(found) != 1:
        what = ", ".join(item.name for item in found[:5]) or "none"
        raise ModelNotFoundError(
            f"{path}: expected {NATIVE_WEIGHTS} and {NATIVE_CARD}, {WEIGHTS} and {CONFIGURATION}, "
            f"or a single weight file (found: {what}); pass the file itself."
        )
    if modelscope:
        return Source(found[0], said=read_configuration(path / CONFIGURATION), format="modelscope")
    return _describe(found[0])


def _describe(weights: Path) -> Source:
    """Read what Hugging Face keeps beside a file: timm's pretrained_cfg, transformers' processor.

    Raises:
        CheckpointError: A mean, standard deviation or size that cannot be.
    """
    said: dict[str, Any] = {}
    for name in _HUGGING_FACE:
        try:
            values = json.loads((weights.parent / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # none there, or another program's
            continue
        if isinstance(values, dict):
            nested = values.get("pretrained_cfg")
            said |= _read_hugging_face(nested if isinstance(nested, dict) else values)
    try:
        for key in ("mean", "std", "image_size"):
            if key in said:
                number = int if key == "image_size" else float
                said[key] = tuple(number(value) for value in said[key])
                if len(said[key]) != (2 if key == "image_size" else 3):
                    raise ValueError
    except (TypeError, ValueError):
        raise CheckpointError(
            f"{weights.parent}: {' and '.join(_HUGGING_FACE)} give {key} as {said[key]!r}."
        ) from None
    return Source(weights, said=said, format="huggingface" if said else "")


def _read_hugging_face(values: Mapping[str, Any]) -> dict[str, Any]:
    filters = [name for number, name in _RESAMPLE if values.get("resample") == number]
    said = {
        "mean": values.get("image_mean", values.get("mean")),
        "std": values.get("image_std", values.get("std")),
        "interpolation": filters[0] if filters else values.get("interpolation"),
    }
    if isinstance(size := values.get("input_size"), list):
        said["image_size"] = size[-2:]
    elif isinstance(size := values.get("size"), dict) and {"height", "width"} <= size.keys():
        said["image_size"] = [size["height"], size["width"]]
    if said["interpolation"] not in ("bilinear", "bicubic"):
        del said["interpolation"]
    return {key: value for key, value in said.items() if value is not None}
