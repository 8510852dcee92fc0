"""A backbone that sees views of two sizes, and its projection heads.

PASS (Zhu et al., ECCV 2022) as released in `PASS/vision_transformer.py`, after DINO (Caron et al.,
ICCV 2021).
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from passreid.model import PartViT
from passreid.pretraining.heads import Heads
from passreid.pretraining.recipe import PretrainRecipe

Grid = tuple[int, int]


class Projected(NamedTuple):
    """A network's output for a batch of views.

    Attributes:
        logits: (n, V, B, K) for each kind of token: n = 1 for CLS, P for parts; V views, the two
            global ones first, of B images.
        cls: Normalised CLS tokens of the global views (2 B, D).
    """

    logits: list[Tensor]
    cls: Tensor


class ViewNetwork(nn.Module):
    """Student or teacher: the transformer of a PartViT and projection heads for its tokens.

    Batches are ordered by view: all images of view 0, then of view 1 and so on.
    """

    def __init__(self, recipe: PretrainRecipe, *, drop_path: float = 0.0) -> None:
        super().__init__()
        a = self.architecture = recipe.architecture
        self.areas, self.positions = recipe.areas, recipe.positions
        self.checkpoint_blocks = recipe.checkpoint_blocks
        self.vit = PartViT(a, drop_path=drop_path).vit
        self.heads = nn.ModuleList(
            Heads(
                count,
                a.width,
                hidden=recipe.hidden,
                bottleneck=recipe.bottleneck,
                out_dim=recipe.out_dim,
                norm_last_layer=recipe.norm_last_layer,
                batch_norm=recipe.head_batch_norm,
            )
            for count in ([1, a.parts] if a.parts else [1])
        )

    def last_layers(self) -> list[nn.Parameter]:
        """Return the parameters of the heads that are frozen at first."""
        return [p for heads in self.heads for p in cast(Heads, heads).last_layer]

    def forward(self, whole: Tensor, local: Tensor | None = None) -> Projected:
        """Project the tokens of global views and, if there are any, of local ones.

        Args:
            whole: Normalised pixels (2 B, 3, H, W).
            local: Normalised pixels (V B, 3, h, w), area by area.
        """
        images, parts = len(whole) // 2, self.architecture.parts
        tokens = self.global_tokens(whole)
        kinds = [tokens[:, :1].transpose(0, 1), tokens[:, 1:].transpose(0, 1)][: len(self.heads)]
        if local is not None and len(local):
            seen = self.local_tokens(local)
            kinds[0] = torch.cat([kinds[0], seen[:, :, 0].reshape(1, -1, seen.shape[-1])], dim=1)
            if parts:
                kinds[1] = torch.cat([kinds[1], seen[:, :, 1]], dim=1)
        logits = [head(rows) for head, rows in zip(self.heads, kinds, strict=True)]
        return Projected([x.unflatten(1, (-1, images)) for x in logits], tokens[:, 0])

    def global_tokens(self, images: Tensor) -> Tensor:
        """Return CLS and all part tokens (2 B, 1 + P, D) of global views."""
        return self._tokens(images, self._special())

    def local_tokens(self, images: Tensor) -> Tensor:
        """Return CLS and the part token of the area each view was drawn from.

        Returns:
            (L, crops * B, 2, D); without areas (1, crops * B, 1, D).
        """
        special = self._special()
        if self.areas:
            cls = special[:, :1].expand(self.areas, -1, -1)
            special = torch.cat([cls, special[0, 1:, None]], dim=1)
        each = len(images) // len(special)
        tokens = self._tokens(images, special.repeat_interleave(each, dim=0))
        by_area: Tensor = tokens.unflatten(0, (len(special), each))
        return by_area

    def _special(self) -> Tensor:
        """Return the tokens before the patches with their positions, (1, 1 + P, D)."""
        vit = self.vit
        assert vit.cls_token is not None and vit.pos_embed is not None
        tokens: Tensor = vit.cls_token
        if vit.reg_token is not None:
            tokens = torch.cat([tokens, vit.reg_token], dim=1)
        special: Tensor = tokens + vit.pos_embed[:, : 1 + self.areas]
        return special

    def _tokens(self, images: Tensor, special: Tensor) -> Tensor:
        """Run the transformer; return the normalised tokens before the patches."""
        vit, a = self.vit, self.architecture
        assert vit.pos_embed is not None
        rows, columns = (
            (side - a.patch_size) // step + 1
            for side, step in zip(images.shape[2:], a.stride, strict=True)
        )
        table = vit.pos_embed[:, 1 + self.areas :]
        table = resample_positions(table, a.grid, (rows, columns), self.positions)
        patches = vit.patch_embed(images) + table
        x = torch.cat([special.expand(len(images), -1, -1), patches], dim=1)
        for block in vit.blocks[:-1]:
            if self.checkpoint_blocks and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        last = _last_block(cast(Block, vit.blocks[-1]), x, special.shape[1])
        return cast(Tensor, vit.norm(last))


def _last_block(block: Block, x: Tensor, count: int) -> Tensor:
    """Run a block for its first `count` tokens: the others are not used, so skip their MLP."""
    x = (x + block.drop_path1(block.ls1(block.attn(block.norm1(x)))))[:, :count]
    return cast(Tensor, x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))))


def resample_positions(table: Tensor, old: Grid, new: Grid, how: str) -> Tensor:
    """Resample patch positions (1, rows * columns, D) to the grid of a view, bicubically.

    Args:
        table: Positions row by row.
        old, new: (rows, columns).
        how: "released" scales by (n + 0.1) / old, even at native size, which shifts the table a
            little; "exact" scales by n / old, and returns a table of the right size unchanged.
    """
    if how == "exact" and old == new:
        return table
    image = table.unflatten(1, old).permute(0, 3, 1, 2)
    if how == "exact":
        image = F.interpolate(image, size=new, mode="bicubic")
    else:
        scale = [(n + 0.1) / o for n, o in zip(new, old, strict=True)]
        image = F.interpolate(image, scale_factor=scale, mode="bicubic")
    return image.permute(0, 2, 3, 1).flatten(1, 2)
