"""Infer a foreign file's architecture: from shapes where they show it, else given or assumed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypedDict

from passreid.card import HALF, IMAGENET_MEAN, IMAGENET_STD, STEM_STRIDE, Architecture, Pooling
from passreid.checkpoint.layouts import Layout, is_clustered, usual_heads
from passreid.checkpoint.positions import Grid, grid_of
from passreid.checkpoint.report import spell_options
from passreid.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

_ARCHITECTURE = ("heads", "neck", "fusion", "feature", "pooling", "merge")
PREPROCESSING = ("mean", "std", "interpolation")
SIE_WEIGHT = 3.0  # of TransReID's published runs
# Person and vehicle models with overlapping patches were published at these.
_SIZES = ((256, 128), (384, 128), (256, 192), (384, 192), (256, 256))
_STRIDES = (14, 12, 10, 8)


class Overrides(TypedDict, total=False):
    """Facts about a model that take precedence over its file and configuration.

    Attributes:
        image_size: Input (height, width). If the file's positions do not fit it, they are
            resampled to it.
        stride: Step between patches, likewise.
        heads, neck, fusion, feature, pooling, merge: As in `Architecture`.
        mean, std, interpolation: As in `ModelCard`.
        sie_camera: Camera (from 0) whose embedding a TransReID model with side information adds.
        sie_weight: Factor of that embedding; 3.0 in the published runs.
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


class Interpretation(NamedTuple):
    """How a file is read.

    Attributes:
        stored: Architecture of the file.
        wanted: Architecture of the model; its grid may differ.
        preprocessing: Mean, std and interpolation.
        assumed: Values that nothing and nobody stated.
    """

    stored: Architecture
    wanted: Architecture
    preprocessing: dict[str, Any]
    assumed: dict[str, Any]


def interpret(
    names: Mapping[str, str],
    shapes: Shapes,
    layout: Layout,
    *,
    config: Mapping[str, Any],
    given: Mapping[str, Any],
    keep_classifier: bool,
) -> Interpretation:
    """Infer the network of a foreign file.

    Values that the caller gives take precedence over those of the configuration beside the file
    (see `Source`), and those over what published files of the family have.
    """
    facts = facts_from_shapes(shapes, layout, keep_classifier=keep_classifier)
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
    known = {**config, **given}
    values = {**guesses, **known, "heads": known.get("heads") or guesses["heads"]}
    if not values["heads"]:
        raise CheckpointError(f"width {facts['width']} is not a multiple of 64; give --heads.")
    facts |= {key: values[key] for key in _ARCHITECTURE if key in values}
    rows = _axis(shapes, "pos_embed", 3, 1)
    # timm's no_embed_class models have rows for the patches alone.
    special = (0,) if layout.split_positions else (1 + facts["parts"], 0)
    counts = [rows - count for count in special if rows > count]
    size, stride = _find_input(counts, facts["patch_size"], config, given)
    stored = Architecture(**facts, image_size=size, stride=stride)
    wanted = replace(
        stored, image_size=given.get("image_size", size), stride=given.get("stride", stride)
    )
    assumed: dict[str, Any] = {}
    if wanted.image_size not in (given.get("image_size"), config.get("image_size")):
        assumed["image_size"] = wanted.image_size
    if "stride" not in known:
        assumed["stride"] = wanted.stride
    assumed |= {key: value for key, value in guesses.items() if key not in known}
    return Interpretation(stored, wanted, {key: values[key] for key in PREPROCESSING}, assumed)


def facts_from_shapes(shapes: Shapes, layout: Layout, *, keep_classifier: bool) -> dict[str, Any]:
    """Return the arguments of `Architecture` that tensor shapes determine."""
    width = _axis(shapes, "cls_token", 3, 2)
    hidden = _axis(shapes, "blocks.0.mlp.fc1.weight", 2, 0)
    ratio = hidden / max(width, 1)
    stem = "ics" if "patch_embed.conv.0.weight" in shapes else "none"
    if layout.split_positions:
        parts = sum(bool(re.fullmatch(r"part_token\d+", name)) for name in shapes)
    else:
        parts = _axis(shapes, "reg_token", 3, 1) if "reg_token" in shapes else 0
    facts: dict[str, Any] = {
        "width": width,
        "depth": len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
        # The block takes int(width * ratio); half a row guards against rounding down.
        "mlp_ratio": ratio if int(width * ratio) == hidden else (hidden + 0.5) / width,
        "parts": parts,
        "patch_size": _axis(shapes, "patch_embed.proj.weight", 4, 2) * STEM_STRIDE[stem],
        "stem": stem,
    }
    jpm = "b1.0.norm1.weight" in shapes
    if jpm:
        facts["pooling"] = "jpm"
    neck_width = _axis(shapes, "bottleneck.weight", 1, 0) if "bottleneck.weight" in shapes else 0
    many = jpm or (layout.part_neck and f"{layout.part_neck.format(1)}.weight" in shapes)
    facts["neck"] = "multi" if many or (not neck_width and parts) else "single"
    fused = 0 if many else neck_width
    if layout.classifier and "classifier.weight" in shapes:
        classes, fused = (_axis(shapes, "classifier.weight", 2, axis) for axis in (0, 1))
        facts["num_classes"] = classes if keep_classifier else 0
    if not parts or fused:
        facts["fusion"] = "mean" if parts and fused == width else "cat"
    return facts


def _find_input(
    counts: Sequence[int],
    patch: int,
    config: Mapping[str, Any],
    given: Mapping[str, Any],
) -> tuple[Grid, Grid]:
    """Find the one input size and stride that yield the file's number of patches.

    `counts` are the numbers of patches the table may hold, the likely one first.
    """
    if "claim" in config and "image_size" in config:
        return _check_claim(counts, patch, config, given)
    hints = [hint for hint in (given, config) if {"image_size", "stride"} & hint.keys()]
    sizes = {*_SIZES, *(hint.get("image_size", _SIZES[0]) for hint in hints)}
    steps = {(step, step) for step in (patch, *_STRIDES) if step <= patch}
    steps |= {hint["stride"] for hint in hints if "stride" in hint}
    published = [(size, step) for size in sorted(sizes) for step in sorted(steps, reverse=True)]
    for hint in (*hints, {}):
        for count in counts:
            grid = grid_of(count)
            plain = [((grid[0] * patch, grid[1] * patch), (patch, patch))] if grid else []
            fitting = [
                (size, step)
                for size, step in dict.fromkeys([*plain, *published])
                if _patches(size, step, patch) == count
                and hint.get("image_size") in (None, size)
                and hint.get("stride") in (None, step)
            ]
            # Of a small image, steps a little shorter than a patch make the same grid.
            if len(fitting) == 1 or (fitting and "image_size" in hint):
                return fitting[0]
            if fitting:
                listed = [spell_options({"image_size": a, "stride": b}) for a, b in fitting]
                raise CheckpointError(
                    f"{count} patch positions fit several inputs; give the one it was trained at: "
                    f"{' or '.join(listed)}. To resize it or train it further, convert it with the "
                    "right one first."
                )
    raise CheckpointError(
        f"{counts[0] if counts else 0} patch positions form no grid of height 2, 3 or 1 times the "
        "width; give the training input: --image-size H W --stride S S (image_size=, stride=)."
    )


def _patches(size: Grid, stride: Grid, patch: int) -> int:
    """Count the patches of an input; 0 if it is smaller than a patch."""
    rows, columns = (
        max((side - patch) // step + 1, 0) for side, step in zip(size, stride, strict=True)
    )
    return rows * columns


def _check_claim(
    counts: Sequence[int], patch: int, config: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[Grid, Grid]:
    """Return the input of ModelScope's configuration, if the weights have as many patches."""
    size, stride = config["image_size"], config.get("stride", (patch, patch))
    if config.get("test_size", size) != size and "image_size" not in given:
        raise CheckpointError(
            f"configuration.json: SIZE_TEST is {config['test_size']}, SIZE_TRAIN {size}; give "
            "image_size, and the positions are resampled to it."
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


def _axis(shapes: Shapes, name: str, ndim: int, axis: int) -> int:
    """Return the length of one axis of a tensor that must have `ndim` axes."""
    shape = shapes.get(name)
    if shape is None:
        raise CheckpointError(f"no tensor '{name}'.")
    if len(shape) != ndim or min(shape) < 1:
        raise CheckpointError(f"'{name}' has shape {shape}, expected {ndim} axes.")
    return shape[axis]
