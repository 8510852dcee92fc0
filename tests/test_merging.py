"""Token merging: a slow version written from its description, and a network that merges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from passreid.backends.onnx import OnnxBackend
from passreid.backends.openvino import OpenVinoBackend
from passreid.card import Architecture, ModelCard
from passreid.checkpoint import load_checkpoint, save_as
from passreid.errors import CheckpointError
from passreid.exporting import write_graph
from passreid.exporting.graph import too_far
from passreid.merging import merge_alike
from passreid.model import PartViT
from tests import small

ARCHITECTURE = small.architecture(patch_size=8, stride=(8, 8), depth=3)  # 32 patches


def slowly(x: Tensor, keys: Tensor, sizes: Tensor, special: int, merge: int) -> list[set[float]]:
    """Merge the tokens of one image one after the other; as sets, for their order is free."""
    tokens = [(row.double(), float(n)) for row, n in zip(x, sizes[:, 0], strict=True)]
    a = range(special, len(x), 2)
    b = range(special + 1, len(x), 2)
    best = []
    for i in a if b else []:
        cosines = [float(F.cosine_similarity(keys[i], keys[j], dim=0)) for j in b]
        j = int(np.argmax(cosines))
        best.append((cosines[j], i, b[j]))
    gone = set()
    sums = {i: row * n for i, (row, n) in enumerate(tokens)}
    counts = {i: n for i, (_, n) in enumerate(tokens)}
    for _, i, j in sorted(best, reverse=True)[:merge]:
        sums[j] = sums[j] + sums[i]
        counts[j] += counts[i]
        gone.add(i)
    left = [i for i in sums if i not in gone]
    return [{round(float(v), 4) for v in sums[i] / counts[i]} | {-counts[i]} for i in left]


@pytest.mark.parametrize(("patches", "merge"), [(8, 3), (9, 4), (9, 40), (1, 2), (12, 0)])
def test_merging_is_what_it_is_said_to_be(patches: int, merge: int) -> None:
    torch.manual_seed(patches)
    x = torch.randn(5, 4 + patches, 6)
    keys = torch.randn(5, 4 + patches, 3)
    sizes = torch.randint(1, 5, (5, 4 + patches, 1)).float()
    found, counts = merge_alike(x, keys, sizes, special=4, merge=merge)
    most = min(merge, patches // 2)
    assert found.shape == (5, 4 + patches - most, 6)
    torch.testing.assert_close(found[:, :4], x[:, :4])
    assert torch.allclose(counts.sum(dim=1), sizes.sum(dim=1))
    for n in range(5):
        expected = slowly(x[n], keys[n], sizes[n], 4, most)
        rows = [
            {round(float(v), 4) for v in row} | {-float(count)}
            for row, count in zip(found[n], counts[n], strict=True)
        ]
        for row in expected:
            assert any(close(row, other) for other in rows)


def close(a: set[float], b: set[float]) -> bool:
    return len(a) == len(b) and np.allclose(sorted(a), sorted(b), atol=2e-4)


def network(merge: int) -> PartViT:
    return small.network(replace(ARCHITECTURE, merge=merge))


def pixels(count: int) -> Tensor:
    return torch.from_numpy(
        np.random.default_rng(count).uniform(-1, 1, (count, 3, *small.SIZE)).astype(np.float32)
    )


@torch.inference_mode()
def test_tokens_that_are_equal_count_as_often_as_they_are() -> None:
    plain, merging = network(0), network(16)
    x = torch.zeros(1, 3, *small.SIZE)
    for model in (plain, merging):
        model.vit.pos_embed.zero_()  # type: ignore[union-attr]
    # All patches are the same, so half of them are lost and nothing changes.
    torch.testing.assert_close(merging(x), plain(x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(merging(pixels(2)), plain(pixels(2)), atol=1e-5)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("merge", [3, 9])
@torch.inference_mode()
def test_a_network_that_merges_sees_each_token_as_often_as_it_stands_for(merge: int) -> None:
    model = network(merge)
    blocks: Any = model.vit.blocks
    for image in pixels(2):
        x = model._embedded(image[None])
        sizes = torch.ones_like(x[..., :1])
        for number, block in enumerate(blocks):
            query, key, value = (
                block.attn.qkv(block.norm1(x))[0].view(x.shape[1], 3, 2, 32).unbind(1)
            )
            there = torch.arange(x.shape[1]).repeat_interleave(sizes[0, :, 0].round().long())
            heads = [
                (query[:, h] @ key[there, h].T / 32**0.5).softmax(dim=1) @ value[there, h]
                for h in range(2)
            ]
            x = x + block.attn.proj(torch.cat(heads, dim=1))
            if number < len(blocks) - 1:
                keys = key.mean(dim=1)[None]
                x, sizes = merge_alike(x, keys, sizes, special=4, merge=merge)
            x = x + block.mlp(block.norm2(x))
        expected = model.vit.norm(x)[:, :4]
        torch.testing.assert_close(model.tokens(image[None]), expected, rtol=1e-4, atol=1e-5)


def test_training_merges_nothing() -> None:
    plain, merging = network(0).train(), network(8).train()
    torch.testing.assert_close(merging(pixels(4)), plain(pixels(4)))


@pytest.mark.slow
def test_engines_agree_with_torch(tmp_path: Path) -> None:
    folder = small.folder(tmp_path / "m", replace(ARCHITECTURE, merge=5))
    write_graph(folder)
    model, card, _ = load_checkpoint(folder)
    assert card.architecture.merge == 5
    with torch.inference_mode():
        expected = model(pixels(6)).numpy()
    for engine in (OnnxBackend(folder, card, threads=1), OpenVinoBackend(folder, card, threads=1)):
        np.testing.assert_allclose(engine.run(pixels(6).numpy()), expected, atol=1e-4)


def test_a_choice_between_equals_is_no_fault_of_a_file() -> None:
    exact = np.random.default_rng(0).standard_normal((3, 64))
    for noise, alone, merging in ((1e-6, False, False), (0.02, True, False), (0.2, True, True)):
        found = exact + noise * np.random.default_rng(1).standard_normal((3, 64))
        assert bool(too_far(exact, found, "float32", merges=False)) == alone
        assert bool(too_far(exact, found, "float32", merges=True)) == merging


def test_other_layouts_have_no_place_for_it(tmp_path: Path) -> None:
    a = Architecture(width=64, depth=2, heads=1, image_size=(64, 32), merge=2)
    with pytest.raises(CheckpointError, match="token merging"):
        save_as(PartViT(a), ModelCard(name="m", architecture=a), tmp_path / "m.pth", format="pass")
