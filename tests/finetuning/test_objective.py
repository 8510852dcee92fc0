"""What a step asks of the network beyond the released losses: sides, dropped patches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from passreid.data import make_synthetic
from passreid.errors import ConfigError
from passreid.finetuning.config import FinetuneConfig
from passreid.finetuning.losses import batch_hard_triplet
from passreid.finetuning.run import finetune
from passreid.finetuning.train import Objective
from passreid.model import PartViT
from tests import small

CONFIG = FinetuneConfig(data=Path(), output=Path(), label_smoothing=0.1, triplet_margin=0.3)
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def images() -> torch.Tensor:
    return torch.randn(6, 3, *small.SIZE, generator=torch.Generator().manual_seed(3))


def test_sides_ask_cls_and_parts_each_alone() -> None:
    model = small.network(small.architecture(num_classes=3))
    assert model.classifier is not None
    with torch.no_grad():
        model.classifier.weight.mul_(1000)  # a fresh classifier hardly tells people apart
    values = Objective(model, replace(CONFIG, sides=True))(images(), LABELS, None)
    before, after = model.features(model.tokens(images()))
    weight = model.classifier.weight
    identity, triplet = [], []
    for first, last in ((0, 128), (0, 64), (64, 128)):
        logits = after[:, first:last] @ weight[:, first:last].T
        identity.append(F.cross_entropy(logits, LABELS, label_smoothing=0.1))
        triplet.append(batch_hard_triplet(before[:, first:last], LABELS, margin=0.3).loss)
    for value, parts in ((values[1], identity), (values[2], triplet)):
        expected = parts[0] / 2 + parts[1] / 4 + parts[2] / 4
        torch.testing.assert_close(value, expected)
        assert (value - parts[0]).abs() > 1e-3


def test_sides_need_parts(tmp_path: Path) -> None:
    people = make_synthetic(tmp_path / "people", people=4, cameras=2, size=(64, 32))
    plain = small.folder(tmp_path / "plain", small.architecture(parts=0))
    config = FinetuneConfig(
        data=people.root, output=tmp_path / "run", init=str(plain), sides=True, people=2
    )
    with pytest.raises(ConfigError, match="sides needs"):
        finetune(config, progress=False)
    assert not (tmp_path / "run").exists()


def test_patches_are_dropped_while_training_and_never_after() -> None:
    a = small.architecture()
    model = PartViT(a, patch_drop=0.5)
    model.load_state_dict(small.network(a).state_dict())
    lengths: list[int] = []
    model.vit.blocks[0].register_forward_pre_hook(lambda _, x: lengths.append(x[0].shape[1]))
    patches = a.grid[0] * a.grid[1]
    first, second = (model.train().tokens(images()) for _ in range(2))
    assert not torch.equal(first, second)
    torch.testing.assert_close(model.eval()(images()), small.network(a)(images()))
    kept = 1 + a.parts + patches // 2
    assert lengths == [kept, kept, 1 + a.parts + patches]


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_patch_drop_is_a_share(share: float) -> None:
    with pytest.raises(ConfigError, match="patch_drop"):
        replace(CONFIG, patch_drop=share)
