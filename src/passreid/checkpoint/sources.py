"""Find a model's weight file and read the configuration beside it, as data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from passreid.card import HALF, ModelCard
from passreid.config import read_json
from passreid.errors import CheckpointError, ConfigError, ModelNotFoundError

NATIVE_CARD = "model.json"
NATIVE_WEIGHTS = "model.safetensors"
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_MODELSCOPE_CONFIG = "configuration.json"
_MODELSCOPE_WEIGHTS = "pytorch_model.pt"
_HUGGING_FACE = ("config.json", "preprocessor_config.json")
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, which transformers writes


class Source(NamedTuple):
    """A weight file and its description.

    Attributes:
        weights: The file.
        card: The card of a passreid folder.
        config: Values of a foreign configuration, as arguments of `load_checkpoint`; with
            "claim", the weights must match its input size, else that is a hint.
        is_modelscope: Whether it is a ModelScope folder.
    """

    weights: Path
    card: ModelCard | None = None
    config: Mapping[str, Any] = {}
    is_modelscope: bool = False


def locate(path: Path) -> Source:
    """Find the weight file at `path`, which is a file or a folder, and its description."""
    if path.is_file():
        beside = path.parent / NATIVE_CARD
        if path.name == NATIVE_WEIGHTS and beside.is_file():
            return Source(path, ModelCard.read(beside))
        return Source(path, config=_read_hugging_face(path.parent))
    if not path.is_dir():
        raise ModelNotFoundError(f"{path}: no such file or folder.")
    if (path / NATIVE_CARD).is_file():
        return Source(path / NATIVE_WEIGHTS, ModelCard.read(path / NATIVE_CARD))
    is_modelscope = (path / _MODELSCOPE_CONFIG).is_file()
    found = [file for file in sorted(path.iterdir()) if file.suffix in _SUFFIXES and file.is_file()]
    if is_modelscope and path / _MODELSCOPE_WEIGHTS in found:
        found = [path / _MODELSCOPE_WEIGHTS]
    if len(found) != 1:
        names = ", ".join(item.name for item in found[:5]) or "none"
        raise ModelNotFoundError(
            f"{path}: expected {NATIVE_WEIGHTS} and {NATIVE_CARD}, {_MODELSCOPE_WEIGHTS} and "
            f"{_MODELSCOPE_CONFIG}, or a single weight file (found: {names}); pass the file itself."
        )
    if is_modelscope:
        return Source(
            found[0], config=_read_modelscope(path / _MODELSCOPE_CONFIG), is_modelscope=True
        )
    return Source(found[0], config=_read_hugging_face(path))


def _read_hugging_face(folder: Path) -> dict[str, Any]:
    """Read preprocessing from timm's pretrained_cfg or transformers' processor.

    Values of any other form are ignored; what stays unknown is assumed, and reported.
    """
    config: dict[str, Any] = {}
    for path in (folder / name for name in _HUGGING_FACE):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # missing, or another program's
            continue
        values = values.get("pretrained_cfg", values) if isinstance(values, dict) else None
        if not isinstance(values, dict):
            continue
        size = values.get("input_size", values.get("size"))
        if isinstance(size, dict):
            size = [size.get("height"), size.get("width")]
        resample = values.get("resample")
        name = _RESAMPLE.get(resample) if isinstance(resample, int) else None
        name = name or values.get("interpolation")
        found = {
            "mean": _numbers(values.get("image_mean", values.get("mean")), 3, float),
            "std": _numbers(values.get("image_std", values.get("std")), 3, float),
            "image_size": _numbers(size[-2:] if isinstance(size, list) else None, 2, int),
            "interpolation": name if name in _RESAMPLE.values() else None,
        }
        config |= {key: value for key, value in found.items() if value is not None}
    return config


def _numbers(value: Any, count: int, kind: type[float]) -> tuple[float, ...] | None:
    """Return a list of `count` positive numbers as a tuple, and None for anything else."""
    if not isinstance(value, list) or len(value) != count:
        return None
    known = all(type(each) in (kind, int) and each > 0 for each in value)
    return tuple(kind(each) for each in value) if known else None


def _triple(value: Any) -> tuple[float, ...] | None:
    known = isinstance(value, list) and all(type(each) in (int, float) for each in value)
    return tuple(value) if known and len(value) == 3 else None


def _pair(value: Any) -> tuple[float, ...] | None:
    return _numbers(value, 2, int)


# Key of ModelScope's model.cfg -> argument of `load_checkpoint`, parser (None: invalid), rule.
_KEYS: Mapping[str, tuple[str, Callable[[Any], Any], str]] = {
    "INPUT.SIZE_TRAIN": ("image_size", _pair, "two whole numbers"),
    "INPUT.SIZE_TEST": ("test_size", _pair, "two whole numbers"),
    "INPUT.PIXEL_MEAN": ("mean", _triple, "three numbers"),
    "INPUT.PIXEL_STD": ("std", _triple, "three numbers"),
    "MODEL.STRIDE_SIZE": ("stride", _pair, "two whole numbers"),
    "MODEL.MULTI_NECK": (
        "neck",
        lambda v: {True: "multi", False: "single"}[v] if isinstance(v, bool) else None,
        "true or false",
    ),
    "MODEL.FEAT_FUSION": ("fusion", lambda v: v if v in ("cat", "mean") else None, "cat or mean"),
}


def _read_modelscope(path: Path) -> dict[str, Any]:
    """Read the configuration.json of a PASS model.

    Besides arguments of `load_checkpoint` it has "claim", "heads" of 0 for the published rule, and
    "test_size", to which ModelScope's pipeline resizes.
    """
    try:
        model = read_json(path).get("model")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    kind = model.get("type") if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind != "passvitb":
        raise CheckpointError(f"{path}: model.type is {kind!r}, expected 'passvitb'.")
    cfg = model.get("cfg")
    if not isinstance(cfg, dict):
        raise CheckpointError(f"{path}: model.cfg is missing.")

    def look_up(key: str) -> Any:
        section, name = key.split(".")
        values = cfg.get(section)
        return values.get(name) if isinstance(values, dict) else None

    for option in ("MODEL.GEM_POOLING", "MODEL.STEM_CONV"):
        if look_up(option):
            raise CheckpointError(f"{path}: {option} is on; no PASS weights exist for it.")
    config: dict[str, Any] = {"claim": True, "heads": 0, "mean": HALF, "std": HALF}
    config["interpolation"] = "bilinear"
    config["feature"] = "after" if look_up("TEST.NECK_FEAT") == "after" else "before"
    for key, (argument, parse, rule) in _KEYS.items():
        value = look_up(key)
        if value is None:
            continue
        config[argument] = parse(value)
        if config[argument] is None:
            raise CheckpointError(f"{path}: {key} is {value!r}, expected {rule}.")
    return config
