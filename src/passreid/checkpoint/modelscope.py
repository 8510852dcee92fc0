"""A ModelScope folder's configuration.json: read as data, checked, and written.

The folder's own code, plug-ins and `pipeline` settings are never looked at, let alone run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from passreid.card import HALF, ModelCard
from passreid.config import read_json
from passreid.errors import CheckpointError, ConfigError

CONFIGURATION = "configuration.json"
WEIGHTS = "pytorch_model.pt"
MODEL_TYPE = "passvitb"


def _is_pair(value: Any) -> bool:
    whole = isinstance(value, list) and all(type(v) is int and v > 0 for v in value)
    return whole and len(value) == 2


def _is_triple(value: Any) -> bool:
    numbers = isinstance(value, list) and all(type(v) in (int, float) for v in value)
    return numbers and len(value) == 3


# Key of model.cfg -> argument of `load_checkpoint`, the rule for its value, and the rule in words.
_KEYS: dict[str, tuple[str, Callable[[Any], bool], str]] = {
    "INPUT.SIZE_TRAIN": ("image_size", _is_pair, "two whole numbers"),
    "INPUT.SIZE_TEST": ("test_size", _is_pair, "two whole numbers"),
    "INPUT.PIXEL_MEAN": ("mean", _is_triple, "three numbers"),
    "INPUT.PIXEL_STD": ("std", _is_triple, "three numbers"),
    "MODEL.STRIDE_SIZE": ("stride", _is_pair, "two whole numbers"),
    "MODEL.MULTI_NECK": ("neck", lambda value: isinstance(value, bool), "true or false"),
    "MODEL.FEAT_FUSION": ("fusion", lambda value: value in ("cat", "mean"), "cat or mean"),
}


def read_configuration(path: Path) -> dict[str, Any]:
    """Read a configuration.json.

    Returns:
        What it says, as arguments of `load_checkpoint`. For `reading.interpret` also "claim",
        "heads" of 0 for the published rule, and "test_size", to which the pipeline resizes.

    Raises:
        CheckpointError: Not a PASS model's configuration, or a value that cannot be.
    """
    try:
        values = read_json(path)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    model = values.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind != MODEL_TYPE:
        raise CheckpointError(f"{path}: model.type is {kind!r}, expected '{MODEL_TYPE}'.")
    cfg = model.get("cfg")
    if not isinstance(cfg, dict):
        raise CheckpointError(f"{path}: model.cfg is missing.")
    for option in ("MODEL.GEM_POOLING", "MODEL.STEM_CONV"):
        if _look_up(cfg, option):
            raise CheckpointError(f"{path}: {option} is on; no PASS weights exist for it.")
    said: dict[str, Any] = {"claim": True, "heads": 0, "mean": HALF, "std": HALF}
    said["interpolation"] = "bilinear"
    said["feature"] = "after" if _look_up(cfg, "TEST.NECK_FEAT") == "after" else "before"
    for key, (argument, holds, rule) in _KEYS.items():
        value = _look_up(cfg, key)
        if value is None:
            continue
        if not holds(value):
            raise CheckpointError(f"{path}: {key} is {value!r}, expected {rule}.")
        said[argument] = tuple(value) if isinstance(value, list) else value
    if "neck" in said:
        said["neck"] = "multi" if said["neck"] else "single"
    return said


def _look_up(values: Any, key: str) -> Any:
    """Follow a dotted key; None where it leads to nothing."""
    for name in key.split("."):
        if not isinstance(values, dict):
            return None
        values = values.get(name)
    return values


def configuration_text(card: ModelCard) -> str:
    """Return the configuration.json of a model that ModelScope's pipeline can run.

    Raises:
        CheckpointError: The pipeline has no way to do what the card says.
    """
    a = card.architecture
    if a.feature == "normalized" or card.interpolation != "bilinear":
        raise CheckpointError(
            "The modelscope layout holds neither a normalised feature nor bicubic resizing."
        )
    size = list(a.image_size)
    cfg = {
        "INPUT": {
            "SIZE_TRAIN": size,
            "SIZE_TEST": size,
            "PIXEL_MEAN": list(card.mean),
            "PIXEL_STD": list(card.std),
        },
        "MODEL": {
            "SIE_COE": 3.0,
            "STRIDE_SIZE": list(a.stride),
            "DROP_PATH": 0.1,
            "DROP_OUT": 0.0,
            "ATT_DROP_RATE": 0.0,
            "GEM_POOLING": False,
            "STEM_CONV": False,
            "DROPOUT_RATE": 0.0,
            "MULTI_NECK": a.neck == "multi",
            "FEAT_FUSION": a.fusion,
        },
        # ModelScope builds a classifier it never uses; it cannot have no rows.
        "DATASETS": {"NUM_CLASSES": a.num_classes or 1},
        "TEST": {"NECK_FEAT": a.feature},
    }
    document = {
        "framework": "pytorch",
        "task": "image-reid-person",
        "pipeline": {"type": "passvitb-image-reid-person"},
        "model": {"type": MODEL_TYPE, "cfg": cfg},
    }
    return json.dumps(document, indent=4) + "\n"
