"""Clipping, groups, schedules and the teacher's average against loops over the slices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from passreid.errors import ConfigError
from passreid.pretraining.network import ViewNetwork
from passreid.pretraining.optim import (
    build_optimizer,
    clip_gradients,
    pieces,
    rates,
    set_rates,
    update_teacher,
)
from tests.pretraining.tiny import recipe


def network(**changes: object) -> ViewNetwork:
    torch.manual_seed(0)
    return ViewNetwork(recipe(**changes))


@pytest.mark.parametrize("areas", [0, 1, 4])
def test_pieces_are_what_the_original_keeps_apart(areas: int) -> None:
    net = network(areas=areas)
    found = {name: pieces(name, p, net) for name, p in net.named_parameters()}
    assert [p.shape[1] for p in found["vit.pos_embed"]] == [1] * (1 + areas) + [8]
    assert len(found.get("vit.reg_token", [])) == areas
    assert len(found["heads.0.directions"]) == 1
    if areas:
        assert [p.shape for p in found["heads.1.biases.0"]] == [(24,)] * areas
    assert len(found["vit.blocks.0.attn.qkv.weight"]) == 1
    for name, parameter in net.named_parameters():
        assert sum(p.numel() for p in found[name]) == parameter.numel()


def test_each_slice_is_clipped_on_its_own() -> None:
    net = network()
    for parameter in net.parameters():
        scale = torch.rand(parameter.shape[0], *[1] * (parameter.ndim - 1)) * 4
        parameter.grad = torch.randn_like(parameter) * scale
    assert net.vit.pos_embed is not None and net.vit.pos_embed.grad is not None
    net.vit.pos_embed.grad[:, 2] *= 100
    expected, norms = {}, []
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        copy = parameter.grad.clone()
        for piece in pieces(name, copy, net):
            norm = float(piece.double().square().sum().sqrt())
            norms.append(norm)
            if norm > 3:
                piece *= 3 / norm
        expected[name] = copy
    ours = clip_gradients(net, 3.0)
    np.testing.assert_allclose(ours, norms, rtol=1e-5)
    assert 0 < sum(norm > 3 for norm in norms) < len(norms)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-6)


def test_no_limit_only_measures() -> None:
    net = network()
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 5.0)
    assert max(clip_gradients(net, 0.0)) > 100
    assert all((p.grad == 5).all() for p in net.parameters() if p.grad is not None)


def test_gradients_that_are_none_are_left_out() -> None:
    net = network()
    assert net.vit.cls_token is not None
    net.vit.cls_token.grad = torch.ones_like(net.vit.cls_token)
    assert clip_gradients(net, 1.0) == [pytest.approx(32**0.5)]


def test_decay_is_for_tensors_of_two_axes_and_more() -> None:
    net = network(norm_last_layer=False)
    optimizer = build_optimizer(net, recipe())
    now = rates(recipe(), 3, 5)
    set_rates(optimizer, now)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert all(group["lr"] == now.lr for group in optimizer.param_groups)
    for name, parameter in net.named_parameters():
        flat = "bias" in name or "norm" in name
        assert decay[id(parameter)] == (0.0 if flat else now.weight_decay), name


def test_schedules_begin_peak_and_end() -> None:
    r = recipe(epochs=10, warmup_epochs=2, batch_size=128, momentum=0.99)
    found = [rates(r, step, 5) for step in range(50)]
    peak = 5e-4 * 128 / 256
    assert found[0].lr == 0
    assert found[9].lr == found[10].lr == pytest.approx(peak)
    assert found[30].lr == pytest.approx((peak + 1e-6) / 2)
    assert 1e-6 < found[49].lr < 2e-6
    assert found[0].weight_decay == pytest.approx(0.04)
    assert found[25].weight_decay == pytest.approx(0.22)
    assert found[0].momentum == pytest.approx(0.99)
    assert 0.9999 < found[49].momentum < 1
    assert np.diff([f.weight_decay for f in found]).min() > 0
    assert rates(recipe(warmup_epochs=0), 0, 5).lr == pytest.approx(5e-4 * 4 / 256)
    assert rates(recipe(warmup_epochs=1), 0, 1).lr == 0  # a warm-up of one step


def test_teacher_temperature_moves_once_an_epoch() -> None:
    assert {rates(recipe(), step, 5).teacher_temp for step in range(10)} == {0.04}
    r = recipe(epochs=6, warmup_teacher_temp=0.02, warmup_teacher_temp_epochs=3)
    found = [rates(r, 5 * epoch + 4, 5).teacher_temp for epoch in range(6)]
    assert found == pytest.approx([0.02, 0.03, 0.04, 0.04, 0.04, 0.04])


def test_teacher_moves_towards_the_student() -> None:
    teacher, student = network(), network()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))
    before = [p.clone() for p in teacher.parameters()]
    update_teacher(teacher, student, 0.9)
    for old, new, target in zip(before, teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * target)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "smal"}, "Did you mean 'small'"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"areas": -1}, "areas must not be negative"),
        ({"crops": 0}, "an area is seen in local views only"),
        ({"accumulate": 3}, "must divide batch_size"),
        ({"student_temp": 0.0}, "student_temp must be positive"),
        ({"momentum": 1.5}, "momentum must lie between 0 and 1"),
        ({"area_height": 0.0}, "area_height must lie above 0"),
        ({"local_scale": (0.8, 0.1)}, "local_scale must rise"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be positive"),
        ({"image_size": (0, 32)}, "image_size must be at least 1"),
        ({"seed": -1}, "seed must not be negative"),
        ({"out_dim": 1}, "out_dim must be at least 2"),
        ({"local_size": (4, 4)}, "local_size: image_size .* is smaller than a patch"),
        ({"image_size": (4, 4)}, "is smaller than a patch"),
    ],
)
def test_recipes_that_make_no_run_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(**changes)
