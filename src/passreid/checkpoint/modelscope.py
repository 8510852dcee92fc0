"""A ModelScope folder's configuration.json: read as data, checked, and written.

The folder's own code, plug-ins and `pipeline` settings are never looked at, let alone run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from passreid.card import HALF, Architecture, ModelCard
from passreid.checkpoint.layouts import Sizes
from passreid.config import read_json
from passreid.errors import CheckpointError, ConfigError

CONFIGURATION = "configuration.json"
WEIGHTS = "pytorch_model.pt"
MODEL_TYPE = "passvitb"

Triple = tuple[float, float, float]
Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a configuration says of a PASS model.

    Attributes:
        sizes: Input size the weights were trained at and patch stride, where said.
        test_size: (height, width) the pipeline resizes to, where said.
        mean, std: Normalisation.
        architecture: Other arguments of `Architecture` that it decides.
    """

    sizes: Sizes = field(default_factory=Sizes)
    test_size: Pair | None = None
    mean: Triple = HALF
    std: Triple = HALF
    architecture: Mapping[str, Any] = field(default_factory=dict)

    def check_test_size(self) -> None:
        """Refuse what the original cannot run either: two sizes and one position table.

        Raises:
            CheckpointError: The pipeline's size is not the one trained at.
        """
        if self.test_size not in (None, self.sizes.image_size):
            raise CheckpointError(
                f"{CONFIGURATION}: SIZE_TEST is {self.test_size}, SIZE_TRAIN "
                f"{self.sizes.image_size}; say image_size, and the positions are resampled."
            )


def read_settings(path: Path) -> Settings:
    """Read a configuration.json.

    Raises:
        CheckpointError: Not a PASS model's configuration, or a value that cannot be.
    """
    try:
        values = read_json(path)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    model = values.get("model")
    if not isinstance(model, dict) or model.get("type") != MODEL_TYPE:
        kind = model.get("type") if isinstance(model, dict) else None
        raise CheckpointError(f"{path}: model.type is {kind!r}, expected '{MODEL_TYPE}'.")
    get = _Getter(path, model.get("cfg"))
    for option in ("MODEL.GEM_POOLING", "MODEL.STEM_CONV"):
        if get(option, False):
            raise CheckpointError(f"{path}: {option} is on; no PASS weights exist for it.")
    architecture: dict[str, Any] = {}
    if (multi := get("MODEL.MULTI_NECK")) is not None:
        architecture["neck"] = "multi" if get.flag("MODEL.MULTI_NECK", multi) else "single"
    if (fusion := get("MODEL.FEAT_FUSION")) is not None:
        architecture["fusion"] = get.choice("MODEL.FEAT_FUSION", fusion, ("cat", "mean"))
    architecture["feature"] = "after" if get("TEST.NECK_FEAT") == "after" else "before"
    return Settings(
        sizes=Sizes(get.pair("INPUT.SIZE_TRAIN"), get.pair("MODEL.STRIDE_SIZE")),
        test_size=get.pair("INPUT.SIZE_TEST"),
        mean=get.triple("INPUT.PIXEL_MEAN"),
        std=get.triple("INPUT.PIXEL_STD"),
        architecture=architecture,
    )


def settings_text(card: ModelCard) -> str:
    """Return the configuration.json of a model that ModelScope's pipeline can run.

    Raises:
        CheckpointError: The pipeline has no way to do what the card says.
    """
    a = card.architecture
    if a.feature == "normalized" or card.interpolation != "bilinear":
        raise CheckpointError(
            "The modelscope layout holds neither a normalised feature nor bicubic resizing."
        )
    return json.dumps(_document(a, card), indent=4) + "\n"


def _document(a: Architecture, card: ModelCard) -> dict[str, Any]:
    size = list(a.image_size)
    return {
        "framework": "pytorch",
        "task": "image-reid-person",
        "pipeline": {"type": "passvitb-image-reid-person"},
        "model": {
            "type": MODEL_TYPE,
            "cfg": {
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
            },
        },
    }


class _Getter:
    """Dotted look-ups in a parsed configuration, each checked."""

    def __init__(self, path: Path, values: Any) -> None:
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: model.cfg is missing.")
        self.path = path
        self.values = values

    def __call__(self, key: str, default: Any = None) -> Any:
        value: Any = self.values
        for name in key.split("."):
            if not isinstance(value, dict) or name not in value:
                return default
            value = value[name]
        return value

    def flag(self, key: str, value: Any) -> bool:
        if not isinstance(value, bool):
            self._refuse(key, value, "true or false")
        return value is True

    def choice(self, key: str, value: Any, known: tuple[str, ...]) -> str:
        if value not in known:
            self._refuse(key, value, " or ".join(known))
        return str(value)

    def pair(self, key: str) -> Pair | None:
        value = self(key)
        whole = isinstance(value, list) and all(type(v) is int and v > 0 for v in value)
        if value is not None and not (whole and len(value) == 2):
            self._refuse(key, value, "two whole numbers")
        return None if value is None else (value[0], value[1])

    def triple(self, key: str) -> Triple:
        value = self(key, list(HALF))
        numbers = isinstance(value, list) and all(type(v) in (int, float) for v in value)
        if not (numbers and len(value) == 3):
            self._refuse(key, value, "three numbers")
        return cast(Triple, tuple(float(v) for v in value))

    def _refuse(self, key: str, value: Any, expected: str) -> None:
        raise CheckpointError(f"{self.path}: {key} is {value!r}, expected {expected}.")
