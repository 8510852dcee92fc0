"""Any published weights -> a PartViT, strictly.

Strict: every tensor the network needs is in the file with its exact shape, and every tensor of the
file is used or belongs to a part that is known not to matter (an identity classifier, a projection
head, the original's never trained `fc`). Anything else is one error that lists the names.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from passreid.card import Architecture, ModelCard
from passreid.checkpoint import layouts
from passreid.checkpoint.files import Role, is_finite, read_tensors
from passreid.checkpoint.layouts import Layout
from passreid.checkpoint.positions import add_camera, parts_from_cls, resize_positions
from passreid.checkpoint.reading import (
    SIE_WEIGHT,
    Overrides,
    Reading,
    check_given,
    interpret,
    read_card,
)
from passreid.checkpoint.report import LoadReport, spell_options, spell_out
from passreid.checkpoint.sources import NATIVE_CARD, Source, locate
from passreid.errors import CheckpointError, ModelNotFoundError
from passreid.model import PartViT
from passreid.storage import sha256

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger(__name__)

_UNUSED = {
    "classifier": "identity classifier",
    "fc.": "never used by the original",
    "head.": "projection or classification head of pre-training",
    "fc_norm.": "pooling of a classification head",
    "masked_embed": "mask token of pre-training",
    "mask_token": "mask token of pre-training",
    "sie_embed": "side information of cameras, added to the positions",
}
_OTHERS = "other entries of the file"
_HEADS = ("bottleneck", "classifier.")


class Loaded(NamedTuple):
    """A model in evaluation mode, its card, and how it was read."""

    model: PartViT
    card: ModelCard
    report: LoadReport


def load_checkpoint(
    path: str | Path,
    *,
    role: Role = "auto",
    keep_classifier: bool = False,
    hw_ratio: int | None = None,
    **overrides: Unpack[Overrides],
) -> Loaded:
    """Load a model folder or a weight file of any layout passreid knows.

    What a foreign file does not show and nobody says is assumed, logged as a warning, and listed in
    the report and the card's description.

    Args:
        path: A passreid or ModelScope folder, a folder with one weight file, or a weight file.
        role: Which network of a self-supervised checkpoint; "auto" prefers the teacher.
        keep_classifier: Keep the identity classifier; embedding does not need it.
        hw_ratio: Height over width of the file's patch grid where it cannot be told.
        overrides: See `Overrides`; None is as if it were not given.

    Raises:
        ModelNotFoundError: Nothing is there.
        CheckpointError: The file is damaged, not safe to read, does not fit, or fits in several
            ways; the message lists them.
        ConfigError: A model.json that is not valid.
        UsageError: An override that does not exist or cannot be.
    """
    given = check_given(overrides)
    loaded = _load(Path(path), given, role=role, hw_ratio=hw_ratio, keep_classifier=keep_classifier)
    if loaded.report.assumed:
        log.warning(
            "%s does not say, so assumed: %s", loaded.report.source, loaded.report.assumptions
        )
    return loaded


def load_folder(folder: str | Path) -> tuple[PartViT, ModelCard]:
    """Load a passreid model folder exactly as it was saved.

    Raises:
        ModelNotFoundError, CheckpointError, ConfigError: As `load_checkpoint`.
    """
    if not (Path(folder) / NATIVE_CARD).is_file():
        raise ModelNotFoundError(f"{folder}: not a passreid model folder (no {NATIVE_CARD}).")
    model, card, _ = load_checkpoint(folder, keep_classifier=True)
    return model, card


def initialise(
    model: PartViT,
    path: str | Path,
    *,
    role: Role = "auto",
    hw_ratio: int | None = None,
) -> LoadReport:
    """Start a model's backbone from a file; its neck and classifier stay as they are.

    The position table is resampled to the model's grid. A file without part tokens (DINO, timm,
    TransReID-SSL) gives them as `positions.parts_from_cls` says.

    Args:
        model: Changed in place.
        path, role, hw_ratio: As in `load_checkpoint`.

    Raises:
        ModelNotFoundError, CheckpointError, ConfigError: As `load_checkpoint`; also when the
            file's network has another width, depth, patch, stem or number of parts.
    """
    a = model.architecture
    hint = {"heads": a.heads, "image_size": a.image_size, "stride": a.stride}
    start, card, report = _load(Path(path), {}, role=role, hw_ratio=hw_ratio, hint=hint)
    b = card.architecture
    for name in ("width", "depth", "heads", "mlp_ratio", "patch_size", "stem"):
        if getattr(a, name) != getattr(b, name):
            theirs, ours = getattr(b, name), getattr(a, name)
            raise CheckpointError(f"{path}: {name} is {theirs}, the model's is {ours}.")
    state = start.vit.state_dict()
    initialised = ["neck and classifier: the model's own, none of the file's"]
    if a.parts != b.parts:
        if b.parts or not a.parts:
            raise CheckpointError(f"{path}: has {b.parts} part tokens, the model {a.parts}.")
        state["reg_token"], state["pos_embed"] = parts_from_cls(
            state["cls_token"], state["pos_embed"], b.grid, a.parts
        )
        initialised.append(f"{a.parts} part tokens: CLS, placed in their bands")
    state["pos_embed"] = resize_positions(state["pos_embed"], b.grid, a.grid, 1 + a.parts)
    model.vit.load_state_dict(state, strict=True)
    input_ = {"image_size": b.image_size, "stride": b.stride}
    return replace(
        report,
        resized=None if a.grid == b.grid else (b.grid, a.grid),
        initialised=tuple(initialised),
        assumed=input_ if "image_size" in report.assumed else {},
    )


def _load(
    path: Path,
    given: Mapping[str, Any],
    *,
    role: Role,
    hw_ratio: int | None,
    keep_classifier: bool = False,
    hint: Mapping[str, Any] | None = None,
) -> Loaded:
    """Read a file or folder strictly and build its model; `hint` stands in for a configuration."""
    source = locate(path)
    contents = read_tensors(source.weights, role=role)
    try:
        names, layout = layouts.recognise(contents.tensors)
        tensors = {bare: contents.tensors[name] for bare, name in names.items()}
        if "sie_embed" not in names and (idle := given.keys() & {"sie_camera", "sie_weight"}):
            raise CheckpointError(f"has no side information (SIE); leave out {', '.join(idle)}.")
        if layout is layouts.NATIVE:
            reading = read_card(source.card, given, keep_classifier=keep_classifier)
        else:
            reading = interpret(
                names,
                {name: tuple(tensor.shape) for name, tensor in tensors.items()},
                layout,
                said=hint or source.said,
                given=given,
                hw_ratio=hw_ratio,
                keep_classifier=keep_classifier,
            )
            tensors["pos_embed"] = _join_positions(tensors, reading, layout, given)
        state, aside = _gather(tensors, names, reading.stored, layout)
        fresh = _add_neck(state, reading.wanted)
        card = source.card or _describe(source, layout, reading)
        now = replace(card, architecture=reading.wanted, **reading.preprocessing)
        same = replace(card, architecture=reading.stored) == now
        if (card.calibration or card.scores) and not same:
            now = replace(now, calibration=None, scores={})
            fresh += ("calibration and scores: none, they are those of the model as stored",)
        a, final = reading.stored, reading.wanted
        table = resize_positions(state["vit.pos_embed"], a.grid, final.grid, 1 + a.parts)
        model = _blank(final).to_empty(device="cpu")
        model.load_state_dict({**state, "vit.pos_embed": table}, strict=True)
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"{source.weights}: {error}") from None
    if source.card:
        source.card.check_weights(source.weights)
    report = LoadReport(
        source=" ".join([str(source.weights), *contents.chosen]),
        format=source.format if source.format == "modelscope" else layout.name,
        sha256=sha256(source.weights),
        loaded=len(tensors) - sum(len(group) for group in aside.values()),
        set_aside={**aside, **({_OTHERS: contents.others} if contents.others else {})},
        resized=None if a.grid == final.grid else (a.grid, final.grid),
        initialised=fresh,
        assumed=reading.assumed,
    )
    return Loaded(model.eval(), now, report)


def _join_positions(
    tensors: Mapping[str, Tensor], reading: Reading, layout: Layout, given: Mapping[str, Any]
) -> Tensor:
    """Return the position table with what a file keeps out of it; the network stays the same."""
    table, a = tensors["pos_embed"], reading.stored
    if "sie_embed" in tensors:
        weight = given.get("sie_weight", SIE_WEIGHT)
        table = add_camera(table, tensors["sie_embed"], given.get("sie_camera"), weight)
    if not layout.split_positions and table.shape[1] == math.prod(a.grid):
        table = nn.functional.pad(table, (0, 0, 1 + a.parts, 0))  # rows of the special tokens
    return table


def _add_neck(state: dict[str, Tensor], wanted: Architecture) -> tuple[str, ...]:
    """Add the neck that a backbone has not, as new; return what to report."""
    if "neck.weight" in state:
        return ()
    if wanted.feature != "before":
        raise CheckpointError(f"has no neck, so no feature '{wanted.feature}'.")
    neck = nn.BatchNorm1d(wanted.neck_width).state_dict()
    state |= {f"neck.{name}": tensor for name, tensor in neck.items()}
    return ("neck: new, the file has none",)


def _blank(architecture: Architecture) -> PartViT:
    """Build a network without memory: shapes only, no random numbers drawn."""
    with torch.device("meta"):
        return PartViT(architecture)


def _gather(
    tensors: Mapping[str, Tensor], names: Mapping[str, str], a: Architecture, layout: Layout
) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """Rename and join, after holding every name and shape against the network's."""
    wanted = _blank(a).state_dict()
    headless = layout is not layouts.NATIVE and not any(n.startswith(_HEADS) for n in tensors)
    if headless or not layout.neck:
        wanted = {name: tensor for name, tensor in wanted.items() if not name.startswith("neck.")}
    spelled = {name: layouts.spell(name, tensor, a, layout) for name, tensor in wanted.items()}
    expected = {bare: tuple(t.shape) for pieces in spelled.values() for bare, t in pieces.items()}
    unused = dict(_UNUSED)
    if a.pooling == "jpm":
        last = "replaced by the jigsaw branches' own"
        unused |= {f"blocks.{a.depth - 1}.": last, "norm.": last}
    aside: dict[str, tuple[str, ...]] = {}
    left = tensors.keys() - expected.keys()
    for start, why in unused.items():
        if found := {bare for bare in left if bare.startswith(start)}:
            aside[why] = (*aside.get(why, ()), *sorted(names[bare] for bare in found))
            left -= found
    _check_fit(tensors, names, expected, left)
    state = {}
    for name, pieces in spelled.items():
        parts = [tensors[bare] for bare in pieces]
        axis = 1 if parts[0].ndim == 3 else 0
        value = torch.cat(parts, dim=axis) if len(parts) > 1 and parts[0].ndim else parts[0]
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
    there = expected.keys() & tensors.keys()
    wrong = [bare for bare in there if tuple(tensors[bare].shape) != expected[bare]]
    problems = {
        "missing": [
            names.get(bare, ("" if bare.startswith(_HEADS) else prefix) + bare)
            for bare in expected.keys() - tensors.keys()
        ],
        "left over": [names[bare] for bare in left],
        "of wrong shape": [
            f"{names[bare]} (expected {expected[bare]}, found {tuple(tensors[bare].shape)})"
            for bare in wrong
        ],
        "not finite": [names[bare] for bare in there if not is_finite(tensors[bare])],
    }
    found = [
        f"{len(which)} {what}: {spell_out(sorted(which), 10)}"
        for what, which in problems.items()
        if which
    ]
    if found:
        raise CheckpointError("does not fit; " + "; ".join(found) + ".")


def _describe(source: Source, layout: Layout, reading: Reading) -> ModelCard:
    """Describe a foreign file."""
    path, modelscope = source.weights, source.format == "modelscope"
    description = f"Read from {path.name} ({source.format if modelscope else layout.name})."
    if reading.assumed:
        description += f" Assumed, as the file does not say: {spell_options(reading.assumed)}."
    return ModelCard(name=path.parent.name if modelscope else path.stem, description=description)
