"""Learning rates and parameter groups against the released schedule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from passreid.card import Architecture
from passreid.finetuning.optim import grouped_optimizer, learning_rate, set_learning_rates
from passreid.finetuning.recipe import FinetuneConfig
from passreid.model import PartViT

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "finetune.npz")
SMALL = Architecture(width=32, depth=2, heads=2, image_size=(32, 16), patch_size=8, stride=(8, 8))


def recipe(**changes: object) -> FinetuneConfig:
    return FinetuneConfig(data=Path(), output=Path(), **changes)  # type: ignore[arg-type]


def test_released_schedule_is_exact() -> None:
    config = recipe()
    ours = [[learning_rate(config, peak, t) for peak in (4e-4, 8e-4)] for t in range(120)]
    np.testing.assert_allclose(ours, GOLDEN["lr_finetune"], rtol=1e-12)
    for whole in (3, 50):  # within an epoch it stands still
        assert learning_rate(config, 4e-4, whole + 0.9) == learning_rate(config, 4e-4, whole)


def test_cosine_schedule_starts_at_zero_peaks_after_warmup_and_ends_at_the_floor() -> None:
    config = recipe(schedule="cosine", epochs=10, warmup_epochs=2)
    rates = [learning_rate(config, 4e-4, t) for t in (0, 1, 2, 6, 10)]
    assert rates[0] == 0
    assert rates[1] == pytest.approx(2e-4)
    assert rates[2] == pytest.approx(4e-4)
    assert rates[3] == pytest.approx((4e-4 + 8e-7) / 2)
    assert rates[4] == pytest.approx(8e-7)
    only = recipe(schedule="cosine", epochs=2, warmup_epochs=2)
    assert learning_rate(only, 4e-4, 2) == pytest.approx(4e-4)


def test_groups_double_the_rate_of_biases_and_leave_out_the_frozen_neck_shift() -> None:
    model = PartViT(SMALL)
    optimizer = grouped_optimizer(model, recipe())
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
    # What is logged is the rate of the weights, not that of the biases.
    assert set_learning_rates(optimizer, recipe(), 20) == learning_rate(recipe(), 4e-4, 20)


@pytest.mark.parametrize("decayed", [False, True])
def test_every_parameter_has_the_rate_of_its_layer_and_the_decay_of_its_axes(decayed: bool) -> None:
    model = PartViT(SMALL)
    config = recipe(layer_decay=0.5, decay_one_dimensional=decayed, bias_lr=3.0)
    found = {
        id(parameter): (group["peak"], group["weight_decay"])
        for group in grouped_optimizer(model, config).param_groups
        for parameter in group["params"]
    }
    below = {"patch_embed": 3, "cls_token": 3, "reg_token": 3, "pos_embed": 3, "blocks": 2}
    for name, parameter in model.named_parameters():
        if name == "neck.bias":
            continue
        kind, number = name.split(".")[1:3] if "blocks" in name else (name.split(".")[1], "0")
        rate = 4e-4 * 0.5 ** (below.get(kind, 0) - int(number)) * (3 if "bias" in name else 1)
        decay = 1e-4 if decayed or parameter.ndim > 1 else 0.0
        assert found[id(parameter)] == pytest.approx((rate, decay)), name


def test_the_optimizer_is_the_one_that_is_asked_for() -> None:
    model = PartViT(SMALL)
    sgd = grouped_optimizer(model, recipe(momentum=0.8))
    assert isinstance(sgd, torch.optim.SGD)
    assert {group["momentum"] for group in sgd.param_groups} == {0.8}
    assert isinstance(grouped_optimizer(model, recipe(optimizer="adamw")), torch.optim.AdamW)
