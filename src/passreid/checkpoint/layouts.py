"""How each family of files names a PartViT's tensors, and how the families are recognised.

    ours                     PASS, ModelScope           cluster contrast        timm, TransReID
    vit.cls_token            cls_token                  same                    same
    vit.reg_token            part_token1, 2, 3          same                    reg_token
    vit.pos_embed            cls_pos, part1_pos …,      same                    pos_embed
                             pos_embed, concatenated
    vit.patch_embed.stem.*   patch_embed.conv.* (IN, BN)
    vit.*                    *                          *                       *
    neck.* ("multi")         bottleneck, bottleneck_1…  bottleneck_pt1…         bottleneck
    classifier.weight        classifier.weight          -                       classifier.weight

With TransReID's jigsaw branches, the last block and norm are b1.0 and b1.1, jpm.* is b2.*, and each
branch has its own bottleneck, bottleneck_1 …. Prefixes such as `module.`, `backbone.` or `base.`
are stripped.
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
    """One family's naming.

    Attributes:
        name: The family in reports.
        split_positions: One tensor per special token's position instead of one table.
        part_neck: Name of the neck of part or branch i, as a format of i; "" when there is none.
        neck, classifier: Whether its files have these at all.
    """

    name: str
    split_positions: bool = False
    part_neck: str = ""
    neck: bool = True
    classifier: bool = True


NATIVE = Layout("passreid")
PASS = Layout("pass", split_positions=True, part_neck="bottleneck_{}")
CLUSTER_CONTRAST = Layout(
    "cluster-contrast", split_positions=True, part_neck="bottleneck_pt{}", classifier=False
)
TRANSREID = Layout("transreid-jpm", part_neck="bottleneck_{}", classifier=False)
TRANSREID_SSL = Layout("transreid-ssl")
TIMM = Layout("timm", neck=False, classifier=False)

_START = "start from PASS, DINO, iBOT or plain timm weights"
# Tell-tale tensors of networks that are not a PartViT, and what to do; the first match counts.
_FOREIGN = (
    (r"dist_token", "A distilled DeiT, which has a second class token; take the checkpoint of the "
                    "same model without distillation"),
    (r"storage_tokens|rope_embed\..*|.*layer_scale1\.lambda1",
     f"DINOv3, which has rotary positions and layer scale; {_START}"),
    (r"(\w+\.)?embeddings\.cls_token|embeddings\.patch_embeddings\..*",
     "A ViT in the names of Hugging Face transformers; take the same weights from a timm "
     "repository (timm/…), or convert the names"),
    (r"blocks\.0\.(0\.)?ls1\.gamma", f"DINOv2 or DeiT III, which has layer scale; {_START}"),
    (r"blocks\.0\.attn\.(q_bias|relative_position_bias_table)",
     f"BEiT or EVA, whose attention differs; {_START}"),
    (r"norm_pre\.weight|(visual|image_encoder)\..*", f"CLIP's image encoder; {_START}"),
    (r"layers\.0\.blocks\.0\.attn\.relative_position.*",
     "A Swin transformer (SOLIDER); passreid runs plain ViTs only"),
    (r"layer1\.0\.conv1\.weight|conv2\.0\.conv1\..*",
     "A convolutional network (ResNet, OSNet); passreid runs plain ViTs only"),
)  # fmt: skip


def recognise(tensors: Iterable[str]) -> tuple[dict[str, str], Layout]:
    """Strip wrapper prefixes and recognise the family by its tell-tale tensors.

    Returns:
        Bare name -> the file's name, and the family.

    Raises:
        CheckpointError: Two names collide, or the family is not supported.
    """
    names: dict[str, str] = {}
    for name in tensors:
        bare = _PREFIX.sub("", name)
        if bare in names:
            raise CheckpointError(f"holds one tensor twice: '{names[bare]}' and '{name}'.")
        names[bare] = name
    if "vit.cls_token" in names:
        return names, NATIVE
    for pattern, family in _FOREIGN:
        if any(re.fullmatch(pattern, name) for name in names):
            raise CheckpointError(f"{family}.")
    if "cls_token" not in names or "patch_embed.proj.weight" not in names:
        some = ", ".join(sorted(names.values())[:6])
        raise CheckpointError(
            f"not a vision transformer passreid knows ({len(names)} tensors, such as {some})."
        )
    if "blocks.0.attn.qkv.weight" in names and "blocks.0.attn.qkv.bias" not in names:
        raise CheckpointError(
            "missing: blocks.0.attn.qkv.bias. Without it this is TransReID's vit_small, which "
            "scales attention differently; passreid reads its base and DeiT models."
        )
    if "fc_norm.weight" in names and "norm.weight" not in names:
        raise CheckpointError(
            "missing: norm.weight. With fc_norm instead, this ViT pools patches before it "
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
    """Return the attention heads of published ViTs of a width; 0 where there is no rule."""
    return _HEADS.get(width, 0 if width % _HEAD_WIDTH else width // _HEAD_WIDTH)


def is_clustered(names: Mapping[str, str]) -> bool:
    """Return whether the weights come from cluster contrast: a neck on a bare backbone."""
    if "bottleneck_pt1.weight" in names:
        return True
    if {"bottleneck_1.weight", "classifier.weight"} & set(names):
        return False
    return "bottleneck.weight" in names and "base." not in names["cls_token"]


def spell(name: str, value: Tensor, a: Architecture, layout: Layout) -> dict[str, Tensor]:
    """Split one of our tensors into the family's: bare foreign name -> piece.

    Concatenating the pieces in order, along the one axis on which they are shorter, inverts this.
    """
    if layout is NATIVE:
        return {name: value}
    if name.startswith("neck."):
        kind = name.removeprefix("neck")
        if a.neck == "single":
            return {f"bottleneck{kind}": value}
        names = ["bottleneck", *(layout.part_neck.format(i) for i in range(1, a.branches))]
        pieces = value.chunk(a.branches) if value.ndim else [value] * a.branches
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
