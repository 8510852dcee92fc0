"""One step of the released recipe on a ViT-S: losses, gradients, update, running statistics."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from passreid.checkpoint import load_checkpoint
from passreid.checkpoint.layouts import PASS, spell
from passreid.finetuning.finetune import Objective
from passreid.finetuning.optim import grouped_optimizer, set_learning_rates
from passreid.finetuning.recipe import FinetuneConfig
from passreid.model import PartViT
from tests import seeded

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "finetune.npz")
CONFIG = FinetuneConfig(data=Path(), output=Path(), drop_path=0.0)


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the step once: the model before, what the losses were, the model and gradients after."""
    shapes = [ast.literal_eval(str(shape)) for shape in GOLDEN["weight_shapes"]]
    names = [str(name) for name in GOLDEN["weight_names"]]
    path = tmp_path_factory.mktemp("released") / "transformer_120.pth"
    torch.save(
        {n: torch.from_numpy(seeded.tensor(n, s)) for n, s in zip(names, shapes, strict=True)}, path
    )
    model = load_checkpoint(path, keep_classifier=True).model.train()
    model.neck.bias.requires_grad_(False)
    images = np.stack([seeded.signed(seeded.image(f"train{i}", 256, 128)) for i in range(8)])
    optimizer = grouped_optimizer(model, CONFIG)
    set_learning_rates(optimizer, CONFIG, 20)
    pids = torch.from_numpy(GOLDEN["pids"])
    values = Objective(model, CONFIG)(torch.from_numpy(images), pids, None)
    values[0].backward()
    before = foreign({name: p.detach().clone() for name, p in model.named_parameters()}, model)
    gradients = foreign(
        {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, model
    )
    rates = {
        name: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for name, p in model.named_parameters()
        if any(p is member for member in group["params"])
    }
    optimizer.step()
    after = foreign({name: p.detach() for name, p in model.named_parameters()}, model)
    return {
        "values": values.detach().numpy(),
        "gradients": gradients,
        "before": before,
        "after": after,
        "rates": rates,
        "model": model,
    }


def foreign(tensors: dict[str, torch.Tensor], model: PartViT) -> dict[str, np.ndarray]:
    """Cut our tensors into the originals': our one table holds several of theirs."""
    pieces: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        for original, piece in spell(name, tensor, model.architecture, PASS).items():
            pieces[original] = piece.detach().double().numpy()
    return pieces


def bare(name: Any) -> str:
    return str(name).removeprefix("base.")


def relative(ours: Any, theirs: Any) -> float:
    return float(np.linalg.norm(np.subtract(ours, theirs)) / np.linalg.norm(theirs))


def test_losses(step: dict[str, Any]) -> None:
    total, identity, triplet, _ = step["values"]
    assert relative(identity, GOLDEN["loss_id_f64"]) < 2e-6
    assert relative(triplet, GOLDEN["loss_triplet_f64"]) < 2e-5
    assert relative(total, GOLDEN["loss_total_f64"]) < 5e-6


def test_gradients_of_the_watched_tensors(step: dict[str, Any]) -> None:
    for name, norm, first in zip(
        GOLDEN["watched"], GOLDEN["grad_norm_f64"], GOLDEN["grad_first_f64"], strict=True
    ):
        ours = step["gradients"][bare(name)]
        assert abs(np.linalg.norm(ours) / norm - 1) < 2e-5, name
        assert relative(ours.ravel()[:16], first) < 1e-4, name


def test_gradient_norm_of_every_tensor(step: dict[str, Any]) -> None:
    ours = [step["gradients"].get(bare(name)) for name in GOLDEN["param_names"]]
    norms = np.array([-1.0 if g is None else np.linalg.norm(g) for g in ours])
    expected = GOLDEN["grad_norm_all_f64"]
    assert ((norms < 0) == (expected < 0)).all()
    assert relative(norms, expected) < 2e-5
    # The smallest gradients carry float32 noise of the whole backward pass.
    np.testing.assert_allclose(norms, expected, rtol=2e-4, atol=1e-5)


def test_learning_rate_and_decay_of_every_tensor(step: dict[str, Any]) -> None:
    names = [bare(name) for name in GOLDEN["param_names"]]
    expected = dict(zip(names, GOLDEN["lr_wd_epoch21"], strict=True))
    for name, (rate, decay) in step["rates"].items():
        parameter = dict(step["model"].named_parameters())[name]
        for original in spell(name, parameter, step["model"].architecture, PASS):
            np.testing.assert_allclose((rate, decay), expected[original], rtol=1e-12)


def test_the_sgd_update(step: dict[str, Any]) -> None:
    names = [bare(name) for name in GOLDEN["watched"]]
    after = [np.linalg.norm(step["after"][name]) for name in names]
    update = [np.linalg.norm(step["after"][name] - step["before"][name]) for name in names]
    assert relative(after, GOLDEN["sgd_param_norm_f64"]) < 1e-6
    assert relative(update, GOLDEN["sgd_update_norm_f64"]) < 1e-4
    # Each on its own is bounded by what subtracting two float32 tensors leaves of a small update.
    np.testing.assert_allclose(update, GOLDEN["sgd_update_norm_f64"], rtol=2e-3)


def test_running_statistics_of_the_necks(step: dict[str, Any]) -> None:
    neck = step["model"].neck
    for ours, theirs in ((neck.running_mean, "mean"), (neck.running_var, "var")):
        expected = GOLDEN[f"bn_running_{theirs}_f64"]
        assert relative(ours.view(4, -1).numpy(), expected) < 1e-5
