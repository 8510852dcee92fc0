"""Small checkpoints of every layout, made from names and shapes: width 64, depth 2, 64x32."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from passreid.card import Architecture
from passreid.model import PartViT
from tests import plain_vit, seeded

IMAGES = torch.from_numpy(
    np.stack([seeded.signed(seeded.image(name, 64, 32)) for name in ("a", "b")])
)
SUPERVISED = ("bottleneck", "bottleneck_1", "bottleneck_2", "bottleneck_3")
CLUSTERED = ("bottleneck", "bottleneck_pt1", "bottleneck_pt2", "bottleneck_pt3")
TINY = Architecture(width=64, depth=2, heads=1, image_size=(64, 32), num_classes=7)
Tensors = dict[str, Tensor]


def build(shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    return {name: torch.from_numpy(seeded.tensor(name, shape)) for name, shape in shapes.items()}


def fine_tuned(**options: Any) -> Tensors:
    """Return an official fine-tuned checkpoint: width 64, depth 2, 64x32 pixels."""
    return build(seeded.pass_shapes(**options))


def bare(tensors: Tensors) -> Tensors:
    return {name.removeprefix("base."): value for name, value in tensors.items()}


def backbone(**options: Any) -> Tensors:
    """Return what pre-training saves of the backbone: no neck, no classifier, no fc."""
    drop = ("fc.", "classifier.", "bottleneck")
    kept = bare(fine_tuned(**options))
    return {name: value for name, value in kept.items() if not name.startswith(drop)}


def clustered(neck: str) -> Tensors:
    tensors = {**backbone()}
    names = CLUSTERED if neck == "multi" else CLUSTERED[:1]
    for name in names:
        tensors.update(build(seeded.neck_shapes(name, 64 if neck == "multi" else 128)))
    return tensors


def plain(*, patches: int = 8, stem: bool = False, registers: int = 0) -> Tensors:
    """Return a DINO, timm or TransReID-SSL backbone: CLS inside the position table."""
    shapes = seeded.backbone_shapes()
    shapes["cls_token"], shapes["pos_embed"] = (1, 1, 64), (1, 1 + registers + patches, 64)
    if registers:
        shapes["reg_token"] = (1, registers, 64)
    if stem:
        shapes["patch_embed.proj.weight"] = (64, 64, 8, 8)
        for index, (channels, side) in {0: (3, 7), 3: (64, 3), 6: (64, 3)}.items():
            shapes[f"patch_embed.conv.{index}.weight"] = (64, channels, side, side)
        for index in (1, 4):
            norm = f"patch_embed.conv.{index}"
            shapes.update({f"{norm}.IN.weight": (32,), f"{norm}.IN.bias": (32,)})
            shapes.update(seeded.neck_shapes(f"{norm}.BN", 32))
        shapes.update(seeded.neck_shapes("patch_embed.conv.7", 64))
    return build(shapes)


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: value for name, value in tensors.items()}


def dino(student: Tensors, teacher: Tensors) -> dict[str, Any]:
    """Return what a DINO-type training script saves."""
    head = build({"head.mlp_cls.0.weight": (8, 64), "head.last_layer_cls.weight_v": (9, 4)})
    return {
        "student": prefixed("module.backbone.", student) | prefixed("module.", head),
        "teacher": prefixed("backbone.", teacher) | head,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=16, lr=5e-4),
        "dino_loss": {"center_cls": torch.zeros(1, 9)},
    }


def expected(tensors: Tensors, **options: Any) -> Tensor:
    special = plain_vit.tokens(tensors, IMAGES, heads=1, stride=(16, 16))
    return plain_vit.embed(tensors, special, **options)


def assert_same_network(model: PartViT, embedding: Tensor) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(model(IMAGES), embedding, rtol=1e-4, atol=1e-5)


def states(model: PartViT) -> list[Tensor]:
    return list(model.state_dict().values())
