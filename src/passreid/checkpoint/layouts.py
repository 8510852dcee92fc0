"""How each family of files spells a PartViT's tensors: reversible tables, and telling them apart.

    ours                     PASS, ModelScope           cluster contrast        timm, TransReID
    vit.cls_token            cls_token                  same                    same
    vit.reg_token            part_token1, 2, 3          same                    reg_token
    vit.pos_embed            cls_pos, part1_pos …,      same                    pos_embed
                             pos_embed, joined
    vit.patch_embed.stem.*   patch_embed.conv.* (IN, BN)
    vit.*                    *                          *                       *
    neck.* ("multi")         bottleneck, bottleneck_1…  bottleneck_pt1…         bottleneck
    classifier.weight        classifier.weight          -                       classifier.weight

With TransReID's jigsaw branches, the last block and norm are b1.0 and b1.1, jpm.* is b2.*, and each
branch has its bottleneck, bottleneck_1 …. Files add `module.`, `backbone.` or `base.` in front;
reading takes any of them off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from passreid.card import Architecture
from passreid.errors import CheckpointError

_PREFIX = re.compile(r"^(?:(?:module|backbone|base|_orig_mod|model|net)\.)+")
_HEAD_WIDTH = 64
_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}  # width -> heads of so400m, huge, giant, gigantic


@dataclass(frozen=True)
class Layout:
    """One family's spelling.

    Attributes:
        name: Name of the family in reports and for `save_as`.
        prefix: What its files put before a backbone tensor's name.
        split_positions: One tensor per special token's position instead of one table.
        part_neck: The neck of part or branch i, as a format of i; "" when they have none.
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
TRANSREID = Layout("transreid-jpm", "base.", part_neck="bottleneck_{}", classifier=False)
TRANSREID_SSL = Layout("transreid-ssl", "base.")
TIMM = Layout("timm", neck=False, classifier=False)

_START = "start from PASS, DINO, iBOT or plain timm weights"
# Tell-tale tensors of networks that are not a PartViT, and what to do; the first match counts.
_FOREIGN = (
    (r"dist_token", "a distilled DeiT, whose second class token has no place here; take the "
                    "checkpoint of the same model without distillation"),
    (r"storage_tokens|rope_embed\..*|.*layer_scale1\.lambda1",
     f"DINOv3, which has rotary positions and layer scale; {_START}"),
    (r"(\w+\.)?embeddings\.cls_token|embeddings\.patch_embeddings\..*",
     "a ViT in the names of Hugging Face transformers; take the same weights from a timm "
     "repository (timm/…), or convert the names"),
    (r"blocks\.0\.(0\.)?ls1\.gamma", f"DINOv2 or DeiT III, which has layer scale; {_START}"),
    (r"blocks\.0\.attn\.(q_bias|relative_position_bias_table)",
     f"BEiT or EVA, which has other attention; {_START}"),
    (r"norm_pre\.weight|(visual|image_encoder)\..*", f"CLIP's image encoder; {_START}"),
    (r"layers\.0\.blocks\.0\.attn\.relative_position.*",
     "a Swin transformer (SOLIDER); passreid runs plain ViTs only"),
    (r"layer1\.0\.conv1\.weight|conv2\.0\.conv1\..*",
     "a convolutional network (ResNet, OSNet); passreid runs plain ViTs only"),
)  # fmt: skip


def recognise(tensors: Iterable[str]) -> tuple[dict[str, str], Layout]:
    """Take wrappers' prefixes off a file's names, and tell its family by tell-tale ones.

    Returns:
        Bare name -> the file's name, and the family.

    Raises:
        CheckpointError: Two names become one, or it is none of the families passreid reads; names
            the family and a way.
    """
    names: dict[str, str] = {}
    for name in tensors:
        bare = _PREFIX.sub("", name)
        if bare in names:
            raise CheckpointError(f"holds two tensors for one: '{names[bare]}' and '{name}'.")
        names[bare] = name
    if "vit.cls_token" in names:
        return names, NATIVE
    for pattern, family in _FOREIGN:
        if any(re.fullmatch(pattern, name) for name in names):
            raise CheckpointError(f"{family[0].upper()}{family[1:]}.")
    if "cls_token" not in names or "patch_embed.proj.weight" not in names:
        some = ", ".join(sorted(names.values())[:6])
        raise CheckpointError(
            f"not a vision transformer passreid knows ({len(names)} tensors, such as {some})."
        )
    if "blocks.0.attn.qkv.weight" in names and "blocks.0.attn.qkv.bias" not in names:
        raise CheckpointError(
            "missing: blocks.0.attn.qkv.bias. Without it this is TransReID's vit_small, whose "
            "attention is scaled in its own way; passreid reads its base and DeiT models."
        )
    if "fc_norm.weight" in names and "norm.weight" not in names:
        raise CheckpointError(
            "missing: norm.weight. With fc_norm in its place this ViT pools patches before it "
            "normalises them, which passreid does not; take the pre-trained weights."
        )
    if "part_token1" in names or "cls_pos" in names:
        return names, CLUSTER_CONTRAST if is_clustered(names) else PASS
    if "b1.0.norm1.weight" in names:
        return names, TRANSREID
    if "bottleneck.weight" in names or "patch_embed.conv.0.weight" in names:
        return names, TRANSREID_SSL
    return names, TIMM


def usual_heads(width: int) -> int:
    """Return the heads of published ViTs of a width; 0 where there is no rule."""
    return _HEADS.get(width, 0 if width % _HEAD_WIDTH else width // _HEAD_WIDTH)


def is_clustered(names: Mapping[str, str]) -> bool:
    """Whether the weights come from cluster contrast: a neck on a bare backbone."""
    if "bottleneck_pt1.weight" in names:
        return True
    if {"bottleneck_1.weight", "classifier.weight"} & set(names):
        return False
    return "bottleneck.weight" in names and "base." not in names["cls_token"]


def spell(name: str, value: Tensor, a: Architecture, layout: Layout) -> dict[str, Tensor]:
    """Write one of our tensors as the family's: bare foreign name -> its piece.

    Joined in this order, along the one axis on which they are shorter, they are the tensor again.
    """
    if layout is NATIVE:
        return {name: value}
    if name.startswith("neck."):
        if a.neck == "single":
            return {name.replace("neck", "bottleneck", 1): value}
        count = a.branches
        names = ["bottleneck", *(layout.part_neck.format(i) for i in range(1, count))]
        pieces = value.chunk(count) if value.ndim else [value] * count
        kind = name.removeprefix("neck")
        return {theirs + kind: piece for theirs, piece in zip(names, pieces, strict=True)}
    bare = name.removeprefix("vit.").replace("patch_embed.stem.", "patch_embed.conv.")
    bare = bare.replace(".instance.", ".IN.").replace(".batch.", ".BN.")
    if a.pooling == "jpm":
        last = f"blocks.{a.depth - 1}."
        for ours, theirs in ((last, "b1.0."), ("norm.", "b1.1."), ("jpm.", "b2.")):
            if bare.startswith(ours):
                return {bare.replace(ours, theirs, 1): value}
    if layout.split_positions and bare == "reg_token":
        return {f"part_token{i + 1}": value[:, i : i + 1] for i in range(a.parts)}
    if layout.split_positions and bare == "pos_embed":
        names = ["cls_pos", *(f"part{i + 1}_pos" for i in range(a.parts))]
        table = {theirs: value[:, i : i + 1] for i, theirs in enumerate(names)}
        return {**table, "pos_embed": value[:, 1 + a.parts :]}
    return {bare: value}
