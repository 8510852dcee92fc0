"""Where CLS and parts look: timm's own attention weights, read off its unfused path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from passreid.embed import load
from passreid.errors import ImageError
from passreid.exporting import write_graph
from passreid.model import PartViT, use_fused_attention
from tests import small

PICTURES = np.stack([small.picture(n) for n in range(5)])


def weights_of_the_last_block(model: PartViT, images: Tensor) -> Tensor:
    """(B, heads, tokens, tokens), caught on their way into the dropout behind the softmax."""
    caught: list[Tensor] = []
    use_fused_attention(model, False)
    last: Any = model.vit.blocks[-1]
    hook = last.attn.attn_drop.register_forward_hook(lambda _, given, __: caught.append(given[0]))
    with torch.inference_mode():
        model(images)
    hook.remove()
    return caught[0]


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("parts", [0, 3])
@pytest.mark.parametrize("stem", ["none", "ics"])
def test_it_is_the_attention_of_the_last_block(depth: int, parts: int, stem: str) -> None:
    model = small.network(small.architecture(depth=depth, parts=parts, stem=stem))
    images = torch.randn(2, 3, *small.SIZE)
    rows, columns = model.architecture.grid
    heads = weights_of_the_last_block(model, images).mean(dim=1)
    with torch.inference_mode():
        maps = model.attend(images)
    assert maps.shape == (2, 1 + parts, rows, columns)
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(2, 1 + parts))
    for token in range(1 + parts):
        for place in range(rows * columns):
            share = heads[:, token, 1 + parts + place] / heads[:, token, 1 + parts :].sum(dim=1)
            found = maps[:, token, place // columns, place % columns]
            torch.testing.assert_close(found, share, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small.folder(tmp_path_factory.mktemp("attention"), small.architecture(depth=1))
    write_graph(folder)
    return folder


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_engines_agree_in_batches_of_any_size(folder: Path, backend: Any) -> None:
    expected = load(folder, backend="torch").attend(PICTURES, channel_order="rgb")
    found = load(folder, backend=backend, batch_size=2).attend(PICTURES, channel_order="rgb")
    assert found.dtype == np.float32
    assert found.shape == (5, 4, 4, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.abs(expected - expected.mean((2, 3), keepdims=True)).max() > 1e-3


def test_one_picture_none_and_a_broken_one(tmp_path: Path) -> None:
    embedder = small.colours()
    assert embedder.attend(PICTURES[0], channel_order="rgb").shape == (1, 1, *small.GRID)
    assert embedder.attend([]).shape == (0, 1, *small.GRID)
    broken = tmp_path / "a.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"a\.png"):
        embedder.attend([broken])


def test_the_bundled_model_shows_where_it_looks_without_torch() -> None:
    embedder = load(backend="onnx")
    maps = embedder.attend(PICTURES[:1], channel_order="rgb")
    a = embedder.card.architecture
    assert maps.shape == (1, 1 + a.parts, *a.grid)
    np.testing.assert_allclose(maps.sum((2, 3)), 1, rtol=1e-4)
