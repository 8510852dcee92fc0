"""PartViT: a timm VisionTransformer whose register tokens are PASS's part tokens, and a neck.

Token order is ``[cls, part_1 … part_P, patch_1 … patch_N]`` and the position table has one row for
each of them, so timm's ``VisionTransformer(class_token=True, reg_tokens=P, no_embed_class=False)``
is the network of the paper. Parts are an axis of length ``1 + P``, never three names.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from timm import create_model
from timm.models import checkpoint_seq
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from passreid.card import JPM_BRANCHES, STEM_STRIDE, Architecture
from passreid.merging import run_merging


class Features(NamedTuple):
    """The two sides of the neck, both (B, dim)."""

    before: Tensor
    after: Tensor


class PartViT(nn.Module):
    """A ViT with one CLS and P part tokens, fused into one embedding.

    All rates apply in training only: `drop_path` is the stochastic depth of the last block, rising
    linearly from 0; `patch_drop` is the share of patch tokens dropped from each image.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        patch_drop: float = 0.0,
    ) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.vit = VisionTransformer(
            img_size=a.image_size,
            patch_size=a.patch_size,
            num_classes=0,
            global_pool="",
            embed_dim=a.width,
            depth=a.depth,
            num_heads=a.heads,
            mlp_ratio=a.mlp_ratio,
            reg_tokens=a.parts,
            embed_layer=lambda **_: PatchProjection(a),
            drop_path_rate=drop_path,
            pos_drop_rate=dropout,
            proj_drop_rate=dropout,
            attn_drop_rate=attention_dropout,
            patch_drop_rate=patch_drop,
        )
        if a.pooling == "jpm":  # copies of the last block and norm, for the groups of patches
            vit: Any = self.vit
            self.jpm = nn.Sequential(copy.deepcopy(vit.blocks[-1]), copy.deepcopy(vit.norm))
        # BatchNorm is per channel, so one over the flattened token axis equals one per token. Its
        # bias is frozen at 0 (BNNeck).
        self.neck = nn.BatchNorm1d(a.neck_width)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(a.dim, a.num_classes, bias=False) if a.num_classes else None
        self._initialise()

    def _initialise(self) -> None:
        """Set the original's initial values where timm's differ."""
        positions = self.vit.pos_embed
        assert positions is not None
        for token in (self.vit.cls_token, self.vit.reg_token, positions):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)
        with torch.no_grad():
            positions[:, 0].zero_()
        if self.classifier is not None:
            nn.init.normal_(self.classifier.weight, std=0.001)

    def tokens(self, images: Tensor) -> Tensor:
        """Compute the normalised tokens of the embedding from normalised pixels (B, 3, H, W).

        Returns:
            (B, branches, D): CLS or the pooled patches first, then parts or JPM's branches.
        """
        vit: Any = self.vit
        special, merge = 1 + self.architecture.parts, self.architecture.merge
        if self.architecture.pooling not in ("cls", "jpm"):
            return _pool(vit.forward_features(images), self.architecture.pooling).unsqueeze(1)
        x = self._embedded(images)
        if merge and not self.training:
            x = run_merging(vit.blocks, x, special=special, merge=merge)
            merged: Tensor = vit.norm(x[:, :special])
            return merged
        *earlier, last = vit.blocks
        if vit.grad_checkpointing and self.training:
            x = checkpoint_seq(earlier, x)
        else:
            for block in earlier:
                x = block(x)
        read: Tensor = vit.norm(_read_out(last, x, special))
        if self.architecture.pooling == "jpm":
            read = torch.cat([read, self._jigsaw(x)], dim=1)
        return read

    def _jigsaw(self, x: Tensor) -> Tensor:
        """Compute TransReID's four local tokens (B, 4, D) from the last block's input.

        He et al., ICCV 2021, section 3.3: patches are shifted by four, shuffled in two groups and
        cut into four runs; a block of its own attends from CLS to each run separately.
        """
        cls, patches = x[:, :1], x[:, 1:].roll(-4, dims=1)
        run = patches.shape[1] // JPM_BRANCHES
        if patches.shape[1] % 2:  # the original repeats the second last to make it even
            patches = torch.cat([patches, patches[:, -2:-1]], dim=1)
        dealt = patches.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        runs = dealt[:, : JPM_BRANCHES * run].unflatten(1, (JPM_BRANCHES, run))
        seen = torch.cat([cls.unsqueeze(1).expand(-1, JPM_BRANCHES, -1, -1), runs], dim=2)
        block, norm = self.jpm
        local: Tensor = norm(_read_out(block, seen.flatten(0, 1), 1))[:, 0]
        tokens: Tensor = local.unflatten(0, (-1, JPM_BRANCHES))
        return tokens

    def _embedded(self, images: Tensor) -> Tensor:
        """Compute all tokens with their positions, (B, 1 + P + N, D)."""
        vit: Any = self.vit
        x: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
        return x

    def attend(self, images: Tensor) -> Tensor:
        """Compute the last block's attention from CLS and each part token to the patches.

        Token merging is skipped.

        Returns:
            (B, 1 + P, rows, columns), mean over heads; each map sums to 1 over the patches.
        """
        vit: Any = self.vit
        seen = 1 + self.architecture.parts
        x = self._embedded(images)
        *earlier, last = vit.blocks
        for block in earlier:
            x = block(x)
        projected = last.attn.qkv(last.norm1(x)).unflatten(2, (3, last.attn.num_heads, -1))
        query, key, _ = projected.permute(2, 0, 3, 1, 4).unbind(0)
        scores = last.attn.scale * query[:, :, :seen] @ key.transpose(2, 3)
        # Tokens also attend to each other, so softmax runs over all of them, as in the block.
        patches = scores.softmax(dim=3).mean(dim=1)[:, :, seen:]
        shares = patches / patches.sum(dim=2, keepdim=True)
        maps: Tensor = shares.unflatten(2, self.architecture.grid)
        return maps

    def features(self, tokens: Tensor) -> Features:
        """Fuse tokens (B, branches, D) into the features before and after the neck."""
        before = self.fuse(tokens)
        if self.architecture.neck == "single":
            return Features(before, self.neck(before))
        return Features(before, self.fuse(self.neck(tokens.flatten(1)).view_as(tokens)))

    def fuse(self, tokens: Tensor) -> Tensor:
        """Fuse CLS with the mean of the parts: (B, branches, D) -> (B, dim)."""
        cls = tokens[:, 0]
        if self.architecture.pooling == "jpm":
            return torch.cat([tokens[:, :1], tokens[:, 1:] / JPM_BRANCHES], dim=1).flatten(1)
        if not self.architecture.parts:
            return cls
        parts = tokens[:, 1:].mean(dim=1)
        if self.architecture.fusion == "cat":
            return torch.cat([cls, parts], dim=1)
        return (cls + parts) / 2

    def forward(self, images: Tensor) -> Tensor:
        """Embed: normalised pixels (B, 3, H, W) -> (B, dim), not of unit length."""
        return self.embedding(self.tokens(images))

    def embedding(self, tokens: Tensor) -> Tensor:
        """Compute the embedding of tokens (B, branches, D), on the card's side of the neck."""
        feature = self.architecture.feature
        if feature == "before":
            return self.fuse(tokens)
        if feature == "after":
            return self.features(tokens).after
        # Cluster contrast normalises each branch separately before fusing.
        if self.architecture.neck == "single":
            return F.normalize(self.features(tokens).after, dim=1)
        return self.fuse(F.normalize(self.neck(tokens.flatten(1)).view_as(tokens), dim=2))


def _read_out(block: Any, x: Tensor, special: int) -> Tensor:
    """Return `block(x)[:, :special]`, computing only keys and values for the other tokens.

    For the last block of a network, whose other outputs are not used.
    """
    attention, width = block.attn, x.shape[2]
    y = block.norm1(x)
    weight, bias = attention.qkv.weight, attention.qkv.bias
    query = F.linear(y[:, :special], weight[:width], bias[:width])
    query = query.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
    pair = F.linear(y, weight[width:], bias[width:])
    key, value = pair.unflatten(2, (2, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    shares = attention.attn_drop((attention.scale * query @ key.mT).softmax(dim=3))
    seen = (shares @ value).transpose(1, 2).flatten(2)
    x = x[:, :special] + block.drop_path1(block.ls1(attention.proj_drop(attention.proj(seen))))
    result: Tensor = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    return result


def _pool(tokens: Tensor, pooling: str) -> Tensor:
    """Pool normalised tokens (B, 1 + N, D), CLS first, to (B, D) as PersonViT does."""
    cls, patches = tokens[:, 0], tokens[:, 1:]
    if pooling == "avg":
        return patches.mean(dim=1)
    if pooling == "max":
        return patches.amax(dim=1)
    if pooling == "avg_max":
        fours: Tensor = patches.unflatten(1, (-1, 4)).amax(dim=2)
        return fours.mean(dim=1)
    mean = patches.clamp(min=1e-6).pow(3).mean(dim=1).pow(1 / 3)
    return cls + mean


class PatchProjection(nn.Module):
    """Image -> patch tokens: an optional convolutional stem, then one strided convolution.

    timm's own layer ties stride to patch size; overlapping patches and the stem need this one.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        self.image_size = a.image_size
        self.grid_size = a.grid
        self.num_patches = a.grid[0] * a.grid[1]
        step = STEM_STRIDE[a.stem]
        self.stem, channels = _stem(a.stem)
        self.proj = nn.Conv2d(
            channels,
            a.width,
            kernel_size=a.patch_size // step,
            stride=(a.stride[0] // step, a.stride[1] // step),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Project (B, 3, H, W) to (B, N, D), row by row."""
        patches: Tensor = self.proj(self.stem(images))
        return patches.flatten(2).transpose(1, 2)


class InstanceBatchNorm(nn.Module):
    """IBN: instance norm on the first half of the channels, batch norm on the rest (Pan 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.split = channels // 2
        self.instance = nn.InstanceNorm2d(self.split, affine=True)
        self.batch = nn.BatchNorm2d(channels - self.split)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        return torch.cat([self.instance(x[:, : self.split]), self.batch(x[:, self.split :])], dim=1)


def _stem(kind: str) -> tuple[nn.Sequential, int]:
    """Build a stem and return it with its number of output channels."""
    if kind == "lite0":
        return _lite0()
    # (channels, kernel, stride, normalisation); "ics" is TransReID-SSL's
    rows: dict[str, list[tuple[int, int, int, type[nn.Module]]]] = {
        "none": [],
        "ics": [
            (64, 7, 2, InstanceBatchNorm),
            (64, 3, 1, InstanceBatchNorm),
            (64, 3, 1, nn.BatchNorm2d),
        ],
        "conv4": [
            (48, 3, 2, InstanceBatchNorm),
            (48, 3, 1, nn.BatchNorm2d),
            (96, 3, 2, nn.BatchNorm2d),
            (96, 3, 1, nn.BatchNorm2d),
        ],
    }
    layers: list[nn.Module] = []
    channels = 3
    for width, kernel, stride, norm in rows[kind]:
        layers += [
            nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
        ]
        channels = width
    return nn.Sequential(*layers), channels


def _lite0() -> tuple[nn.Sequential, int]:
    """Build the first five stages of EfficientNet-Lite0 (Tan and Le 2019), 112 channels, stride 8.

    The fourth stage has stride 1 instead of 2, as is usual in re-identification ("last stride", Luo
    et al. 2019).
    """
    net: Any = create_model("efficientnet_lite0", bn_eps=1e-3)
    stages = net.blocks[:5]
    stages[3][0].conv_dw.stride = (1, 1)
    return nn.Sequential(net.conv_stem, net.bn1, *stages), 112


def parameter_count(model: nn.Module) -> int:
    """Count a model's parameters."""
    return sum(p.numel() for p in model.parameters())


def use_fused_attention(model: nn.Module, fused: bool) -> None:
    """Switch between torch's fused attention and timm's plain one.

    Fused is faster forward; on CPUs its backward takes longer than the rest of a training step.
    """
    for module in model.modules():
        settings: Any = module
        if hasattr(module, "fused_attn"):
            settings.fused_attn = fused
