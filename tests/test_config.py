"""Plain data becomes dataclasses, or one sentence that names the file and the key."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from passreid.card import ModelCard
from passreid.config import build
from passreid.errors import ConfigError


def test_values_are_converted_to_their_types() -> None:
    values = {"name": "m", "std": [1, 1, 1], "architecture": {"stride": [8, 8], "mlp_ratio": 4}}
    card = build(ModelCard, values, where="m.json")
    assert card.std == (1.0, 1.0, 1.0) and card.architecture.stride == (8, 8)
    assert isinstance(card.architecture.mlp_ratio, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "'name' is missing."),
        ({"name": 3}, "'name' is 3, expected str."),
        ({"name": "m", "mean": [1, 2]}, "'mean' is [1, 2], expected a list: float, float, float."),
        ({"name": "m", "mean": [1, 2, "a"]}, "'mean' is [1, 2, 'a'], expected a list: float, "),
        ({"name": "m", "scores": {"mAP": "high"}}, "'scores' is {'mAP': 'high'}, expected Mapping"),
        ({"name": "m", "interpolation": "cubic"}, "expected 'bilinear' or 'bicubic'."),
        (
            {"name": "m", "architecture": {"width": "9"}},
            "'architecture.width' is '9', expected int",
        ),
        ({"name": "m", "architecture": {"width": True}}, "'architecture.width' is True, expected"),
        ({"name": "m", "architecture": {"widht": 9}}, "unknown key 'architecture.widht'. Did you "),
        ({"name": "m", "calibration": {"data": 1}}, "'calibration.points' is missing."),
        ({"name": "m", "calibration": 3}, "'calibration' is 3, expected Calibration."),
    ],
)
def test_wrong_values_are_named_with_their_place(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(ModelCard, values, where="m.json")
    assert str(error.value).startswith("m.json: ") and message in str(error.value)


def test_the_command_line_starts_without_pydantic() -> None:
    code = "import sys, passreid.cli; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
