"""The architecture of a foreign file: from shapes where they show it, else said or assumed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypedDict

from passreid.card import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    STEM_STRIDE,
    Architecture,
    ModelCard,
    Pooling,
)
from passreid.checkpoint.layouts import Layout, is_clustered, usual_heads
from passreid.checkpoint.positions import RATIOS, Grid, grid_of
from passreid.checkpoint.report import spell_options
from passreid.config import suggest
from passreid.errors import CheckpointError, UsageError

Shapes = Mapping[str, tuple[int, ...]]

ARCHITECTURE = ("heads", "neck", "fusion", "feature", "pooling", "merge")
PREPROCESSING = ("mean", "std", "interpolation")
SIE_WEIGHT = 3.0  # of TransReID's published runs
# Person and vehicle models with overlapping patches were published at these.
_SIZES = ((256, 128), (384, 128), (256, 192), (384, 192), (256, 256))
_STRIDES = (14, 12, 10, 8)


class Overrides(TypedDict, total=False):
    """What a caller may say of a model, over what the file and its configuration say.

    Attributes:
        image_size: Input (height, width). Where the file's positions fit it, it is the file's own;
            else they are resampled to it.
        stride: Step between patches, likewise.
        heads, neck, fusion, feature, pooling, merge: As in `Architecture`.
        mean, std, interpolation: As in `ModelCard`.
        sie_camera: Whose embedding a TransReID model with side information (SIE) adds, from 0.
        sie_weight: Its factor; 3.0 in the published runs.
    """

    image_size: tuple[int, int] | None
    stride: tuple[int, int] | None
    heads: int | None
    neck: Literal["multi", "single"] | None
    fusion: Literal["cat", "mean"] | None
    feature: Literal["before", "after", "normalized"] | None
    pooling: Pooling | None
    merge: int | None
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    interpolation: Literal["bilinear", "bicubic"] | None
    sie_camera: int | None
    sie_weight: float | None


class Reading(NamedTuple):
    """How a file is read.

    Attributes:
        stored: The architecture of the file.
        wanted: That of the model; it may have another grid.
        preprocessing: Mean, std and interpolation.
        assumed: What neither the file nor anybody said -> the value taken.
    """

    stored: Architecture
    wanted: Architecture
    preprocessing: dict[str, Any]
    assumed: dict[str, Any]


def check_given(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides that were given.

    Raises:
        UsageError: An unknown name, or a size or stride that is not two positive numbers.
    """
    known = list(Overrides.__annotations__)
    given: dict[str, Any] = {}
    for name, value in overrides.items():
        if name not in known:
            raise UsageError(f"Unknown option '{name}'.{suggest(name, known)}")
        if value is not None:
            given[name] = tuple(value) if isinstance(value, list) else value
    for name in given.keys() & {"image_size", "stride"}:
        pair = given[name]
        if not isinstance(pair, tuple) or len(pair) != 2 or min(pair) < 1:
            raise UsageError(f"{name} is {pair}; give two positive numbers: rows and columns.")
    return given


def interpret(
    names: Mapping[str, str],
    shapes: Shapes,
    layout: Layout,
    *,
    said: Mapping[str, Any],
    given: Mapping[str, Any],
    hw_ratio: int | None = None,
    keep_classifier: bool = False,
) -> Reading:
    """Decide what a foreign file's network is.

    Args:
        names: Bare name -> the file's name.
        shapes: By bare name.
        layout: The file's family.
        said: What a configuration beside the file says, as arguments of `load_checkpoint`; with
            "claim", its size must be true, else it is a hint.
        given: What the caller gave; it comes first.
        hw_ratio: Height over width of the file's patch grid.
        keep_classifier: Give the model the file's identity classifier, where it has one.

    Raises:
        CheckpointError: A tensor that decides is missing or has the wrong number of axes, the
            configuration is not true, or several inputs fit the position table.
    """
    facts = deduce(shapes, layout, keep_classifier=keep_classifier)
    guesses = _guess(names, shapes, facts)
    known = {**said, **given}
    values = {**guesses, **known, "heads": known.get("heads") or guesses["heads"]}
    if not values["heads"]:
        raise CheckpointError(f"width {facts['width']} is no multiple of 64; give heads (--heads).")
    facts |= {key: values[key] for key in ARCHITECTURE if key in values}
    rows = length(shapes, "pos_embed", 3, 1)
    # timm keeps special tokens out of the table in some models; then it has the patches alone.
    special = (0,) if layout.split_positions else (1 + facts["parts"], 0)
    counts = [rows - count for count in special if rows > count]
    size, stride = _find_input(counts, facts["patch_size"], said, given, hw_ratio)
    stored = Architecture(**facts, image_size=size, stride=stride)
    wanted = replace(
        stored, image_size=given.get("image_size", size), stride=given.get("stride", stride)
    )
    assumed: dict[str, Any] = {}
    if wanted.image_size not in (given.get("image_size"), said.get("image_size")):
        assumed["image_size"] = wanted.image_size
    if "stride" not in known:
        assumed["stride"] = wanted.stride
    assumed |= {key: value for key, value in guesses.items() if key not in known}
    return Reading(stored, wanted, {key: values[key] for key in PREPROCESSING}, assumed)


def read_card(
    card: ModelCard | None, given: Mapping[str, Any], *, keep_classifier: bool
) -> Reading:
    """Take the architecture of a passreid file from its card, and what the caller wants instead.

    Raises:
        CheckpointError: There is no card, or the neck cannot be used so.
    """
    if card is None:
        raise CheckpointError("a passreid file; its model.json must lie beside it.")
    a = card.architecture if keep_classifier else replace(card.architecture, num_classes=0)
    wanted = replace(a, **{k: v for k, v in given.items() if k not in PREPROCESSING})
    if wanted.neck_width != a.neck_width:
        raise CheckpointError(
            f"its neck does not fit {wanted.neck} neck and {wanted.fusion} fusion."
        )
    preprocessing = {key: given.get(key, getattr(card, key)) for key in PREPROCESSING}
    return Reading(a, wanted, preprocessing, {})


def deduce(shapes: Shapes, layout: Layout, *, keep_classifier: bool) -> dict[str, Any]:
    """Read off shapes what they show of an `Architecture`, as its arguments.

    Raises:
        CheckpointError: A tensor that decides is missing or has the wrong number of axes.
    """
    width = length(shapes, "cls_token", 3, 2)
    hidden = length(shapes, "blocks.0.mlp.fc1.weight", 2, 0)
    ratio = hidden / max(width, 1)
    stem = "ics" if "patch_embed.conv.0.weight" in shapes else "none"
    if layout.split_positions:
        parts = sum(bool(re.fullmatch(r"part_token\d+", name)) for name in shapes)
    else:
        parts = length(shapes, "reg_token", 3, 1) if "reg_token" in shapes else 0
    facts: dict[str, Any] = {
        "width": width,
        "depth": len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
        # The block takes int(width * ratio); half a row guards against rounding down.
        "mlp_ratio": ratio if int(width * ratio) == hidden else (hidden + 0.5) / width,
        "parts": parts,
        "patch_size": length(shapes, "patch_embed.proj.weight", 4, 2) * STEM_STRIDE[stem],
        "stem": stem,
    }
    jpm = "b1.0.norm1.weight" in shapes
    if jpm:
        facts["pooling"] = "jpm"
    rows = length(shapes, "bottleneck.weight", 1, 0) if "bottleneck.weight" in shapes else 0
    many = jpm or (layout.part_neck and f"{layout.part_neck.format(1)}.weight" in shapes)
    facts["neck"] = "multi" if many or (not rows and parts) else "single"
    fused = rows if rows and not many else 0
    if layout.classifier and "classifier.weight" in shapes:
        classes, fused = (length(shapes, "classifier.weight", 2, axis) for axis in (0, 1))
        facts["num_classes"] = classes if keep_classifier else 0
    if not parts or fused:
        facts["fusion"] = "mean" if parts and fused == width else "cat"
    return facts


def _guess(names: Mapping[str, str], shapes: Shapes, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Guess what shapes do not show, as published files of the family have it.

    "heads" is 0 where no rule is known.
    """
    tuned, clustered = "bottleneck.weight" in shapes, is_clustered(names)
    guesses: dict[str, Any] = {"heads": usual_heads(facts["width"])}
    if tuned:
        guesses["feature"] = "normalized" if clustered else "before"
    if "fusion" not in facts:
        guesses["fusion"] = "cat"
    if not facts["parts"] and "pooling" not in facts:
        guesses["pooling"] = "cls"
    if "sie_embed" in shapes:
        guesses["sie_weight"] = SIE_WEIGHT
    guesses["mean"], guesses["std"] = (HALF, HALF) if tuned else (IMAGENET_MEAN, IMAGENET_STD)
    guesses["interpolation"] = "bicubic" if clustered else "bilinear"
    return guesses


def _find_input(
    counts: Sequence[int],
    patch: int,
    said: Mapping[str, Any],
    given: Mapping[str, Any],
    hw_ratio: int | None,
) -> tuple[Grid, Grid]:
    """Find the one input size and stride that give the file's number of patches.

    What the caller gives is the file's own where it fits the number, else a wish.

    Args:
        counts: Numbers of patches the table may hold, the likely one first.
        patch, said, given, hw_ratio: As in `interpret`.
    """
    if "claim" in said and "image_size" in said:
        return _check_claim(counts, patch, said, given)
    hints = [hint for hint in (given, said) if {"image_size", "stride"} & hint.keys()]
    sizes = {*_SIZES, *(hint.get("image_size", _SIZES[0]) for hint in hints)}
    steps = {(step, step) for step in (patch, *_STRIDES) if step <= patch}
    steps |= {hint["stride"] for hint in hints if "stride" in hint}
    known = [(size, step) for size in sorted(sizes) for step in sorted(steps, reverse=True)]
    for hint in (*hints, {}):
        for count in counts:
            grid = grid_of(count, (hw_ratio,) if hw_ratio else RATIOS)
            plain = [((grid[0] * patch, grid[1] * patch), (patch, patch))] if grid else []
            fitting = [
                (size, step)
                for size, step in dict.fromkeys([*plain, *known])
                if _patches(size, step, patch, hw_ratio) == count
                and hint.get("image_size") in (None, size)
                and hint.get("stride") in (None, step)
            ]
            # Of a small image, steps a little shorter than a patch make the same grid.
            if len(fitting) == 1 or (fitting and "image_size" in hint):
                return fitting[0]
            if fitting:
                listed = [spell_options({"image_size": a, "stride": b}) for a, b in fitting]
                raise CheckpointError(
                    f"{count} patch positions fit several inputs; say which one it was trained at: "
                    f"{' or '.join(listed)}. Before it is resized or trained further, convert it "
                    "with the right one."
                )
    raise CheckpointError(
        f"{counts[0] if counts else 0} patch positions form no grid of height 2, 3 or 1 times the "
        "width; give the input as in training: --image-size H W --stride S S (image_size=, "
        "stride=, or hw_ratio=)."
    )


def _patches(size: Grid, stride: Grid, patch: int, hw_ratio: int | None = None) -> int:
    """Count the patches of an input; 0 where it is smaller than one, or of another ratio."""
    rows, columns = (
        max((side - patch) // step + 1, 0) for side, step in zip(size, stride, strict=True)
    )
    return rows * columns if hw_ratio in (None, rows / max(columns, 1)) else 0


def _check_claim(
    counts: Sequence[int], patch: int, said: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[Grid, Grid]:
    """Return the input that ModelScope's configuration says, if the weights have its patches."""
    size, stride = said["image_size"], said.get("stride", (patch, patch))
    if said.get("test_size", size) != size and "image_size" not in given:
        raise CheckpointError(
            f"configuration.json: SIZE_TEST is {said['test_size']}, SIZE_TRAIN {size}; say "
            "image_size, and the positions are resampled."
        )
    claimed = _patches(size, stride, patch)
    if claimed not in counts:
        real = grid_of(counts[0])
        fits = f", {real[0] * patch}x{real[1] * patch} pixels" if real else ""
        raise CheckpointError(
            f"configuration.json says {size[0]}x{size[1]} pixels, {claimed} patches, but the "
            f"weights have {counts[0]} patch positions{fits}; correct INPUT.SIZE_TRAIN, or load "
            "the weight file alone with image_size."
        )
    return size, stride


def length(shapes: Shapes, name: str, axes: int, axis: int) -> int:
    """Return one axis of a tensor that must be there with so many axes.

    Raises:
        CheckpointError: It is not.
    """
    shape = shapes.get(name)
    if shape is None:
        raise CheckpointError(f"no tensor '{name}'.")
    if len(shape) != axes or min(shape) < 1:
        raise CheckpointError(f"'{name}' has shape {shape}, expected {axes} axes.")
    return shape[axis]
