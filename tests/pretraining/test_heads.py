"""Stacked heads against one module per head, and the hand-written gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from passreid.pretraining.heads import Heads, _Product


def build(count: int = 3, *, norm_last_layer: bool = True) -> Heads:
    torch.manual_seed(0)
    heads = Heads(
        count, 6, hidden=10, bottleneck=4, out_dim=12, norm_last_layer=norm_last_layer
    ).double()
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.copy_(torch.randn_like(parameter))
        if norm_last_layer:
            heads.lengths.fill_(1)
    return heads


def one_head(heads: Heads, number: int) -> tuple[nn.Sequential, Any]:
    """Build head `number` the obvious way, with torch's own weight normalisation."""
    layers: list[nn.Module] = []
    for weight, bias in zip(heads.weights, heads.biases, strict=True):
        linear = nn.Linear(weight.shape[2], weight.shape[1]).double()
        linear.weight.data.copy_(weight[number])
        linear.bias.data.copy_(bias[number])
        layers += [linear, nn.GELU()]
    last: Any = weight_norm(nn.Linear(4, 12, bias=False).double(), dim=0)
    last.parametrizations.weight.original0.data.copy_(heads.lengths[number])
    last.parametrizations.weight.original1.data.copy_(heads.directions[number])
    return nn.Sequential(*layers[:-1]), last


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_matches_one_module_per_head(norm_last_layer: bool) -> None:
    heads = build(norm_last_layer=norm_last_layer)
    tokens = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True)
    ours = heads(tokens)
    pull = torch.randn_like(ours)
    (ours * pull).sum().backward()
    gradient, tokens.grad = tokens.grad, None
    for number in range(3):
        mlp, last = one_head(heads, number)
        # The unit length is taken in float32, as in training under autocast.
        theirs = last(F.normalize(mlp(tokens[number]).float(), dim=1).double())
        (theirs * pull[number]).sum().backward()
        torch.testing.assert_close(ours[number], theirs, rtol=1e-5, atol=1e-6)
        close(_grad(heads.weights[0])[number], _grad(mlp[0].weight))
        close(_grad(heads.biases[1])[number], _grad(mlp[2].bias))
        original = last.parametrizations.weight
        directions = _grad(heads.directions)[number]
        close(directions, _grad(original.original1))
        if not norm_last_layer:
            lengths = _grad(heads.lengths)[number]
            close(lengths, _grad(original.original0))
    close(gradient, tokens.grad)


def close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def _grad(parameter: Any) -> Tensor:
    assert parameter.grad is not None
    return torch.as_tensor(parameter.grad)


@pytest.mark.parametrize("normalise", [True, False])
def test_gradient_by_differences(normalise: bool) -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: _Product.apply(a, b, normalise), (x, w))


def test_gradients_are_contiguous() -> None:
    heads = build()
    heads(torch.randn(3, 5, 6, dtype=torch.float64)).sum().backward()
    assert all(_grad(p).is_contiguous() for p in heads.parameters() if p.requires_grad)


def test_bfloat16_stays_near() -> None:
    heads = build().float()
    tokens = torch.randn(3, 5, 6)
    exact = heads(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        near = heads(tokens)
    near.sum().backward()
    assert near.dtype == torch.float32
    assert _grad(heads.directions).dtype == torch.float32
    assert (near - exact).abs().max() < 0.05
    assert not torch.equal(near, exact)


def test_frozen_lengths_take_no_gradient_and_start_at_one() -> None:
    heads = Heads(2, 6, hidden=10, bottleneck=4, out_dim=12)
    assert not heads.lengths.requires_grad
    assert (heads.lengths == 1).all()
    assert heads.directions.abs().max() <= 0.5
    logits = heads(torch.randn(2, 5, 6))
    assert logits.abs().max() <= 1.0001
    for weight, bias in zip(heads.weights, heads.biases, strict=True):
        assert weight.std().item() == pytest.approx(0.02, rel=0.3)
        assert not bias.any()
    free = Heads(2, 6, norm_last_layer=False, out_dim=12)
    assert free.lengths.requires_grad
    assert {id(p) for p in free.last_layer} == {id(free.directions), id(free.lengths)}


def test_batch_norm_matches_one_module_per_head() -> None:
    torch.manual_seed(0)
    heads = Heads(2, 6, hidden=10, bottleneck=4, out_dim=12, batch_norm=True).double()
    for bias in heads.biases:
        nn.init.normal_(bias)
    tokens = torch.randn(2, 9, 6, dtype=torch.float64)
    for number in range(2):
        mlp, last = one_head(heads, number)
        x = tokens[number]
        for layer in (0, 2):
            linear = mlp[layer]
            assert isinstance(linear, nn.Linear)
            x = nn.functional.linear(x, linear.weight)
            x = F.gelu((x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() + linear.bias)
        theirs = last(F.normalize(mlp[4](x).float(), dim=1).double())
        torch.testing.assert_close(heads(tokens)[number], theirs, rtol=1e-5, atol=1e-6)
    before = heads(tokens)
    heads.eval()
    torch.testing.assert_close(heads(tokens), before)
