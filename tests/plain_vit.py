"""PASS's network written out from its description, on a checkpoint's own tensor names.

Slow and obvious, only for tests: no timm, no part axis, one neck after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Tensors = Mapping[str, Tensor]


def tokens(t: Tensors, images: Tensor, *, heads: int, stride: tuple[int, int]) -> list[Tensor]:
    """Return the normalised CLS and part tokens, each (B, D)."""
    x = everything(t, images, heads=heads, stride=stride)
    count = sum(name in ("cls_token", "part_token1", "part_token2", "part_token3") for name in t)
    count += t["reg_token"].shape[1] if "reg_token" in t else 0
    return [x[:, i] for i in range(count)]


def everything(t: Tensors, images: Tensor, *, heads: int, stride: tuple[int, int]) -> Tensor:
    """Return all normalised tokens, CLS first, (B, tokens, D)."""
    x = before_blocks(t, images, stride=stride)
    block = 0
    while f"blocks.{block}.norm1.weight" in t:
        x = _block(t, f"blocks.{block}.", x, heads)
        block += 1
    return _layer_norm(t, "norm", x)


def jigsaw(t: Tensors, images: Tensor, *, heads: int, stride: tuple[int, int]) -> list[Tensor]:
    """Return TransReID's global token and four local ones, each (B, D)."""
    x = before_blocks(t, images, stride=stride)
    last = max(int(name.split(".")[1]) for name in t if name.startswith("blocks."))
    for block in range(last):
        x = _block(t, f"blocks.{block}.", x, heads)
    found = [_layer_norm(t, "b1.1", _block(t, "b1.0.", x, heads))[:, 0]]
    patches = list(x[:, 1:].unbind(1))
    quarter = len(patches) // 4
    patches = patches[4:] + patches[:4]
    if len(patches) % 2:
        patches.append(patches[-2])
    half = len(patches) // 2
    dealt = [patches[i + part] for i in range(half) for part in (0, half)]
    for run in range(4):
        seen = torch.stack([x[:, 0], *dealt[run * quarter : (run + 1) * quarter]], dim=1)
        found.append(_layer_norm(t, "b2.1", _block(t, "b2.0.", seen, heads))[:, 0])
    return found


def before_blocks(t: Tensors, images: Tensor, *, stride: tuple[int, int]) -> Tensor:
    """Return all tokens with their positions, (B, tokens, D)."""
    x = _stem(t, images)
    scale = 2 if "patch_embed.conv.0.weight" in t else 1
    step = (stride[0] // scale, stride[1] // scale)
    x = F.conv2d(x, t["patch_embed.proj.weight"], t["patch_embed.proj.bias"], stride=step)
    x = x.flatten(2).transpose(1, 2)
    special = [t["cls_token"]]
    special += [t[f"part_token{i}"] for i in (1, 2, 3) if f"part_token{i}" in t]
    special += [t["reg_token"]] if "reg_token" in t else []
    prefix = torch.cat(special, dim=1)
    x = torch.cat([prefix.expand(len(x), -1, -1), x], dim=1)
    if "cls_pos" in t:
        names = ("cls_pos", "part1_pos", "part2_pos", "part3_pos", "pos_embed")
        x = x + torch.cat([t[name] for name in names], dim=1)
    elif t["pos_embed"].shape[1] == x.shape[1]:
        x = x + t["pos_embed"]
    else:
        x = torch.cat([x[:, : prefix.shape[1]], x[:, prefix.shape[1] :] + t["pos_embed"]], dim=1)
    return x


def embed(
    t: Tensors,
    special: list[Tensor],
    *,
    fusion: str = "cat",
    feature: str = "before",
    necks: tuple[str, ...] = ("bottleneck", "bottleneck_1", "bottleneck_2", "bottleneck_3"),
) -> Tensor:
    """Fuse tokens into an embedding; one name in `necks` is the single neck."""
    single = len(necks) == 1
    if feature != "before" and not single:
        special = [batch_norm(t, neck, x) for neck, x in zip(necks, special, strict=True)]
        if feature == "normalized":
            special = [x / x.norm(dim=1, keepdim=True) for x in special]
    cls, *parts = special
    fused = cls
    if parts:
        mean = torch.zeros_like(cls)
        for part in parts:
            mean = mean + part / len(parts)
        fused = torch.cat([cls, mean], dim=1) if fusion == "cat" else (cls + mean) / 2
    if feature == "before" or not single:
        return fused
    fused = batch_norm(t, necks[0], fused)
    return fused / fused.norm(dim=1, keepdim=True) if feature == "normalized" else fused


def batch_norm(t: Tensors, name: str, x: Tensor) -> Tensor:
    """Evaluation-mode BatchNorm over axis 1."""
    view = (1, -1, *[1] * (x.ndim - 2))
    mean, variance = (t[f"{name}.running_{what}"].view(view) for what in ("mean", "var"))
    weight, bias = (t[f"{name}.{what}"].view(view) for what in ("weight", "bias"))
    return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias


def _stem(t: Tensors, x: Tensor) -> Tensor:
    if "patch_embed.conv.0.weight" not in t:
        return x
    for conv, norm, stride, padding in ((0, 1, 2, 3), (3, 4, 1, 1), (6, 7, 1, 1)):
        x = F.conv2d(x, t[f"patch_embed.conv.{conv}.weight"], stride=stride, padding=padding)
        name = f"patch_embed.conv.{norm}"
        if norm == 7:
            x = batch_norm(t, name, x)
        else:
            first, second = x.chunk(2, dim=1)
            mean = first.mean(dim=(2, 3), keepdim=True)
            variance = first.var(dim=(2, 3), keepdim=True, unbiased=False)
            first = (first - mean) / torch.sqrt(variance + 1e-5)
            first = first * t[f"{name}.IN.weight"].view(1, -1, 1, 1)
            first = first + t[f"{name}.IN.bias"].view(1, -1, 1, 1)
            x = torch.cat([first, batch_norm(t, f"{name}.BN", second)], dim=1)
        x = x.clamp(min=0)
    return x


def _block(t: Tensors, name: str, x: Tensor, heads: int) -> Tensor:
    y = _linear(t, f"{name}attn.qkv", _layer_norm(t, f"{name}norm1", x))
    batch, length, width = x.shape
    q, k, v = y.view(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(2, 3) / math.sqrt(width // heads)).softmax(dim=3)
    x = x + _linear(t, f"{name}attn.proj", (weights @ v).transpose(1, 2).flatten(2))
    y = _linear(t, f"{name}mlp.fc1", _layer_norm(t, f"{name}norm2", x))
    y = y * (1 + torch.erf(y / math.sqrt(2))) / 2
    return x + _linear(t, f"{name}mlp.fc2", y)


def _linear(t: Tensors, name: str, x: Tensor) -> Tensor:
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def _layer_norm(t: Tensors, name: str, x: Tensor) -> Tensor:
    mean = x.mean(dim=-1, keepdim=True)
    variance = x.var(dim=-1, keepdim=True, unbiased=False)
    return (x - mean) / torch.sqrt(variance + 1e-6) * t[f"{name}.weight"] + t[f"{name}.bias"]
