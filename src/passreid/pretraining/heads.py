"""Projection heads, several side by side as one batched product.

PASS (Zhu et al., ECCV 2022) as released in `PASS/vision_transformer.py`, after DINO (Caron et al.,
ICCV 2021).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Heads(nn.Module):
    """Projection heads: three layers, normalisation, and a weight-normalised last layer.

    The tensors of all heads are stacked along their first axis.

    Args:
        count: Number of heads n: one for CLS tokens, P for part tokens.
        width: Width of a token.
        hidden, bottleneck, out_dim: Widths of the layers.
        norm_last_layer: Keep the rows of the last layer at unit length.
        batch_norm: Standardise the hidden units over the batch, also outside training.
    """

    def __init__(
        self,
        count: int,
        width: int,
        *,
        hidden: int = 2048,
        bottleneck: int = 256,
        out_dim: int = 65536,
        norm_last_layer: bool = True,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = [(width, hidden), (hidden, hidden), (hidden, bottleneck)]
        self.weights = nn.ParameterList([torch.empty(count, o, i) for i, o in sizes])
        self.biases = nn.ParameterList([torch.zeros(count, o) for _, o in sizes])
        self.directions = nn.Parameter(torch.empty(count, out_dim, bottleneck))
        self.norm_last_layer = norm_last_layer
        self.lengths = nn.Parameter(
            torch.ones(count, out_dim, 1), requires_grad=not norm_last_layer
        )
        # Not affine, because the next layer's weights scale; the bottleneck has no norm.
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(count * hidden, affine=False, track_running_stats=False)
            for _ in range(2 if batch_norm else 0)
        )
        for weight in self.weights:
            nn.init.trunc_normal_(weight, std=0.02)
        nn.init.uniform_(self.directions, -(bottleneck**-0.5), bottleneck**-0.5)

    @property
    def last_layer(self) -> list[nn.Parameter]:
        """The parameters that are frozen at first."""
        return [self.directions, self.lengths]

    def forward(self, tokens: Tensor) -> Tensor:
        """Project tokens (n, R, D), R of each kind, to logits (n, R, out_dim)."""
        x = tokens
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = _Product.apply(F.gelu(x) if layer else x, weight, False)
            if layer < len(self.norms):
                units = self.norms[layer](x.transpose(0, 1).flatten(1))
                x = units.unflatten(1, (len(x), -1)).transpose(0, 1)
            x = x + bias[:, None]
        cosines: Tensor = _Product.apply(F.normalize(x.float(), dim=2), self.directions, True)
        return cosines if self.norm_last_layer else cosines * self.lengths.mT


class _Product(torch.autograd.Function):
    """x w^T for each head, (n, R, I) and (n, O, I) to (n, R, O), optionally with unit rows of w.

    Plain `bmm(x, w.mT)` returns w's gradient transposed in memory, and weight normalisation makes
    four more tensors of w's size; with 65,536 prototypes these copies were most of a step. Here the
    lengths scale the product instead of w, and the gradient is written once::

        y = x w^T / |w|        dw = (dy / |w|)^T x - w sum_R(dy y) / |w|^2
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, normalise: bool) -> Tensor:
        """Multiply, under autocast in its type."""
        device, dtype = x.device.type, w.dtype
        # On CPUs, casting the long w of the last layer takes longer than a small batch's product.
        if torch.is_autocast_enabled(device) and not (normalise and device == "cpu"):
            dtype = torch.get_autocast_dtype(device)
        x_in, w_in = x.to(dtype), w.to(dtype)
        y = torch.bmm(x_in, w_in.mT)
        scale = None
        if normalise:
            scale = 1 / torch.linalg.vector_norm(w, dim=2).unsqueeze(1)
            y = y.mul_(scale) if y.dtype == scale.dtype else y * scale
        ctx.save_for_backward(x_in, w_in, w, scale, y if normalise else None)
        ctx.dtype = x.dtype
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and w, contiguous."""
        x, w_in, w, scale, y = ctx.saved_tensors
        dy = gradients[0]
        scaled = (dy if scale is None else dy * scale).to(x.dtype)
        dx = torch.bmm(scaled, w_in).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        dw = None
        if ctx.needs_input_grad[1]:
            dw = torch.bmm(scaled.mT, x).to(w.dtype)
            if scale is not None:
                along = (dy * y).sum(dim=1, keepdim=True) * scale.square()
                dw.addcmul_(w, along.mT, value=-1)
        return dx, dw, None
