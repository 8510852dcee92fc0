"""Token merging: average similar patch tokens (Bolya et al., ICLR 2023, section 3 and appendix A).

After the attention of each block but the last, every second patch token (A) is matched to the most
similar of the others (B) by the cosine of their keys. The `merge` best matched of A are averaged
into their partners, weighted by the number of patches each stands for; attention uses the same
weights. CLS and part tokens are never merged. No training is needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def run_merging(blocks: Any, x: Tensor, *, special: int, merge: int) -> Tensor:
    """Run the blocks of a timm ViT in evaluation, merging after each attention but the last.

    Args:
        blocks: timm's blocks.
        x: Tokens with their positions (B, special + N, D), the special ones first.
        special: Number of CLS and part tokens.
        merge: Patch tokens removed per block, at most half of those left.
    """
    sizes = torch.ones_like(x[..., :1])
    for number, block in enumerate(blocks):
        attention = block.attn
        projected = attention.qkv(block.norm1(x)).unflatten(2, (3, attention.num_heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        # Log size: a token that stands for n patches counts n times in the softmax. Expanded over
        # queries because ONNX Runtime does not broadcast the mask.
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
    """Merge the most similar patch tokens of each image.

    Args:
        x: Tokens (B, special + N, D).
        keys: Features to compare them by (B, special + N, d).
        sizes: Number of patches each stands for (B, special + N, 1).
        special: Leading tokens that are kept unchanged.
        merge: Tokens to remove, at most half of N.

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
    # Weighted sums, with the weights as the last column.
    sums = torch.cat([x * sizes, sizes], dim=2)
    first, second = (sums[:, special + n :: 2] for n in range(2))
    # A one-hot matrix product, because scatter is slower on CPUs.
    onto = (
        partner.gather(1, going).unsqueeze(1) == torch.arange(b.shape[1], device=x.device)[:, None]
    )
    second = second + onto.to(sums.dtype) @ _rows(first, going)
    sums = torch.cat([sums[:, :special], _rows(first, staying), second], dim=1)
    sizes = sums[..., -1:]
    return sums[..., :-1] / sizes, sizes


def _rows(x: Tensor, indices: Tensor) -> Tensor:
    """Gather rows (B, n) of (B, N, D)."""
    return x.gather(1, indices.unsqueeze(2).expand(-1, -1, x.shape[2]))
