"""How each family of files spells a PartViT's tensors: reversible tables, and telling them apart.

    ours                     PASS, ModelScope           cluster contrast        DINO, timm, SSL
    vit.cls_token            cls_token                  same                    same
    vit.reg_token            part_token1, 2, 3          same                    reg_token
    vit.pos_embed            cls_pos, part1_pos …,      same                    pos_embed
                             pos_embed, joined
    vit.patch_embed.stem.*   patch_embed.conv.* (IN, BN)
    vit.*                    *                          *                       *
    neck.* ("multi")         bottleneck, bottleneck_1…  bottleneck_pt1…         bottleneck
    classifier.weight        classifier.weight          -                       classifier.weight

Files add `module.`, `backbone.` or `base.` in front; reading takes any of them off.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from passreid.card import STEM_STRIDE, Architecture
from passreid.checkpoint.positions import RATIOS, Grid, grid_of
from passreid.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

_PREFIX = re.compile(r"^(?:(?:module|backbone|base|_orig_mod)\.)+")
HEAD_WIDTH = 64  # of every ViT these files come from; `heads` overrides it


@dataclass(frozen=True)
class Sizes:
    """Input (height, width), patch stride, and the ratio of a grid that cannot be guessed."""

    image_size: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    hw_ratio: int | None = None


@dataclass(frozen=True)
class Layout:
    """One family's spelling.

    Attributes:
        name: How the family is called in reports and by `save_as`.
        prefix: What its files put before a backbone tensor's name.
        split_positions: One tensor per special token's position instead of one table.
        part_neck: The neck of part i, as a format of i; "" when parts have none of their own.
        neck, classifier: Whether its files have these at all.
    """

    name: str
    prefix: str = ""
    split_positions: bool = False
    part_neck: str = ""
    neck: bool = True
    classifier: bool = True


NATIVE = Layout("passreid")
PASS = Layout("pass", "base.", split_positions=True, part_neck="bottleneck_{}")
CLUSTER_CONTRAST = Layout(
    "cluster-contrast",
    "module.",
    split_positions=True,
    part_neck="bottleneck_pt{}",
    classifier=False,
)
TRANSREID_SSL = Layout("transreid-ssl", "base.")
TIMM = Layout("timm", neck=False, classifier=False)


def strip(names: Iterable[str]) -> dict[str, str]:
    """Take wrappers' prefixes off: bare name -> the file's name.

    Raises:
        CheckpointError: Two names become one.
    """
    bare: dict[str, str] = {}
    for name in names:
        short = _PREFIX.sub("", name)
        if short in bare:
            raise CheckpointError(f"holds two tensors for one: '{bare[short]}' and '{name}'.")
        bare[short] = name
    return bare


def recognise(names: Mapping[str, str]) -> Layout:
    """Tell a family by its tell-tale names.

    Args:
        names: Bare name -> the file's name, from `strip`.

    Raises:
        CheckpointError: None of the families passreid reads.
    """
    if "vit.cls_token" in names:
        return NATIVE
    if "cls_token" not in names or "patch_embed.proj.weight" not in names:
        some = ", ".join(sorted(names.values())[:6])
        raise CheckpointError(
            f"not a vision transformer passreid knows ({len(names)} tensors, such as {some})."
        )
    if "part_token1" in names or "cls_pos" in names:
        return CLUSTER_CONTRAST if is_clustered(names) else PASS
    if "bottleneck.weight" in names or "patch_embed.conv.0.weight" in names:
        return TRANSREID_SSL
    return TIMM


def is_clustered(names: Mapping[str, str]) -> bool:
    """Say whether the weights come from cluster contrast: a neck on a bare backbone."""
    if "bottleneck_pt1.weight" in names:
        return True
    if {"bottleneck_1.weight", "classifier.weight"} & set(names):
        return False
    return "bottleneck.weight" in names and "base." not in names["cls_token"]


def deduce(shapes: Shapes, layout: Layout, *, keep_classifier: bool) -> dict[str, Any]:
    """Read an architecture, all but its sizes in pixels, off the shapes of a foreign file.

    Args:
        shapes: By bare name.
        layout: The file's family.
        keep_classifier: Give the model the file's identity classifier, where it has one.

    Returns:
        Arguments of `Architecture`.

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
        "heads": width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 0,
        # The block takes int(width * ratio); half a row guards against rounding down.
        "mlp_ratio": ratio if int(width * ratio) == hidden else (hidden + 0.5) / width,
        "parts": parts,
        "patch_size": length(shapes, "patch_embed.proj.weight", 4, 2) * STEM_STRIDE[stem],
        "stem": stem,
    }
    rows = length(shapes, "bottleneck.weight", 1, 0) if "bottleneck.weight" in shapes else 0
    many = layout.part_neck and f"{layout.part_neck.format(1)}.weight" in shapes
    facts["neck"] = "multi" if many or (not rows and parts) else "single"
    fused = rows if rows and not many else 0
    if "classifier.weight" in shapes:
        classes, fused = (length(shapes, "classifier.weight", 2, axis) for axis in (0, 1))
        facts["num_classes"] = classes if keep_classifier else 0
    facts["fusion"] = "mean" if parts and fused == width else "cat"
    return facts


def settle(
    facts: Mapping[str, Any],
    rows: int,
    layout: Layout,
    *,
    sizes: Sizes,
    claim: Sizes | None = None,
) -> tuple[Architecture, Architecture]:
    """Find the patch grid of a foreign file, and the architecture that is wanted of it.

    Args:
        facts: From `deduce`.
        rows: Of the file's `pos_embed`.
        layout: The file's family.
        sizes: What the caller wants.
        claim: What a configuration beside the file says; it must be true.

    Returns:
        The architecture as stored and as wanted; they differ in image size and stride only.

    Raises:
        CheckpointError: The claim is false, or no known grid has so many patches.
    """
    patch = (facts["patch_size"],) * 2
    # timm keeps special tokens out of the table in some models; then it has the patches alone.
    special = (0,) if layout.split_positions else (1 + facts["parts"], 0)
    counts = [rows - count for count in special]
    claim = claim or Sizes()
    size = sizes.image_size or claim.image_size
    stride = sizes.stride or claim.stride or patch
    final = Architecture(**facts, image_size=size, stride=stride) if size else None
    grid: Grid | None
    if claim.image_size:
        grid = Architecture(**facts, image_size=claim.image_size, stride=claim.stride or patch).grid
        if math.prod(grid) not in counts:
            raise CheckpointError(_false_claim(claim.image_size, grid, counts[0], patch))
    elif final and math.prod(final.grid) in counts:
        grid = final.grid
    else:
        ratios = (sizes.hw_ratio,) if sizes.hw_ratio else RATIOS
        grid = next(filter(None, (grid_of(count, ratios) for count in counts)), None)
    if grid is None:
        raise CheckpointError(
            f"{counts[0]} patch positions form no grid of height 2, 3 or 1 times the width; give "
            "load_checkpoint image_size=… and stride=… as in training, or hw_ratio=…."
        )
    pixels = (grid[0] * patch[0], grid[1] * patch[0])
    final = final or Architecture(**facts, image_size=pixels, stride=stride)
    if final.grid == grid:
        return final, final
    return replace(final, image_size=pixels, stride=patch), final


def spell(name: str, value: Tensor, a: Architecture, layout: Layout) -> dict[str, Tensor]:
    """Write one of our tensors as the family's: bare foreign name -> its piece.

    The way back is `join` on the pieces in this order.
    """
    if layout is NATIVE:
        return {name: value}
    if name.startswith("neck."):
        if a.neck == "single":
            return {name.replace("neck", "bottleneck", 1): value}
        names = ["bottleneck", *(layout.part_neck.format(i + 1) for i in range(a.parts))]
        pieces = value.chunk(1 + a.parts) if value.ndim else [value] * (1 + a.parts)
        kind = name.removeprefix("neck")
        return {theirs + kind: piece for theirs, piece in zip(names, pieces, strict=True)}
    bare = name.removeprefix("vit.").replace("patch_embed.stem.", "patch_embed.conv.")
    bare = bare.replace(".instance.", ".IN.").replace(".batch.", ".BN.")
    count = range(1, 1 + a.parts)
    if layout.split_positions and bare == "reg_token":
        return {f"part_token{i}": value[:, i - 1 : i] for i in count}
    if layout.split_positions and bare == "pos_embed":
        names = ["cls_pos", *(f"part{i}_pos" for i in count)]
        table = {theirs: value[:, i : i + 1] for i, theirs in enumerate(names)}
        return {**table, "pos_embed": value[:, 1 + a.parts :]}
    return {bare: value}


def join(pieces: list[Tensor]) -> Tensor:
    """Put the pieces of one of our tensors together again."""
    first = pieces[0]
    if len(pieces) == 1 or not first.ndim:
        return first
    return torch.cat(pieces, dim=1 if first.ndim == 3 else 0)


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


def _false_claim(size: Grid, grid: Grid, patches: int, patch: Grid) -> str:
    real = grid_of(patches)
    fits = f", {real[0] * patch[0]}x{real[1] * patch[0]} pixels" if real else ""
    return (
        f"configuration.json says {size[0]}x{size[1]} pixels, {math.prod(grid)} patches, but the "
        f"weights have {patches} patch positions{fits}; correct INPUT.SIZE_TRAIN, or load the "
        "weight file alone with image_size."
    )
