"""Flipped bits in weights and checkpoints, and graphs that name foreign files, are noticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from passreid.card import ModelCard
from passreid.checkpoint import average, load_checkpoint, load_folder
from passreid.embed import load
from passreid.errors import CheckpointError, TrainingError
from passreid.exporting import write_graph
from passreid.hub import MODELS
from passreid.training.folder import RunFolder
from tests import small

onnx = pytest.importorskip("onnx")
PICTURE = small.picture(1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small.folder(tmp_path_factory.mktemp("model") / "m")
    write_graph(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "m")


def flip(path: Path, share: float) -> None:
    """Flip one bit, so far into the file."""
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 0x04
    path.write_bytes(content)


@pytest.mark.parametrize("backend", ["onnx", "openvino", "torch"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_flipped_bit_in_the_weights_is_noticed(folder: Path, backend: Any, share: float) -> None:
    before = load(folder, backend=backend)(PICTURE, channel_order="rgb")
    flip(folder / "model.safetensors", share)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: does not belong to the model"):
        load(folder, backend=backend)
    flip(folder / "model.safetensors", share)
    np.testing.assert_array_equal(
        load(folder, backend=backend)(PICTURE, channel_order="rgb"), before
    )


def test_a_flipped_bit_is_noticed_by_everything_that_reads_weights(folder: Path) -> None:
    flip(folder / "model.safetensors", 0.5)
    for read in (
        lambda: load_checkpoint(folder),
        lambda: load_checkpoint(folder / "model.safetensors"),
        lambda: load_folder(folder),
        lambda: average([folder, folder]),
        lambda: write_graph(folder),
    ):
        with pytest.raises(CheckpointError, match="does not belong to the model"):
            read()


@pytest.mark.parametrize("backend", ["onnx", "openvino", "torch"])
def test_a_card_without_a_digest_still_loads(folder: Path, backend: Any) -> None:
    small.forget_digest(folder)
    assert ModelCard.read(folder / "model.json").weights_sha256 == ""
    assert load(folder, backend=backend)(PICTURE, channel_order="rgb").shape == (1, 128)


def test_the_bundled_models_and_calibrated_copies_keep_their_digest(folder: Path) -> None:
    assert len(ModelCard.read(MODELS / "passreid-tiny" / "model.json").weights_sha256) == 64
    card = ModelCard.read(folder / "model.json")
    assert card.with_calibration(small.calibration()).weights_sha256 == card.weights_sha256


def test_a_flipped_bit_in_a_pytorch_file_is_noticed(tmp_path: Path) -> None:
    state = {"state_dict": small.network(small.architecture(heads=1)).state_dict()}
    torch.save(state, tmp_path / "a.pth")
    flip(tmp_path / "a.pth", 0.5)
    with pytest.raises(CheckpointError, match=r"a\.pth: damaged.*does not match its CRC"):
        load_checkpoint(tmp_path / "a.pth")


def test_files_that_torch_wrote_without_crcs_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"weight": torch.ones(3)}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "a.pth")
    assert "CRC" not in str(caught.value)


def run_with_checkpoints(path: Path) -> RunFolder:
    run = RunFolder(path)
    (path / "checkpoint").mkdir(parents=True)
    for step in (1, 2):
        run.save({"step": step, "model": {"weight": torch.full((1000,), float(step))}})
    return run


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.95])
def test_a_run_resumes_from_the_last_intact_checkpoint(
    tmp_path: Path, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_with_checkpoints(tmp_path)
    newest = tmp_path / "checkpoint" / "step-000000002.pt"
    content = newest.read_bytes()
    for place in range(8):
        newest.write_bytes(content)
        flip(newest, share + place / 1000)
        state = run.newest()
        assert state is not None
        # A flipped bit of padding changes nothing, and is not damage.
        assert torch.all(state["model"]["weight"] == state["step"])
        assert (state["step"] == 1) == ("trying the one before" in caplog.text)
        caplog.clear()


def test_a_run_whose_checkpoints_are_all_damaged_says_so(tmp_path: Path) -> None:
    run = run_with_checkpoints(tmp_path)
    for path in (tmp_path / "checkpoint").iterdir():
        flip(path, 0.5)
    with pytest.raises(TrainingError, match="No checkpoint in"):
        run.newest()


def name_elsewhere(graph: Any, location: str, where: str) -> None:
    """Make a graph read a tensor from a file of the attacker's choice."""
    tensor = onnx.TensorProto(name="stolen", data_type=1, dims=[4], data_location=1)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    if where == "initialiser":
        graph.graph.initializer[0].external_data[0].value = location
    elif where == "constant":
        node = onnx.helper.make_node("Constant", [], ["stolen"], value=tensor)
        graph.graph.node.insert(0, node)
    elif where == "sparse":
        sparse = graph.graph.sparse_initializer.add(dims=[4])
        sparse.values.CopyFrom(tensor)
    elif where == "subgraph":
        inner = onnx.helper.make_graph([], "inner", [], [], [tensor])
        node = onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
        graph.graph.node.append(node)
    else:
        function = graph.functions.add(name="f", domain="d")
        function.node.append(onnx.helper.make_node("Constant", [], ["y"], value=tensor))


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize(
    ("location", "where"),
    [
        ("/etc/passwd", "initialiser"),
        ("../secret.bin", "initialiser"),
        ("secret.bin", "initialiser"),
        ("./model.safetensors", "initialiser"),
        ("secret.bin", "constant"),
        ("secret.bin", "sparse"),
        ("secret.bin", "subgraph"),
        ("secret.bin", "function"),
    ],
)
def test_a_graph_that_names_a_foreign_file_is_refused(
    folder: Path, backend: Any, location: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "secret.bin").write_bytes(b"\0" * 100_000)
    (folder.parent / "secret.bin").write_bytes(b"\0" * 100_000)
    monkeypatch.chdir(folder)
    graph = onnx.load(folder / "model.onnx", load_external_data=False)
    name_elsewhere(graph, location, where)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(
        CheckpointError, match=rf"refused, its tensors would be read from '{location}'"
    ):
        load(folder, backend=backend)


def test_the_attention_graph_and_files_with_their_own_weights_are_held_to_it(folder: Path) -> None:
    graph = onnx.load(folder / "attention.onnx", load_external_data=False)
    name_elsewhere(graph, "secret.bin", "initialiser")
    (folder / "attention.onnx").write_bytes(graph.SerializeToString())
    embedder = load(folder)
    with pytest.raises(CheckpointError, match=r"attention\.onnx: refused"):
        embedder.attend(PICTURE, channel_order="rgb")
    shutil.copy(folder / "model.onnx", folder / "model.float16.onnx")
    with pytest.raises(CheckpointError, match=r"float16\.onnx: refused.*name no other file"):
        load(folder, backend="onnx", precision="float16")


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("content", [b"", b"\x0b\x0c", b"\x3a\xff\xff\xff\xff\x0f", b"{}" * 50])
def test_a_damaged_graph_is_one_sentence(folder: Path, backend: Any, content: bytes) -> None:
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.onnx"):
        load(folder, backend=backend)
    assert json.loads((folder / "model.json").read_text())["weights_sha256"]
