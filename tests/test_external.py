"""Networks of other projects: run as their card says, through every verb, and refused plainly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import passreid
from passreid.cli import run
from passreid.errors import ConfigError, ModelNotFoundError, UsageError

onnx = pytest.importorskip("onnx")
CROPS = np.random.default_rng(0).integers(0, 256, (3, 16, 8, 3), np.uint8)


def network(path: Path, *, batch: int | str = "batch", outputs: int = 1, **card: Any) -> Path:
    """Write a network whose embedding is the mean of each channel, and its negative."""
    from onnx import TensorProto, helper

    given = helper.make_tensor_value_info("crops", TensorProto.FLOAT, [batch, 3, 16, 8])
    names = [f"out{n}" for n in range(outputs)]
    nodes = [
        helper.make_node("ReduceMean", ["crops"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Neg", ["mean"], ["negative"]),
        helper.make_node("Concat", ["mean", "negative"], ["out0"], axis=1),
        *(helper.make_node("Identity", ["mean"], [name]) for name in names[1:]),
    ]
    shown = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, None]) for n in names]
    graph = helper.make_graph(nodes, "means", [given], shown)
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    if card:
        path.with_suffix(".json").write_text(json.dumps({"image_size": [16, 8], **card}))
    return path


def expected(mean: Any, std: Any, largest: float, order: slice) -> np.ndarray:
    """Means of each channel after the card's arithmetic, channel by channel."""
    pixels = CROPS.astype(np.float64) / 255 * largest
    normal = (pixels - np.array(mean)) / np.array(std)
    rows = normal[..., order].mean(axis=(1, 2))
    found: np.ndarray = np.concatenate([rows, -rows], axis=1)
    return found


@pytest.mark.parametrize("batch", ["batch", 1])
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_crops_go_in_as_the_card_says(
    batch: int | str, suffix: str, order: str, tmp_path: Path
) -> None:
    mean, std = [10.0, 20.0, 30.0], [50.0, 60.0, 70.0]
    path = network(
        tmp_path / "net.onnx", batch=batch, mean=mean, std=std, largest=255, channel_order=order
    )
    if suffix == ".xml":
        openvino = pytest.importorskip("openvino")
        openvino.save_model(openvino.convert_model(str(path)), str(path.with_suffix(".xml")))
        path = path.with_suffix(".xml")
    embedder = passreid.load(path)
    assert embedder.dim == 6
    rows = embedder(list(CROPS), channel_order="rgb")
    wanted = expected(mean, std, 255, slice(None, None, -1 if order == "bgr" else 1))
    assert np.allclose(rows, wanted, atol=1e-3)


def test_identity_tells_networks_and_preprocessing_apart(tmp_path: Path) -> None:
    rgb = passreid.load(network(tmp_path / "a.onnx", largest=1)).identity
    again = passreid.load(network(tmp_path / "a.onnx", largest=1)).identity
    bgr = passreid.load(network(tmp_path / "a.onnx", channel_order="bgr")).identity
    assert rgb == again
    assert rgb != bgr


def test_an_output_is_chosen_by_name(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx", outputs=2, output="out1")
    assert passreid.load(path).dim == 3
    with pytest.raises(ConfigError, match=r"has 2 outputs; set 'output' .* out0, out1"):
        passreid.load(network(tmp_path / "net.onnx", outputs=2, largest=1))
    with pytest.raises(ConfigError, match="no output 'out9'"):
        passreid.load(network(tmp_path / "net.onnx", outputs=2, output="out9"))


def test_a_network_without_card_shows_one(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"write net\.json beside it .*image_size"):
        passreid.load(network(tmp_path / "net.onnx"))


def test_cards_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx", largest=1)
    path.with_suffix(".json").write_text('{"image_size": [32, 32]}')
    with pytest.raises(ConfigError, match="does not run on crops of 32x32"):
        passreid.load(path)
    path.with_suffix(".json").write_text('{"image_size": [16, 8], "channelorder": "bgr"}')
    with pytest.raises(ConfigError, match="channel_order"):
        passreid.load(path)
    with pytest.raises(UsageError, match="float32"):
        passreid.load(network(path, largest=1), precision="bfloat16")


def test_files_that_are_no_network_are_refused(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx", largest=1)
    path.write_bytes(b"not a network")
    with pytest.raises(passreid.PassreidError, match="cannot load it"):
        passreid.load(path)


def test_every_verb_takes_an_external_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.chdir(tmp_path)
    people = passreid.make_synthetic(tmp_path / "people", people=8)
    network(tmp_path / "net.onnx", name="means")
    root, one = str(people.root), str(people.query[0].path)

    def call(*arguments: str) -> str:
        assert run(arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    before = json.loads(call("evaluate", root, "--model", "net.onnx", "--json"))
    assert before["mAP"] > 0.3
    call("calibrate", root, "--model", "net.onnx", "--output", "calibrated")
    after = json.loads(call("evaluate", root, "--model", "calibrated", "--json"))
    assert after["mAP"] == before["mAP"]
    verdict = json.loads(call("compare", one, one, "--model", "calibrated", "--json"))
    assert verdict["calibration"]["origin"] == "user"
    call("gallery", "add", "p.gallery", str(people.gallery[0].path.parent), "-m", "calibrated")
    found = call("gallery", "search", "p.gallery", one, "-m", "net.onnx", "--top", "1", "--json")
    assert json.loads(found)["rank"] == 1
    assert passreid.load("net.onnx").identity == passreid.load("calibrated").identity
