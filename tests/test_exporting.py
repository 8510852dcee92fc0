"""The graph of a model folder: equal to torch, small, and never one that does not belong."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from passreid.backends.onnx import OnnxBackend, OnnxSession, read_header
from passreid.card import ModelCard
from passreid.checkpoint import load_folder
from passreid.errors import CheckpointError, MissingExtraError, ModelNotFoundError
from passreid.exporting import write_graph
from passreid.exporting.graph import too_far
from tests import small

# Every pair of two columns' values, and the last row the deployed shape with a classifier.
KINDS = [
    ("none", "multi", "before", False),
    ("none", "single", "after", True),
    ("none", "multi", "normalized", True),
    ("ics", "single", "before", True),
    ("ics", "multi", "after", False),
    ("ics", "single", "normalized", False),
    ("conv4", "multi", "after", True),
    ("conv4", "single", "normalized", True),
    ("conv4", "multi", "before", True),
    ("lite0", "multi", "before", False),
]


def pixels(count: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(5).normal(size=(count, 3, *small.SIZE)).astype(np.float32)


def torch_rows(folder: Path, images: npt.NDArray[np.float32]) -> Any:
    with torch.inference_mode():
        return load_folder(folder)[0](torch.from_numpy(images)).numpy()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small.folder(tmp_path_factory.mktemp("written"), small.architecture(depth=1))
    write_graph(folder)
    return folder


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    for file in written.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def card_of(folder: Path) -> ModelCard:
    return ModelCard.read(folder / "model.json")


def open_graph(folder: Path) -> OnnxBackend:
    return OnnxBackend(folder, card_of(folder), threads=1)


@pytest.mark.parametrize("pooling", ["avg_max", "gem", "jpm"])
def test_every_pooling_agrees_with_torch(pooling: str, tmp_path: Path) -> None:
    a = small.architecture(parts=0, pooling=pooling, neck="multi", feature="after")
    folder = small.folder(tmp_path, a)
    write_graph(folder)
    images = pixels(3)
    np.testing.assert_allclose(
        open_graph(folder).run(images), torch_rows(folder, images), rtol=1e-4, atol=1e-5
    )
    assert open_graph(folder).attend(images).shape == (3, 1, *small.GRID)


@pytest.mark.parametrize(("stem", "neck", "feature", "half"), KINDS)
def test_every_kind_of_network_agrees_with_torch(
    stem: str, neck: str, feature: str, half: bool, tmp_path: Path
) -> None:
    a = small.architecture(stem=stem, neck=neck, feature=feature, num_classes=3, depth=1)
    small.folder(tmp_path, a, half=half)
    path = write_graph(tmp_path)
    assert path == tmp_path / "model.onnx"
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "attention.onnx",
        "model.json",
        "model.onnx",
        "model.safetensors",
    ]
    graph = open_graph(tmp_path)
    for count in (1, 5):
        expected = torch_rows(tmp_path, pixels(count))
        np.testing.assert_allclose(graph.run(pixels(count)), expected, atol=2e-5)
        with torch.inference_mode():
            maps = load_folder(tmp_path)[0].attend(torch.from_numpy(pixels(count))).numpy()
        np.testing.assert_allclose(graph.attend(pixels(count)), maps, rtol=1e-4)


@pytest.mark.parametrize("name", ["model.onnx", "attention.onnx"])
def test_the_file_holds_no_weights(written: Path, name: str) -> None:
    path = written / name
    assert path.stat().st_size < 60_000
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(str(path))
    stored = load_file(written / "model.safetensors")
    for tensor in model.graph.initializer:
        assert tensor.data_location == onnx.TensorProto.EXTERNAL
        assert not tensor.raw_data
        assert tuple(tensor.dims) == tuple(stored[tensor.name].shape)
    constants = [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    assert sum(len(t.raw_data) for t in constants) < 2_000


def test_others_can_read_it_by_offset(written: Path) -> None:
    session = onnxruntime.InferenceSession(
        written / "model.onnx", providers=["CPUExecutionProvider"]
    )
    rows = session.run(["embeddings"], {"images": pixels(3)})[0]
    np.testing.assert_allclose(rows, torch_rows(written, pixels(3)), atol=2e-5)


def test_it_says_how_pixels_are_prepared(written: Path) -> None:
    model = onnx.load(written / "model.onnx", load_external_data=False)
    says = {entry.key: entry.value for entry in model.metadata_props}
    assert says["height_width"] == "[64, 32]"
    assert says["mean"] == "[0.4, 0.5, 0.6]"
    assert says["std"] == "[0.5, 0.5, 0.5]"
    assert says["interpolation"] == "bilinear"
    assert "RGB" in says["input"]


def test_a_graph_that_differs_is_not_kept(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (copy / "model.onnx").read_bytes()
    right = OnnxSession.run

    def wrong(self: OnnxSession, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        rows = right(self, images)
        return rows * np.float32(1.001) if len(images) == 7 else rows

    monkeypatch.setattr(OnnxSession, "run", wrong)
    with pytest.raises(CheckpointError, match=r"batch of 7: worst cosine 1\.000000.*was not kept"):
        write_graph(copy)
    assert (copy / "model.onnx").read_bytes() == before
    assert len(list(copy.iterdir())) == 4


def test_how_far_is_too_far() -> None:
    exact = np.random.default_rng(0).standard_normal((3000, 64))
    one_off = exact.copy()
    one_off[7] += 0.1 * np.random.default_rng(1).standard_normal(64)
    assert too_far(exact, one_off, "float16", merges=False)
    for merges in (False, True):
        assert not too_far(exact, one_off, "int8", merges=merges)
    assert not too_far(100 * exact, 100 * exact + 1e-3, "float32", merges=False)
    assert too_far(exact, exact[:2], "int8", merges=False)


def test_a_header_of_any_length_is_read_in_bounds(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"\xff" * 8 + b"{}")
    assert read_header(tmp_path / "m") == b"{}"


def test_nan_is_a_difference(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxSession, "run", lambda *_: np.full((1, 128), np.nan, np.float32))
    with pytest.raises(CheckpointError, match="was not kept"):
        write_graph(copy)


def test_new_values_of_the_same_tensors_are_read(copy: Path) -> None:
    a = small.architecture(depth=1)
    small.folder(copy, a, seed=1)
    rows = open_graph(copy).run(pixels(2))
    np.testing.assert_allclose(rows, torch_rows(copy, pixels(2)), atol=2e-5)


def test_weights_of_another_layout_are_refused(copy: Path) -> None:
    small.folder(copy, small.architecture(depth=1), half=True)
    with pytest.raises(CheckpointError, match=r"model\.onnx: does not belong.*passreid export"):
        open_graph(copy)


def test_equal_tensors_at_other_places_are_refused(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    save_file({**tensors, "classifier.weight": torch.zeros(2, 128)}, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not belong"):
        open_graph(copy)


@pytest.mark.parametrize("change", [{"mean": (0.1, 0.1, 0.1)}, {"interpolation": "bicubic"}])
def test_a_card_of_other_pixels_is_refused(copy: Path, change: dict[str, Any]) -> None:
    card = replace(card_of(copy), **change)
    with pytest.raises(CheckpointError, match="does not belong"):
        OnnxBackend(copy, card)


def test_calibrating_a_model_leaves_its_graph_valid(copy: Path) -> None:
    (copy / "model.json").write_text(card_of(copy).with_calibration(small.calibration()).to_json())
    assert open_graph(copy).run(pixels(1)).shape == (1, 128)


@pytest.mark.parametrize("linked", [("model.onnx", "model.safetensors"), ("model.safetensors",)])
def test_links_into_a_download_cache_work(
    copy: Path, tmp_path_factory: pytest.TempPathFactory, linked: tuple[str, ...]
) -> None:
    blobs = tmp_path_factory.mktemp("blobs")
    for number, name in enumerate(linked):
        (copy / name).rename(blobs / str(number))
        (copy / name).symlink_to(blobs / str(number))
    np.testing.assert_allclose(
        open_graph(copy).run(pixels(2)), torch_rows(copy, pixels(2)), atol=2e-5
    )


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 3000])
def test_a_damaged_file_is_named(copy: Path, name: str, keep: int) -> None:
    (copy / name).write_bytes((copy / name).read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=name):
        open_graph(copy)


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        OnnxBackend(copy, card_of(copy))


def test_only_model_folders_are_exported(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no model\.json"):
        write_graph(tmp_path)


def test_a_folder_without_attention_embeds_and_says_what_is_missing(copy: Path) -> None:
    (copy / "attention.onnx").unlink()
    graph = open_graph(copy)
    assert graph.run(pixels(1)).shape == (1, 128)
    with pytest.raises(ModelNotFoundError, match=r"no attention\.onnx.*`passreid export .*torch"):
        graph.attend(pixels(1))


def test_the_two_graphs_are_not_mixed_up(written: Path, copy: Path) -> None:
    (copy / "attention.onnx").write_bytes((written / "model.onnx").read_bytes())
    with pytest.raises(CheckpointError, match=r"attention\.onnx: does not belong"):
        open_graph(copy).attend(pixels(1))
    (copy / "model.onnx").write_bytes((written / "attention.onnx").read_bytes())
    with pytest.raises(CheckpointError, match=r"model\.onnx: does not belong"):
        open_graph(copy)


def test_storage_that_cannot_be_cast_is_refused(tmp_path: Path) -> None:
    small.folder(tmp_path, small.architecture(depth=1))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["vit.pos_embed"] = tensors["vit.pos_embed"].bfloat16()
    save_file(tensors, tmp_path / "model.safetensors")
    small.forget_digest(tmp_path)
    with pytest.raises(CheckpointError, match="BF16"):
        write_graph(tmp_path)
    assert not (tmp_path / "model.onnx").exists()


def test_the_extra_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"\[onnx\]"):
        write_graph(copy)
