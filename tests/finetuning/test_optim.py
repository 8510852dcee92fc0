"""Learning rates and parameter groups against the released schedule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from passreid.card import Architecture
from passreid.finetuning.config import FinetuneConfig
from passreid.finetuning.optim import build_optimizer, layer_of, learning_rate, set_learning_rates
from passreid.model import PartViT

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "finetune.npz")
SMALL = Architecture(width=32, depth=2, heads=2, image_size=(32, 16), patch_size=8, stride=(8, 8))


def recipe(**changes: object) -> FinetuneConfig:
    return FinetuneConfig(data=Path(), output=Path(), **changes)  # type: ignore[arg-type]


def test_released_schedule_is_exact() -> None:
    config = recipe()
    ours = [[learning_rate(config, peak, t) for peak in (4e-4, 8e-4)] for t in range(120)]
    np.testing.assert_allclose(ours, GOLDEN["lr_finetune"], rtol=1e-12)


def test_cosine_schedule_starts_at_zero_peaks_after_warmup_and_ends_at_the_floor() -> None:
    config = recipe(schedule="cosine", epochs=10, warmup_epochs=2)
    rates = [learning_rate(config, 4e-4, t) for t in (0, 1, 2, 6, 10)]
    assert rates[0] == 0
    assert rates[1] == pytest.approx(2e-4)
    assert rates[2] == pytest.approx(4e-4)
    assert rates[3] == pytest.approx((4e-4 + 8e-7) / 2)
    assert rates[4] == pytest.approx(8e-7)


def test_groups_double_the_rate_of_biases_and_leave_out_the_frozen_neck_shift() -> None:
    model = PartViT(SMALL)
    optimizer = build_optimizer(model, recipe())
    rates = {
        id(parameter): group["peak"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    named = dict(model.named_parameters())
    assert id(named["neck.bias"]) not in rates
    assert rates[id(named["vit.norm.bias"])] == pytest.approx(8e-4)
    assert rates[id(named["vit.cls_token"])] == pytest.approx(4e-4)
    assert len(rates) == len(named) - 1
    assert all(group["weight_decay"] == 1e-4 for group in optimizer.param_groups)
    set_learning_rates(optimizer, recipe(), 0)
    assert all(group["lr"] == pytest.approx(4e-6) for group in optimizer.param_groups)


def test_layer_decay_and_undecayed_norms() -> None:
    model = PartViT(SMALL)
    config = recipe(layer_decay=0.5, decay_one_dimensional=False, optimizer="adamw", bias_lr=1.0)
    optimizer = build_optimizer(model, config)
    found = {
        id(parameter): (group["peak"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    named = dict(model.named_parameters())
    assert found[id(named["vit.pos_embed"])] == pytest.approx((4e-4 * 0.5**3, 1e-4))
    assert found[id(named["vit.blocks.1.mlp.fc1.weight"])] == pytest.approx((4e-4 * 0.5, 1e-4))
    assert found[id(named["vit.norm.weight"])] == pytest.approx((4e-4, 0.0))
    assert layer_of("neck.weight", model) == 3
