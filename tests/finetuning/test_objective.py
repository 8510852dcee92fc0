"""What a step asks of the network beyond the released recipe: dropped patches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from passreid.errors import ConfigError
from passreid.finetuning.recipe import FinetuneConfig
from passreid.model import PartViT
from tests import small

CONFIG = FinetuneConfig(data=Path(), output=Path())


def images() -> torch.Tensor:
    return torch.randn(6, 3, *small.SIZE, generator=torch.Generator().manual_seed(3))


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
