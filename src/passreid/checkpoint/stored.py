"""A weight file or model folder, strictly read into our own tensor names.

Strict: every tensor the network needs is in the file with its exact shape, and every tensor of the
file is used or belongs to a part that is known not to matter (an identity classifier, a projection
head, the original's never trained `fc`). Anything else is one error that lists the names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from passreid.card import HALF, IMAGENET_MEAN, IMAGENET_STD, Architecture, ModelCard
from passreid.checkpoint import layouts
from passreid.checkpoint.files import Role, is_finite, read_tensors
from passreid.checkpoint.layouts import Layout, Sizes
from passreid.checkpoint.modelscope import CONFIGURATION, WEIGHTS, Settings, read_settings
from passreid.checkpoint.report import LoadReport, spell_out
from passreid.errors import CheckpointError, ModelNotFoundError
from passreid.model import PartViT
from passreid.storage import sha256

NATIVE_CARD = "model.json"
NATIVE_WEIGHTS = "model.safetensors"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")

_UNUSED = {
    "classifier.": "identity classifier",
    "fc.": "never used by the original",
    "head.": "projection or classification head of pre-training",
    "fc_norm.": "pooling of a classification head",
}
_OTHERS = "other entries of the file"
_HEADS = ("bottleneck", "classifier.")
_SPELLED = 10


class Source(NamedTuple):
    """Where the weights are, and what stands beside them."""

    weights: Path
    card: ModelCard | None = None
    settings: Settings | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a caller said; see `load_checkpoint`."""

    role: Role = "auto"
    keep_classifier: bool = False
    hw_ratio: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)


class Stored(NamedTuple):
    """A file in our names.

    Attributes:
        state: Our names -> float32 tensors, positions on the file's own grid.
        architecture: Of the file.
        card: Of the model that is wanted; its architecture may have another grid.
        report: So far.
    """

    state: dict[str, Tensor]
    architecture: Architecture
    card: ModelCard
    report: LoadReport


def locate(path: Path) -> Source:
    """Find the weight file of a folder and its description.

    Raises:
        ModelNotFoundError: Nothing is there, or more than one thing might be meant.
    """
    if path.is_file():
        beside = path.parent / NATIVE_CARD
        native = path.name == NATIVE_WEIGHTS and beside.is_file()
        return Source(path, ModelCard.read(beside) if native else None)
    if not path.is_dir():
        raise ModelNotFoundError(f"{path}: no such file or folder.")
    if (path / NATIVE_CARD).is_file():
        return Source(path / NATIVE_WEIGHTS, ModelCard.read(path / NATIVE_CARD))
    settings = None
    if (path / CONFIGURATION).is_file():
        settings = read_settings(path / CONFIGURATION)
        if (path / WEIGHTS).is_file():
            return Source(path / WEIGHTS, settings=settings)
    found = sorted(item for item in path.iterdir() if item.suffix in SUFFIXES and item.is_file())
    if len(found) != 1:
        what = ", ".join(item.name for item in found[:5]) or "none"
        raise ModelNotFoundError(
            f"{path}: expected {NATIVE_WEIGHTS} and {NATIVE_CARD}, {WEIGHTS} and {CONFIGURATION}, "
            f"or a single weight file (found: {what}); pass the file itself."
        )
    return Source(found[0], settings=settings)


def blank(architecture: Architecture) -> PartViT:
    """Build a network without memory: shapes only, no random numbers drawn."""
    with torch.device("meta"):
        return PartViT(architecture)


def read(source: Source, options: Options) -> Stored:
    """Read a located file strictly.

    Raises:
        CheckpointError: Damaged, unsafe, unknown, or not fitting.
    """
    path = source.weights
    contents = read_tensors(path, role=options.role)
    try:
        names = layouts.strip(contents.tensors)
        tensors = {bare: contents.tensors[name] for bare, name in names.items()}
        layout = layouts.recognise(names)
        if layout is layouts.NATIVE:
            a, final = _native(source.card, options)
        else:
            a, final = _foreign(tensors, names, layout, source.settings, options)
            _pad_positions(tensors, a, layout)
        state, aside = _gather(tensors, names, a, layout)
        card = source.card or _card(source, layout, names)
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    if source.card:
        source.card.check_weights(path)
    report = LoadReport(
        source=" ".join([str(path), *contents.chosen]),
        format="modelscope" if source.settings else layout.name,
        sha256=sha256(path),
        loaded=len(tensors) - sum(len(group) for group in aside.values()),
        set_aside={**aside, **({_OTHERS: contents.others} if contents.others else {})},
        initialised=_assumed(names, a, source, options),
    )
    return _complete(Stored(state, a, replace(card, architecture=final), report))


def _assumed(
    names: Mapping[str, str], a: Architecture, source: Source, options: Options
) -> tuple[str, ...]:
    """Say what nothing told: necks of their own for each token fit either fusion."""
    decided = (*options.overrides, *(source.settings.architecture if source.settings else ()))
    tuned = a.parts and a.neck == "multi" and "bottleneck.weight" in names
    if source.card or not tuned or "classifier.weight" in names or "fusion" in decided:
        return ()
    return (f"fusion: {a.fusion}, as the file does not say (released for MSMT17: mean)",)


def _native(card: ModelCard | None, options: Options) -> tuple[Architecture, Architecture]:
    if card is None:
        raise CheckpointError(f"a passreid file; its {NATIVE_CARD} must lie beside it.")
    a = card.architecture
    if not options.keep_classifier:
        a = replace(a, num_classes=0)
    final = replace(a, **options.overrides)
    if final.neck_width != a.neck_width:
        raise CheckpointError(f"its neck does not fit {final.neck} neck and {final.fusion} fusion.")
    return a, final


def _foreign(
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    layout: Layout,
    settings: Settings | None,
    options: Options,
) -> tuple[Architecture, Architecture]:
    """Deduce the file's architecture, and the wanted one."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wanted = dict(options.overrides)
    sizes = Sizes(wanted.pop("image_size", None), wanted.pop("stride", None), options.hw_ratio)
    facts = layouts.deduce(shapes, layout, keep_classifier=options.keep_classifier)
    if layouts.is_clustered(names):
        facts["feature"] = "normalized"
    facts.update({**(settings.architecture if settings else {}), **wanted})
    if not facts["heads"]:
        raise CheckpointError(
            f"width {facts['width']} is no multiple of 64; give load_checkpoint its heads=…."
        )
    if settings and sizes.image_size is None:
        settings.check_test_size()
    rows = layouts.length(shapes, "pos_embed", 3, 1)
    claim = settings.sizes if settings else None
    return layouts.settle(facts, rows, layout, sizes=sizes, claim=claim)


def _pad_positions(tensors: dict[str, Tensor], a: Architecture, layout: Layout) -> None:
    """Give special tokens that are kept out of the table a row of zeros: the same network."""
    table = tensors["pos_embed"]
    if not layout.split_positions and table.shape[1] == math.prod(a.grid):
        tensors["pos_embed"] = torch.nn.functional.pad(table, (0, 0, 1 + a.parts, 0))


def _gather(
    tensors: Mapping[str, Tensor], names: Mapping[str, str], a: Architecture, layout: Layout
) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """Rename and join, after holding every name and shape against the network's."""
    wanted = blank(a).state_dict()
    headless = layout is not layouts.NATIVE and not any(n.startswith(_HEADS) for n in tensors)
    if headless or not layout.neck:
        wanted = {name: tensor for name, tensor in wanted.items() if not name.startswith("neck.")}
    spelled = {name: layouts.spell(name, tensor, a, layout) for name, tensor in wanted.items()}
    expected = {bare: tuple(t.shape) for pieces in spelled.values() for bare, t in pieces.items()}
    aside: dict[str, tuple[str, ...]] = {}
    left = tensors.keys() - expected.keys()
    for start, why in _UNUSED.items():
        if unused := {bare for bare in left if bare.startswith(start)}:
            aside[why] = tuple(sorted(names[bare] for bare in unused))
            left -= unused
    _check_fit(tensors, names, expected, left)
    state = {}
    for name, pieces in spelled.items():
        value = layouts.join([tensors[bare] for bare in pieces])
        state[name] = value.float() if value.is_floating_point() else value
    return state, aside


def _check_fit(
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    expected: Mapping[str, tuple[int, ...]],
    left: Set[str],
) -> None:
    """Raise one error with everything that does not fit."""
    prefix = names["cls_token"].removesuffix("cls_token") if "cls_token" in names else ""
    problems = {
        "missing": [
            names.get(bare, ("" if bare.startswith(_HEADS) else prefix) + bare)
            for bare in expected.keys() - tensors.keys()
        ],
        "left over": [names[bare] for bare in left],
        "of wrong shape": [
            f"{names[bare]} (expected {shape}, found {tuple(tensors[bare].shape)})"
            for bare, shape in expected.items()
            if bare in tensors and tuple(tensors[bare].shape) != shape
        ],
        "not finite": [
            names[bare] for bare in expected.keys() & tensors.keys() if not is_finite(tensors[bare])
        ],
    }
    found = [
        f"{len(which)} {what}: {spell_out(sorted(which), _SPELLED)}"
        for what, which in problems.items()
        if which
    ]
    if found:
        raise CheckpointError("does not fit; " + "; ".join(found) + ".")


def _complete(stored: Stored) -> Stored:
    """Fill what the file has not: a neck, as new; and drop what was measured of another network."""
    final, fresh = stored.card.architecture, list(stored.report.initialised)
    card = stored.card
    if "neck.weight" not in stored.state:
        if final.feature != "before":
            raise CheckpointError(
                f"{stored.report.source}: has no neck, so no feature '{final.feature}'."
            )
        width = final.neck_width
        stored.state.update(
            {f"neck.{name}": t for name, t in nn.BatchNorm1d(width).state_dict().items()}
        )
        fresh.append("neck: new, the file has none")
    if (card.calibration or card.scores) and final != stored.architecture:
        card = replace(card, calibration=None, scores={})
        fresh.append("calibration and scores: none, they are those of the network as stored")
    return stored._replace(card=card, report=replace(stored.report, initialised=tuple(fresh)))


def _card(source: Source, layout: Layout, names: Mapping[str, str]) -> ModelCard:
    """Describe a foreign file: what its family's test code does to pixels."""
    settings = source.settings
    tuned = "bottleneck.weight" in names
    path = source.weights
    mean, std = (HALF, HALF) if tuned else (IMAGENET_MEAN, IMAGENET_STD)
    return ModelCard(
        name=path.parent.name if settings else path.stem,
        mean=settings.mean if settings else mean,
        std=settings.std if settings else std,
        interpolation="bicubic" if layouts.is_clustered(names) else "bilinear",
        description=f"Read from {path.name} ({'modelscope' if settings else layout.name}).",
    )
