"""Where a model's weights are, and what the files beside them say of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from passreid.card import ModelCard
from passreid.checkpoint.modelscope import CONFIGURATION, WEIGHTS, read_configuration
from passreid.errors import ModelNotFoundError

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

    What is not as these write it is passed over; what is then not known is assumed aloud.
    """
    said: dict[str, Any] = {}
    for path in (weights.parent / name for name in _HUGGING_FACE):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # none there, or another program's
            continue
        values = values.get("pretrained_cfg", values) if isinstance(values, dict) else None
        if not isinstance(values, dict):
            continue
        size, name = values.get("input_size", values.get("size")), values.get("interpolation")
        for number, known in _RESAMPLE:
            name = known if values.get("resample") == number else name
        if isinstance(size, dict):
            size = [size.get("height"), size.get("width")]
        found = {
            "mean": _numbers(values.get("image_mean", values.get("mean")), 3, float),
            "std": _numbers(values.get("image_std", values.get("std")), 3, float),
            "image_size": _numbers(size[-2:] if isinstance(size, list) else None, 2, int),
            "interpolation": name if name in ("bilinear", "bicubic") else None,
        }
        said |= {key: value for key, value in found.items() if value is not None}
    return Source(weights, said=said)


def _numbers(value: Any, count: int, kind: type[float]) -> tuple[float, ...] | None:
    """Return a list of so many positive numbers as a tuple; None for anything else."""
    if not isinstance(value, list) or len(value) != count:
        return None
    known = all(type(each) in (kind, int) and each > 0 for each in value)
    return tuple(kind(each) for each in value) if known else None
