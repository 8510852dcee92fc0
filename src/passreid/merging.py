"""Token merging: patches that say the same go on as one (Bolya et al., ICLR 2023, sections 3, A).

After the attention of each block but the last, every second patch token (A) looks for the most
alike of the others (B) by the cosine of their keys. The `merge` best matched of A are averaged into
their partners, weighted by how many patches a token stands for, and attention counts a token as
often. CLS and part tokens are never merged. Nothing is trained for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def run_merging(blocks: Any, x: Tensor, *, special: int, merge: int) -> Tensor:
    """Run the blocks of a timm ViT in evaluation, merging after each attention but the last.

    Args:
        blocks: timm's.
        x: Tokens with their positions (B, special + N, D), the special ones first.
        special: CLS and part tokens.
        merge: Patch tokens that disappear in a block, at most half of those there are.

    Returns:
        (B, special + what is left, D).
    """
    sizes = torch.ones_like(x[..., :1])
    for number, block in enumerate(blocks):
        attention = block.attn
        projected = attention.qkv(block.norm1(x)).unflatten(2, (3, attention.num_heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        # As if each token were there as often as it stands for; spelled out for every query, as
        # ONNX Runtime wants it.
        often = sizes.log().mT.unsqueeze(1).expand(-1, -1, x.shape[1], -1) if number else None
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=often)
        x = x + block.ls1(attention.proj(seen.transpose(1, 2).flatten(2)))
        if number + 1 < len(blocks):
            x, sizes = merge_alike(x, key.mean(dim=1), sizes, special=special, merge=merge)
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return x


def merge_alike(
    x: Tensor, keys: Tensor, sizes: Tensor, *, special: int, merge: int
) -> tuple[Tensor, Tensor]:
    """Merge the most alike patch tokens of each image.

    Args:
        x: Tokens (B, special + N, D).
        keys: What tells how alike they are (B, special + N, d).
        sizes: Patches each stands for (B, special + N, 1).
        special: Tokens at the front that stay as they are.
        merge: Tokens to lose; of A, so at most half of N.

    Returns:
        Tokens (B, special + N - merge, D) and their sizes.
    """
    merge = min(merge, (x.shape[1] - special) // 2)
    if not merge:
        return x, sizes
    a, b = (F.normalize(keys[:, special + n :: 2], dim=2) for n in range(2))
    alike, partner = (a @ b.mT).max(dim=2)
    order = alike.topk(a.shape[1], dim=1).indices
    going, staying = order[:, :merge], order[:, merge:]
    # Sums, and behind them how many were summed.
    sums = torch.cat([x * sizes, sizes], dim=2)
    first, second = (sums[:, special + n :: 2] for n in range(2))
    # A product with ones and zeros: CPUs scatter more slowly.
    onto = (
        partner.gather(1, going).unsqueeze(1) == torch.arange(b.shape[1], device=x.device)[:, None]
    )
    second = second + onto.to(sums.dtype) @ _rows(first, going)
    sums = torch.cat([sums[:, :special], _rows(first, staying), second], dim=1)
    sizes = sums[..., -1:]
    return sums[..., :-1] / sizes, sizes


def _rows(x: Tensor, indices: Tensor) -> Tensor:
    """Pick rows (B, n) of (B, N, D)."""
    return x.gather(1, indices.unsqueeze(2).expand(-1, -1, x.shape[2]))
