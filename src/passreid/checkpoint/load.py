"""Load any published weights into a PartViT, strictly.

Strict: every tensor the network needs is in the file with its exact shape, and every tensor of the
file is used or belongs to a part known not to matter (an identity classifier, a projection head,
the original's untrained `fc`). Anything else is one error that lists the names.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from passreid.card import Architecture, ModelCard
from passreid.checkpoint import layouts
from passreid.checkpoint.files import Role, is_finite, read_tensors
from passreid.checkpoint.infer import (
    PREPROCESSING,
    SIE_WEIGHT,
    Interpretation,
    Overrides,
    interpret,
)
from passreid.checkpoint.layouts import Layout
from passreid.checkpoint.positions import parts_from_cls, resize_positions
from passreid.checkpoint.report import LoadReport, abbreviate, spell_options
from passreid.checkpoint.sources import NATIVE_CARD, Source, locate
from passreid.config import suggest
from passreid.errors import CheckpointError, ModelNotFoundError, UsageError
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
    **overrides: Unpack[Overrides],
) -> Loaded:
    """Load a model folder or a weight file of any supported layout.

    Facts that a foreign file does not show and nobody gives are assumed, logged as a warning, and
    listed in the report and the card's description.

    Args:
        path: A passreid or ModelScope folder, a folder with one weight file, or a weight file.
        role: Network of a self-supervised checkpoint; "auto" prefers the teacher.
        keep_classifier: Keep the identity classifier; embedding does not need it.
        overrides: See `Overrides`; None means not given.

    Raises:
        ModelNotFoundError: Nothing is there.
        CheckpointError: The file is damaged, not safe to read, does not fit, or fits in several
            ways; the message lists them.
        ConfigError: The model.json is invalid.
        UsageError: An override is unknown or invalid.
    """
    given: dict[str, Any] = {}
    for name, value in overrides.items():
        if name not in Overrides.__annotations__:
            known = list(Overrides.__annotations__)
            raise UsageError(f"Unknown option '{name}'.{suggest(name, known)}")
        if value is not None:
            given[name] = tuple(value) if isinstance(value, list) else value
    for name in given.keys() & {"image_size", "stride"}:
        pair = given[name]
        if not isinstance(pair, tuple) or len(pair) != 2 or min(pair) < 1:
            raise UsageError(f"{name} is {pair}; give two positive numbers: rows and columns.")
    loaded = _load(Path(path), given, role=role, keep_classifier=keep_classifier)
    if loaded.report.assumed:
        log.warning(
            "%s does not say, so assumed: %s", loaded.report.source, loaded.report.assumptions
        )
    return loaded


def load_folder(folder: str | Path) -> tuple[PartViT, ModelCard]:
    """Load a passreid model folder exactly as it was saved."""
    if not (Path(folder) / NATIVE_CARD).is_file():
        raise ModelNotFoundError(f"{folder}: not a passreid model folder (no {NATIVE_CARD}).")
    model, card, _ = load_checkpoint(folder, keep_classifier=True)
    return model, card


def initialise(model: PartViT, path: str | Path | Loaded, *, role: Role = "auto") -> LoadReport:
    """Initialise a model's backbone in place from a file, or from what was loaded from one.

    The model's neck and classifier stay. The position table is resampled to the model's grid. If
    the file has no part tokens (DINO, timm, TransReID-SSL), `positions.parts_from_cls` makes them.

    Raises:
        CheckpointError: As `load_checkpoint`, or the file's network has another width, depth,
            patch size, stem or number of parts.
    """
    a = model.architecture
    hint = {"heads": a.heads, "image_size": a.image_size, "stride": a.stride}
    if isinstance(path, Loaded):
        start, card, report = path
        path = report.source
    else:
        start, card, report = _load(Path(path), {}, role=role, hint=hint)
    b = card.architecture
    for name in ("width", "depth", "heads", "mlp_ratio", "patch_size", "stem"):
        if getattr(a, name) != getattr(b, name):
            theirs, ours = getattr(b, name), getattr(a, name)
            raise CheckpointError(f"{path}: {name} is {theirs}, the model's is {ours}.")
    state = start.vit.state_dict()
    initialised = ["neck and classifier: the model's own, not the file's"]
    if a.parts != b.parts:
        if b.parts or not a.parts:
            raise CheckpointError(f"{path}: has {b.parts} part tokens, the model {a.parts}.")
        state["reg_token"], state["pos_embed"] = parts_from_cls(
            state["cls_token"], state["pos_embed"], b.grid, a.parts
        )
        initialised.append(f"{a.parts} part tokens: copies of CLS, placed in their bands")
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
    keep_classifier: bool = False,
    hint: Mapping[str, Any] | None = None,
) -> Loaded:
    """Read a file or folder strictly and build its model; `hint` replaces its configuration."""
    source = locate(path)
    contents = read_tensors(source.weights, role=role)
    try:
        names, layout = layouts.recognise(contents.tensors)
        tensors = {bare: contents.tensors[name] for bare, name in names.items()}
        if "sie_embed" not in names and (unused := given.keys() & {"sie_camera", "sie_weight"}):
            raise CheckpointError(f"has no side information (SIE); leave out {', '.join(unused)}.")
        if layout is layouts.NATIVE:
            found = _interpret_card(source.card, given, keep_classifier=keep_classifier)
        else:
            found = interpret(
                names,
                {name: tuple(tensor.shape) for name, tensor in tensors.items()},
                layout,
                config=hint or source.config,
                given=given,
                keep_classifier=keep_classifier,
            )
            tensors["pos_embed"] = _complete_table(tensors, found, layout, given)
        network = _on_meta(found.stored)
        state, set_aside = _match(tensors, names, network, layout)
        if found.wanted != found.stored:
            network = _on_meta(found.wanted)
        model, initialised = _fill(network, state, found.stored)
        layout_name = "modelscope" if source.is_modelscope else layout.name
        card = source.card or _describe(source, layout_name, found.assumed)
        current = replace(card, architecture=found.wanted, **found.preprocessing)
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"{source.weights}: {error}") from None
    digest = sha256(source.weights)
    if source.card:
        source.card.check_weights(source.weights, digest)
    if (card.calibration or card.scores) and replace(card, architecture=found.stored) != current:
        current = replace(current, calibration=None, scores={})
        initialised += ("calibration and scores: none, they belong to the model as stored",)
    grids = found.stored.grid, found.wanted.grid
    report = LoadReport(
        source=" ".join([str(source.weights), *contents.chosen]),
        format=layout_name,
        sha256=digest,
        loaded=len(tensors) - sum(len(group) for group in set_aside.values()),
        set_aside={**set_aside, **({_OTHERS: contents.others} if contents.others else {})},
        resized=None if grids[0] == grids[1] else grids,
        initialised=initialised,
        assumed=found.assumed,
    )
    return Loaded(model, current, report)


def _interpret_card(
    card: ModelCard | None, given: Mapping[str, Any], *, keep_classifier: bool
) -> Interpretation:
    """Take the architecture of a passreid file from its card, and apply the caller's changes."""
    if card is None:
        raise CheckpointError(f"passreid weights without a card; put its {NATIVE_CARD} beside it.")
    a = card.architecture if keep_classifier else replace(card.architecture, num_classes=0)
    wanted = replace(a, **{k: v for k, v in given.items() if k not in PREPROCESSING})
    if wanted.neck_width != a.neck_width:
        raise CheckpointError(
            f"its neck does not fit {wanted.neck} neck and {wanted.fusion} fusion."
        )
    preprocessing = {key: given.get(key, getattr(card, key)) for key in PREPROCESSING}
    return Interpretation(a, wanted, preprocessing, {})


def _complete_table(
    tensors: Mapping[str, Tensor], found: Interpretation, layout: Layout, given: Mapping[str, Any]
) -> Tensor:
    """Return the position table with the camera's embedding (TransReID's SIE) and all its rows."""
    table, a = tensors["pos_embed"], found.stored
    if "sie_embed" in tensors:
        cameras, camera = tensors["sie_embed"], given.get("sie_camera")  # (cameras, 1, D)
        if camera is None or not 0 <= camera < len(cameras):
            raise CheckpointError(
                "TransReID with side information (SIE): embeddings depend on the camera. Choose it "
                f"with --sie-camera (sie_camera=), 0 to {len(cameras) - 1}; load once for each "
                "camera."
            )
        table = table + given.get("sie_weight", SIE_WEIGHT) * cameras[camera]
    if not layout.split_positions and table.shape[1] == math.prod(a.grid):
        table = nn.functional.pad(table, (0, 0, 1 + a.parts, 0))  # rows of the special tokens
    return table


def _match(
    tensors: Mapping[str, Tensor], names: Mapping[str, str], network: PartViT, layout: Layout
) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """Map a file's tensors to the network's names, strictly; return also what is set aside."""
    a, wanted = network.architecture, network.state_dict()
    headless = layout is not layouts.NATIVE and not any(n.startswith(_HEADS) for n in tensors)
    if headless or not layout.neck:
        wanted = {name: tensor for name, tensor in wanted.items() if not name.startswith("neck.")}
    spelled = {name: layouts.spell(name, tensor, a, layout) for name, tensor in wanted.items()}
    expected = {bare: tuple(t.shape) for pieces in spelled.values() for bare, t in pieces.items()}
    unused = dict(_UNUSED)
    if a.pooling == "jpm":
        last = "replaced by the jigsaw branches' own"
        unused |= {f"blocks.{a.depth - 1}.": last, "norm.": last}
    set_aside: dict[str, tuple[str, ...]] = {}
    left_over = tensors.keys() - expected.keys()
    for start, why in unused.items():
        if found := {bare for bare in left_over if bare.startswith(start)}:
            set_aside[why] = (*set_aside.get(why, ()), *sorted(names[bare] for bare in found))
            left_over -= found
    _check_fit(tensors, names, expected, left_over)
    state = {}
    for name, pieces in spelled.items():
        parts = [tensors[bare] for bare in pieces]
        axis = 1 if parts[0].ndim == 3 else 0
        value = torch.cat(parts, dim=axis) if len(parts) > 1 and parts[0].ndim else parts[0]
        state[name] = value.float() if value.is_floating_point() else value
    return state, set_aside


def _check_fit(
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    expected: Mapping[str, tuple[int, ...]],
    left_over: set[str],
) -> None:
    """Raise one error that lists everything that does not fit."""
    prefix = names["cls_token"].removesuffix("cls_token") if "cls_token" in names else ""
    present = expected.keys() & tensors.keys()
    problems = {
        "missing": [
            names.get(bare, ("" if bare.startswith(_HEADS) else prefix) + bare)
            for bare in expected.keys() - tensors.keys()
        ],
        "left over": [names[bare] for bare in left_over],
        "of wrong shape": [
            f"{names[bare]} (expected {expected[bare]}, found {tuple(tensors[bare].shape)})"
            for bare in present
            if tuple(tensors[bare].shape) != expected[bare]
        ],
        "not finite": [names[bare] for bare in present if not is_finite(tensors[bare])],
    }
    listed = [
        f"{len(which)} {what}: {abbreviate(sorted(which), 10)}"
        for what, which in problems.items()
        if which
    ]
    if listed:
        raise CheckpointError("does not fit; " + "; ".join(listed) + ".")


def _fill(
    network: PartViT, state: dict[str, Tensor], stored: Architecture
) -> tuple[PartViT, tuple[str, ...]]:
    """Give a network on "meta" the stored one's tensors; return also what is new in it."""
    a = network.architecture
    initialised: tuple[str, ...] = ()
    if "neck.weight" not in state:
        if a.feature != "before":
            raise CheckpointError(f"has no neck, so no feature '{a.feature}'.")
        neck = nn.BatchNorm1d(a.neck_width).state_dict()
        state |= {f"neck.{name}": tensor for name, tensor in neck.items()}
        initialised = ("neck: new, the file has none",)
    table = resize_positions(state["vit.pos_embed"], stored.grid, a.grid, 1 + a.parts)
    model = network.to_empty(device="cpu")
    model.load_state_dict({**state, "vit.pos_embed": table}, strict=True)
    return model.eval(), initialised


def _on_meta(architecture: Architecture) -> PartViT:
    """Build a network of shapes alone, without memory or random numbers."""
    with torch.device("meta"):
        return PartViT(architecture)


def _describe(source: Source, layout_name: str, assumed: Mapping[str, Any]) -> ModelCard:
    path = source.weights
    description = f"Read from {path.name} ({layout_name})."
    if assumed:
        description += f" Assumed, as the file does not say: {spell_options(assumed)}."
    name = path.parent.name if source.is_modelscope else path.stem
    return ModelCard(name=name, description=description)
