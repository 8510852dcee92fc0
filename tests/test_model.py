"""PartViT: the stored outputs of the original, and a slow network written from the description."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from passreid.card import PRESETS, Architecture
from passreid.checkpoint import Loaded, load_checkpoint
from passreid.images import normalise, read_image, to_pixels
from passreid.model import InstanceBatchNorm, PartViT, parameter_count, use_fused_attention
from tests import plain_vit, seeded

GOLDEN = Path(__file__).parent / "golden"
STORED = np.load(GOLDEN / "model_modelscope.npz")
TINY = Architecture(width=64, depth=2, heads=2, image_size=(64, 32))


def tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Rebuild a seeded checkpoint."""
    return {name: torch.from_numpy(seeded.tensor(name, shape)) for name, shape in shapes.items()}


def modelscope_folder(folder: Path, height: int) -> Path:
    """Write the seeded ViT-B as ModelScope ships it."""
    patches = height // 16 * 8
    shapes = seeded.pass_shapes(width=768, depth=12, patches=patches, classes=751)
    torch.save(tensors(shapes), folder / "pytorch_model.pt")
    size = [height, 128]
    half = [0.5, 0.5, 0.5]
    sections = {
        "INPUT": {"SIZE_TRAIN": size, "SIZE_TEST": size, "PIXEL_MEAN": half, "PIXEL_STD": half},
        "MODEL": {"STRIDE_SIZE": [16, 16], "MULTI_NECK": True, "FEAT_FUSION": "cat"},
        "TEST": {"NECK_FEAT": "before"},
    }
    document = {"framework": "pytorch", "model": {"type": "passvitb", "cfg": sections}}
    (folder / "configuration.json").write_text(json.dumps(document))
    return folder


def inputs(names: Any, loaded: Loaded) -> Tensor:
    """Run stored inputs through the real path: read, resize, normalise."""
    pictures = []
    for name in map(str, names):
        kind, what = name.split(":")
        if kind == "path":
            picture = read_image(STORED[f"file_{what}"].tobytes())
        else:
            height, width = map(int, what.split("_")[1].split("x"))
            picture = read_image(Image.fromarray(seeded.image(what, height, width)))
        pictures.append(to_pixels(picture, loaded.card.architecture.image_size))
    return torch.from_numpy(normalise(np.stack(pictures), loaded.card.mean, loaded.card.std))


def assert_golden(mine: Tensor, stored: Any) -> None:
    """Hold against the original's double-precision numbers at their documented tolerance."""
    difference = mine.numpy().astype(np.float64) - stored
    assert np.abs(difference).max() < 5e-5
    assert np.linalg.norm(difference) / np.linalg.norm(stored) < 1e-5


@pytest.fixture(scope="module")
def vit_b(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The seeded ViT-B at 256x128, through the loader."""
    return load_checkpoint(modelscope_folder(tmp_path_factory.mktemp("vit_b"), 256))


@pytest.mark.slow
def test_modelscope_embeddings_at_256(vit_b: Loaded) -> None:
    images = inputs(STORED["names_256"], vit_b)
    with torch.inference_mode():
        assert_golden(vit_b.model(images), STORED["embedding_256"])


@pytest.mark.slow
def test_modelscope_embeddings_at_384(tmp_path: Path) -> None:
    loaded = load_checkpoint(modelscope_folder(tmp_path, 384))
    images = inputs(STORED["names_384"], loaded)
    with torch.inference_mode():
        assert_golden(loaded.model(images), STORED["embedding_384"])


@pytest.mark.slow
def test_modelscope_variants(vit_b: Loaded) -> None:
    with torch.inference_mode():
        tokens = vit_b.model.tokens(inputs(STORED["names_variants"], vit_b))
    for neck in ("multi", "single"):
        for fusion in ("cat", "mean"):
            a = replace(vit_b.card.architecture, depth=1, neck=neck, fusion=fusion)
            model = PartViT(a).eval()
            names = ["bottleneck", "bottleneck_1", "bottleneck_2", "bottleneck_3"]
            width = 768 if neck == "multi" else a.dim
            necks = [
                tensors(seeded.neck_shapes(name, width))
                for name in (names if neck == "multi" else names[:1])
            ]
            for kind in ("weight", "bias", "running_mean", "running_var"):
                joined = torch.cat([n for part in necks for k, n in part.items() if kind in k])
                model.neck.state_dict()[kind].copy_(joined)
            with torch.inference_mode():
                features = model.features(tokens)
            assert_golden(features.before, STORED[f"multi_{fusion}_before"])
            assert_golden(features.after, STORED[f"{neck}_{fusion}_after"])


def test_official_fine_tuned_vit_s(tmp_path: Path) -> None:
    stored = np.load(GOLDEN / "model_finetuned.npz")
    shapes = seeded.pass_shapes(width=384, depth=12, patches=128, classes=751)
    torch.save(tensors(shapes), tmp_path / "transformer_120.pth")
    model = load_checkpoint(tmp_path / "transformer_120.pth").model
    crops = np.stack([seeded.signed(seeded.image(f"train{i}", 256, 128)) for i in range(8)])
    with torch.inference_mode():
        tokens = model.tokens(torch.from_numpy(crops))
        features = model.features(tokens)
    assert_golden(tokens, stored["tokens"])
    assert_golden(features.after, stored["after"])
    parts = sum(stored["tokens"][:, i] for i in (1, 2, 3)) / 3
    assert_golden(features.before, np.concatenate([stored["tokens"][:, 0], parts], axis=1))


@pytest.mark.parametrize("fusion", ["cat", "mean"])
@pytest.mark.parametrize("neck", ["multi", "single"])
@pytest.mark.parametrize("feature", ["before", "after", "normalized"])
def test_every_variant_is_the_plain_networks(neck: Any, fusion: Any, feature: Any) -> None:
    a = replace(TINY, neck=neck, fusion=fusion, feature=feature)
    model = PartViT(a).eval()
    width = 64 if neck == "multi" else a.dim
    names = tuple(f"neck{i}" for i in range(4 if neck == "multi" else 1))
    necks = {name: tensors(seeded.neck_shapes(name, width)) for name in names}
    for kind in ("weight", "bias", "running_mean", "running_var"):
        joined = torch.cat([necks[name][f"{name}.{kind}"] for name in names])
        model.neck.state_dict()[kind].copy_(joined)
    images = torch.randn(3, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    flat = {key: value for part in necks.values() for key, value in part.items()}
    with torch.inference_mode():
        special = list(model.tokens(images).unbind(1))
        expected = plain_vit.embed(flat, special, fusion=fusion, feature=feature, necks=names)
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("stride", "grid"), [((12, 12), (21, 10)), ((16, 8), (16, 15))])
def test_overlapping_patches_make_the_larger_grid(
    stride: tuple[int, int], grid: tuple[int, int]
) -> None:
    a = replace(TINY, image_size=(256, 128), stride=stride)
    assert a.grid == grid
    model = PartViT(a)
    assert model.vit.pos_embed is not None
    assert model.vit.pos_embed.shape == (1, 4 + grid[0] * grid[1], 64)
    assert model(torch.zeros(1, 3, 256, 128)).shape == (1, 128)


def test_regularisation_sits_where_it_is_asked_for() -> None:
    model = PartViT(replace(TINY, depth=3), drop_path=0.4, dropout=0.1, attention_dropout=0.2)
    rates = {n: m.p for n, m in model.vit.named_modules() if isinstance(m, nn.Dropout)}
    inside = {"attn.attn_drop": 0.2, "attn.proj_drop": 0.1, "mlp.drop1": 0.1, "mlp.drop2": 0.1}
    expected = {f"blocks.{b}.{name}": rate for b in range(3) for name, rate in inside.items()}
    assert rates == expected | {"pos_drop": 0.1, "head_drop": 0.0}
    blocks: Any = model.vit.blocks
    for paths in ("drop_path1", "drop_path2"):
        found = [getattr(getattr(block, paths), "drop_prob", 0.0) for block in blocks]
        assert found == pytest.approx([0.0, 0.2, 0.4])


@pytest.mark.parametrize("parts", [0, 1, 2, 5])
@pytest.mark.parametrize("stem", ["none", "ics", "conv4"])
def test_any_number_of_parts_and_any_stem(parts: int, stem: Any) -> None:
    a = replace(TINY, parts=parts, stem=stem, image_size=(32, 32))
    model = PartViT(a).eval()
    images = torch.zeros(2, 3, 32, 32)
    assert model.tokens(images).shape == (2, 1 + parts, 64)
    assert model(images).shape == (2, a.dim)


def test_one_neck_over_the_tokens_is_one_neck_per_token_in_training_too() -> None:
    model = PartViT(TINY).train()
    tokens = torch.randn(6, 4, 64)
    singles = [nn.BatchNorm1d(64).train() for _ in range(4)]
    after = [neck(tokens[:, i]) for i, neck in enumerate(singles)]
    expected = torch.cat([after[0], sum(after[1:], torch.zeros(6, 64)) / 3], dim=1)
    torch.testing.assert_close(model.features(tokens).after, expected)
    means = torch.cat([neck.running_mean for neck in singles if neck.running_mean is not None])
    torch.testing.assert_close(model.neck.running_mean, means)


def test_instance_batch_norm_splits_the_channels() -> None:
    norm = InstanceBatchNorm(6).eval()
    x = torch.randn(2, 6, 5, 4)
    first = x[:, :3]
    mean = first.mean(dim=(2, 3), keepdim=True)
    variance = first.var(dim=(2, 3), keepdim=True, unbiased=False)
    expected = torch.cat([(first - mean) / torch.sqrt(variance + 1e-5), x[:, 3:]], dim=1)
    torch.testing.assert_close(norm(x), expected, rtol=1e-4, atol=1e-4)


def test_initial_values_are_the_originals() -> None:
    torch.manual_seed(0)
    model = PartViT(replace(TINY, width=256, heads=4, num_classes=400))
    positions, parts = model.vit.pos_embed, model.vit.reg_token
    assert positions is not None and parts is not None and model.classifier is not None
    assert not positions[:, 0].any()
    for values, std in ((positions[:, 1:], 0.02), (parts, 0.02), (model.classifier.weight, 0.001)):
        assert values.std().item() == pytest.approx(std, rel=0.15)
    assert not model.neck.bias.requires_grad and model.neck.weight.requires_grad
    assert model.classifier.bias is None


def test_parameter_totals_of_the_specification() -> None:
    with torch.device("meta"):
        small, base = PartViT(PRESETS["small"]), PartViT(PRESETS["base"])
        large = PartViT(replace(PRESETS["base"], image_size=(384, 128)))
    assert parameter_count(base.vit) == 85_751_040
    assert parameter_count(large.vit) == 85_800_192
    assert parameter_count(small.vit) == 21_641_856


def test_fused_and_plain_attention_agree() -> None:
    model = PartViT(TINY).eval()
    blocks: Any = model.vit.blocks
    images = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        use_fused_attention(model, False)
        assert not any(block.attn.fused_attn for block in blocks)
        plain = model(images)
        use_fused_attention(model, True)
        assert all(block.attn.fused_attn for block in blocks)
        torch.testing.assert_close(model(images), plain, rtol=1e-4, atol=1e-5)


def test_a_model_can_be_saved_by_torch_and_copied() -> None:
    model = PartViT(TINY)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = PartViT(TINY)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    images = torch.randn(1, 3, 64, 32)
    assert torch.equal(model.eval()(images), other.eval()(images))


@pytest.mark.parametrize("training", [False, True])
def test_the_last_block_gives_its_first_tokens_what_timm_gives_them(training: bool) -> None:
    """Only CLS and parts are computed there; values and gradients are those of the whole block."""
    torch.manual_seed(0)
    model = PartViT(TINY).train(training)
    images = torch.randn(3, 3, 64, 32)
    whole = model.vit.forward_features(images)[:, :4]
    read = model.tokens(images)
    torch.testing.assert_close(read, whole)
    weights = torch.randn_like(whole)
    parameters = [p for p in model.vit.parameters() if p.requires_grad]
    expected = torch.autograd.grad((whole * weights).sum(), parameters)
    found = torch.autograd.grad((read * weights).sum(), parameters)
    for theirs, ours in zip(expected, found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
