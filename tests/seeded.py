"""Weights and images rebuilt from their names, so that stored numbers need no files beside them.

Values follow the recipe the stored numbers were made with: a NumPy generator seeded with the CRC-32
of the tensor's name (as its checkpoint spells it, without ``module.``), scaled in float32.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def tensor(name: str, shape: tuple[int, ...]) -> Array:
    """Return the tensor `name`: float32, or int64 for a BatchNorm's counter."""
    kind = name.rsplit(".", 1)[-1]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind == "weight_g":
        return np.ones(shape, np.float32)
    draw = _generator(name).standard_normal(shape).astype(np.float32)
    if kind == "running_var":
        return np.asarray(np.abs(draw) + np.float32(0.5))
    scale, offset = _scale(name, kind, shape)
    return np.asarray(draw * np.float32(scale) + np.float32(offset))


def _scale(name: str, kind: str, shape: tuple[int, ...]) -> tuple[float, float]:
    if kind.startswith(("cls_", "part", "pos_embed")):
        return 0.5, 0.0
    if kind == "running_mean":
        return 0.1, 0.0
    if kind == "bias" or kind.startswith("center_"):
        return 0.05, 0.0
    if len(shape) == 1:
        return 0.1, 1.0
    gain = 1.5 if ".mlp_" in name else 0.7
    return gain / math.sqrt(math.prod(shape[1:])), 0.0


def image(name: str, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return a uint8 RGB image (height, width, 3): coarse blocks, a quarter of fine ones."""
    generator = _generator("image:" + name)
    coarse, fine = (_blocks(generator, side, height, width) for side in (32, 8))
    return ((3 * coarse + fine) // 4).astype(np.uint8)


def signed(pixels: npt.NDArray[np.uint8]) -> Array:
    """Turn uint8 (H, W, 3) into float32 (3, H, W) in [-1, 1]."""
    planes = pixels.transpose(2, 0, 1).astype(np.float32)
    return np.asarray(planes / np.float32(127.5) - np.float32(1))


def _generator(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def _blocks(
    generator: np.random.Generator, side: int, height: int, width: int
) -> npt.NDArray[np.uint16]:
    shape = (math.ceil(height / side), math.ceil(width / side), 3)
    colours = generator.integers(0, 256, shape).astype(np.uint16)
    return colours.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]


def pass_shapes(
    *,
    width: int = 64,
    depth: int = 2,
    patches: int = 8,
    classes: int = 5,
    neck: str = "multi",
    fusion: str = "cat",
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of an official fine-tuned checkpoint: 180 for depth 12."""
    dim = 2 * width if fusion == "cat" else width
    shapes: dict[str, tuple[int, ...]] = {
        f"base.{name}": shape for name, shape in backbone_shapes(width, depth).items()
    }
    tokens = ["cls_token", "part_token1", "part_token2", "part_token3"]
    tokens += ["cls_pos", "part1_pos", "part2_pos", "part3_pos"]
    shapes.update({f"base.{name}": (1, 1, width) for name in tokens})
    shapes["base.pos_embed"] = (1, patches, width)
    shapes["base.fc.weight"], shapes["base.fc.bias"] = (1000, width), (1000,)
    shapes["classifier.weight"] = (classes, dim)
    names = ["bottleneck"]
    if neck == "multi":
        names += ["bottleneck_1", "bottleneck_2", "bottleneck_3"]
    for name in names:
        shapes.update(neck_shapes(name, width if neck == "multi" else dim))
    return shapes


def backbone_shapes(width: int = 64, depth: int = 2, patch: int = 16) -> dict[str, tuple[int, ...]]:
    """Return the tensors every plain ViT has, without tokens and positions."""
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    layers = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for block in range(depth):
        for layer, (rows, columns) in layers.items():
            shapes[f"blocks.{block}.{layer}.weight"] = (rows * width, columns * width)
            shapes[f"blocks.{block}.{layer}.bias"] = (rows * width,)
        for norm in ("norm1", "norm2"):
            shapes[f"blocks.{block}.{norm}.weight"] = (width,)
            shapes[f"blocks.{block}.{norm}.bias"] = (width,)
    return shapes


def neck_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a BatchNorm."""
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{kind}": (width,) for kind in kinds}, f"{name}.num_batches_tracked": ()}
