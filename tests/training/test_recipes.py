"""What every recipe refuses: numbers no run can be made of, and what is no number."""

from __future__ import annotations

import math
import typing
from dataclasses import fields
from typing import Any

import pytest

from passreid.adapting.recipe import AdaptRecipe
from passreid.config import build
from passreid.errors import ConfigError
from passreid.finetuning.recipe import FinetuneRecipe
from passreid.pretraining.recipe import PretrainRecipe

RECIPES = (AdaptRecipe, FinetuneRecipe, PretrainRecipe)


def numbers() -> list[tuple[type[Any], str, tuple[type, ...]]]:
    """Every field of a recipe that is one number or several, and their types."""
    found = []
    for recipe in RECIPES:
        hints = typing.get_type_hints(recipe)
        for field in fields(recipe):
            flat = (hints[field.name],)
            while any(map(typing.get_args, flat)):
                flat = tuple(inner for hint in flat for inner in typing.get_args(hint) or (hint,))
            kinds = tuple(kind for kind in flat if kind in (int, float))
            if kinds:
                found.append((recipe, field.name, kinds))
    return found


@pytest.mark.parametrize(("recipe", "name", "kinds"), numbers())
def test_every_number_has_a_range(recipe: type[Any], name: str, kinds: tuple[type, ...]) -> None:
    def refused(value: object, said: str) -> None:
        several = len(kinds) > 1 or "tuple" in str(typing.get_type_hints(recipe)[name])
        wrong = [value] * len(kinds) if several else value
        with pytest.raises(ConfigError, match=f"^r.toml: '?{name}'? .*{said}"):
            build(recipe, {name: wrong}, where="r.toml")

    refused(True, f"True.* expected .*{kinds[0].__name__}")
    if kinds[0] is int:
        refused(-1, "must .*, not .*-1")
    else:
        for value in (math.nan, math.inf, -math.inf):
            refused(value, f"must .*, not .*{value}")


@pytest.mark.parametrize(
    ("recipe", "values", "said"),
    [
        (FinetuneRecipe, {"lr": math.inf}, "lr must be positive and finite, not inf"),
        (FinetuneRecipe, {"momentum": 1.5}, "momentum must be at least 0 and below 1, not 1.5"),
        (FinetuneRecipe, {"triplet_margin": -0.1}, "triplet_margin must be finite and not neg"),
        (FinetuneRecipe, {"people": 1}, "people must be at least 2, not 1"),
        (AdaptRecipe, {"momentum": 1.0}, "momentum must be at least 0 and below 1, not 1.0"),
        (AdaptRecipe, {"eps": 0.0}, "eps must lie above 0 and at most 1, not 0.0"),
        (PretrainRecipe, {"global_scale": [0.4, 1.5]}, "global_scale must lie above 0 and at most"),
    ],
)
def test_ranges_are_said_in_words(recipe: type[Any], values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(recipe, values, where="r.toml")
