"""load: the right engine for the files at hand, and engines that agree."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import passreid.backends.openvino
import passreid.backends.pytorch
from passreid.backends import matrix_product
from passreid.backends.pytorch import TorchBackend
from passreid.checkpoint import load_folder, save_as
from passreid.embed import load
from passreid.errors import CheckpointError, MissingExtraError, ModelNotFoundError, UsageError
from passreid.exporting import write_graph
from tests import small

PICTURES = np.stack([small.picture(n) for n in range(5)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small.folder(tmp_path_factory.mktemp("model") / "m")
    write_graph(folder)
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder without a graph; heads of width 64, as foreign layouts have them."""
    return small.folder(tmp_path_factory.mktemp("bare") / "m", small.architecture(heads=1))


def rows(name: Path, **options: Any) -> Any:
    return load(name, **options)(PICTURES, channel_order="rgb")


def lowest_cosine(a: Any, b: Any) -> float:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / lengths).min())


@pytest.mark.parametrize("flip", [False, True])
def test_both_engines_agree(folder: Path, flip: bool) -> None:
    onnx, pytorch = (rows(folder, backend=b, flip=flip) for b in ("onnx", "torch"))
    assert onnx.dtype == pytorch.dtype == np.float32
    assert lowest_cosine(onnx, pytorch) >= 0.99999
    np.testing.assert_allclose(onnx, pytorch, atol=2e-5)


def test_auto_takes_onnx_where_it_does_what_is_asked(folder: Path, bare: Path) -> None:
    assert load(folder).backend == "onnx"
    assert load(folder / "model.safetensors").backend == "onnx"
    assert load(folder, device="cpu", threads=1).backend == "onnx"
    assert load(folder, precision="bfloat16").backend == "openvino"
    assert load(folder, precision="auto").backend == "openvino"
    assert load(folder, precision="float16").backend == "torch"
    assert load(bare).backend == "torch"
    assert load(folder).card.name == load(folder, backend="torch").card.name == "small"


def test_a_gpu_is_taken_where_no_other_device_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passreid.backends, "gpu", lambda: "cuda")
    assert load(folder, precision="bfloat16").backend == "torch"
    assert load(folder, precision="bfloat16", device="cpu").backend == "openvino"


def test_without_torch_auto_precision_is_float32(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    embedder = load(folder, precision="auto")
    assert (embedder.backend, embedder.precision) == ("onnx", "float32")


def test_torch_without_timm_is_as_no_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "timm" else find(name)
    )
    monkeypatch.delitem(sys.modules, "passreid.backends.pytorch", raising=False)
    monkeypatch.delitem(sys.modules, "passreid.model", raising=False)
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.models.vision_transformer", None)
    for precision in ("auto", "bfloat16"):
        assert load(folder, precision=precision).backend == "openvino"
    assert matrix_product(2, 3, 4, "float32") is None


def test_without_torch_lower_precisions_ask_for_less(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"\[openvino\]"):
        load(folder, precision="bfloat16")
    with pytest.raises(ModelNotFoundError, match=r"bundled passreid-tiny has no .* makes a copy"):
        load(precision="int8")
    with pytest.raises(ModelNotFoundError, match=r"has no model\.float16\.onnx; write it"):
        load(folder, precision="float16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "onnx", "precision": "bfloat16"}, "onnx backend runs on the CPU in float32"),
        ({"backend": "onnx", "device": "cuda"}, "onnx backend runs on the CPU in float32"),
        ({"backend": "tensorflow"}, "Unknown backend 'tensorflow'"),
        ({"backend": "torch", "device": "tpu"}, "no device 'tpu' here; use auto or cpu"),
        ({"backend": "torch", "device": "cuda:99"}, "no device 'cuda:99'"),
        ({"backend": "torch", "precision": "int3"}, "Unknown precision 'int3'"),
        ({"batch_size": 0}, "at least 1"),
    ],
)
def test_options_that_do_not_exist(folder: Path, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(folder, **options)


def test_onnx_without_a_graph_says_how_to_get_one(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no model\.onnx.*passreid export"):
        load(bare, backend="onnx")
    with pytest.raises(ModelNotFoundError):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_foreign_files_load_through_torch(bare: Path, tmp_path: Path, name: str) -> None:
    save_as(*load_folder(bare), tmp_path / name, format="pass")
    embedder = load(tmp_path / name)
    assert embedder.backend == "torch"
    # The layout has no place for the card's mean: pixels are prepared as its family does.
    assert embedder.card.mean == (0.5, 0.5, 0.5)
    assert embedder(PICTURES, channel_order="rgb").shape == (5, 128)


def test_torch_is_asked_for_where_it_is_needed(
    bare: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "passreid.backends.pytorch")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"without an ONNX graph .*\[torch\]"):
        load(bare)
    for path in (folder, folder / "model.safetensors"):
        with pytest.raises(MissingExtraError, match=r"^The torch backend \(device auto, "):
            load(path, backend="torch")


def test_a_folder_with_a_graph_needs_no_torch(folder: Path) -> None:
    code = """
import json, sys
for name in ("torch", "timm", "torchvision", "onnx", "onnxscript"):
    sys.modules[name] = None
import numpy as np, passreid
rows = passreid.load(sys.argv[1])(np.zeros((2, 9, 5, 3), np.uint8), channel_order="rgb")
print(json.dumps(rows.tolist()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    here = load(folder)(np.zeros((2, 9, 5, 3), np.uint8), channel_order="rgb")
    np.testing.assert_allclose(json.loads(done.stdout), here, atol=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_is_close_and_says_so(folder: Path, precision: Any) -> None:
    embedder = load(folder, precision=precision, device="cpu")
    assert embedder.precision == precision
    assert precision in repr(embedder)
    low = embedder(PICTURES, channel_order="rgb")
    assert low.dtype == np.float32
    exact = rows(folder)
    assert lowest_cosine(low, exact) > 0.999
    assert np.abs(low - exact).max() > 5e-5  # it did compute in fewer bits


@pytest.mark.parametrize(
    ("features", "expected"),
    [({"amx_bf16": True}, "bfloat16"), ({"avx512_bf16": True}, "bfloat16"), ({}, "float32")],
)
def test_auto_precision_follows_the_cpu(
    features: Any, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: features)
    model = small.network(small.architecture())
    assert TorchBackend(model, device="cpu", precision="auto").precision == expected


def test_auto_precision_follows_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    find = passreid.backends.pytorch.find_dtype
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda found=supported: found)
        assert find("auto", torch.device("cuda")) is dtype
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": True})
    assert find("auto", torch.device("mps")) is None


@pytest.mark.parametrize(
    ("offered", "expected"), [(["FP32", "BF16"], "bfloat16"), (["FP32"], "float32")]
)
def test_auto_precision_of_openvino_follows_the_cpu(offered: list[str], expected: str) -> None:
    class Core:
        def get_property(self, *_: str) -> list[str]:
            return offered

    assert passreid.backends.openvino._choose(Core(), "auto") == expected


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_products_are_measured_in_the_precision_that_is_named(precision: str) -> None:
    product: Any = matrix_product(2, 3, 4, precision)
    answer = product()
    assert str(answer.dtype) == f"torch.{precision}"
    assert answer.tolist() == [[3.0] * 4] * 2


def test_float32_is_exact_and_batches_do_not_matter(folder: Path) -> None:
    model, _ = load_folder(folder)
    backend = TorchBackend(model, device="cpu")
    images = np.random.default_rng(0).normal(size=(4, 3, *small.SIZE)).astype(np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
    np.testing.assert_array_equal(backend.run(images), expected)
    alone = np.concatenate([backend.run(images[n : n + 1]) for n in range(4)])
    np.testing.assert_allclose(alone, expected, atol=1e-5)


def test_a_network_in_training_is_run_as_in_evaluation() -> None:
    model = small.network(small.architecture(feature="after"))
    images = np.random.default_rng(0).normal(size=(4, 3, *small.SIZE)).astype(np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
    found = TorchBackend(model.train(), device="cpu").run(images)
    np.testing.assert_array_equal(found, expected)


def test_devices_are_looked_for_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    find = passreid.backends.pytorch.find_device
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert str(find("auto")) == "mps"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert str(find("auto")) == "cuda"
    assert str(find("cuda:1")) == "cuda:1"
    with pytest.raises(UsageError, match="use auto or cpu, cuda, cuda:0, cuda:1, mps"):
        find("cuda:2")


def test_threads_are_torchs_own(bare: Path) -> None:
    before = torch.get_num_threads()
    try:
        load(bare, threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_threads_of_the_other_engines(folder: Path) -> None:
    network: Any = load(folder, backend="onnx", threads=1).network
    for session in (network._session, network._attention):
        options = session._session.get_session_options()
        assert options.intra_op_num_threads == 1
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    network = load(folder, backend="openvino", threads=1).network
    assert network._compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert not network._compiled.get_property("ENABLE_CPU_PINNING")


def test_openvino_agrees_and_bfloat16_is_close(folder: Path) -> None:
    exact = rows(folder)
    np.testing.assert_allclose(rows(folder, backend="openvino"), exact, atol=2e-5)
    embedder = load(folder, backend="openvino", precision="bfloat16", threads=1)
    assert (embedder.backend, embedder.precision) == ("openvino", "bfloat16")
    assert "openvino on cpu in bfloat16" in repr(embedder)
    assert lowest_cosine(embedder(PICTURES, channel_order="rgb"), exact) > 0.999


def test_openvino_rows_outlive_the_next_run(folder: Path) -> None:
    network = load(folder, backend="openvino").network
    one, other = np.zeros((2, 3, *small.SIZE), np.float32), np.ones((2, 3, *small.SIZE), np.float32)
    first = network.run(one)
    kept = first.copy()
    network.run(other)
    np.testing.assert_array_equal(first, kept)


def test_openvino_threads_share_it(folder: Path) -> None:
    network = load(folder, backend="openvino", threads=1).network
    batches = [np.full((2, 3, *small.SIZE), n, np.float32) for n in range(8)]
    alone = [network.run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(network.run, batches))
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int3"}, "float32 or bfloat16, not in 'int3'"),
        ({"device": "cuda"}, "runs on the CPU, not on 'cuda'"),
    ],
)
def test_openvino_refuses_what_it_cannot_do(folder: Path, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(folder, backend="openvino", **options)


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_openvino_names_a_damaged_file(folder: Path, tmp_path: Path, name: str) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:3000])
    with pytest.raises(CheckpointError, match=r"model\.onnx"):
        load(tmp_path, backend="openvino")


def test_openvino_refuses_a_graph_of_another_card(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    card = json.loads((tmp_path / "model.json").read_text())
    card["mean"] = [0.1, 0.1, 0.1]
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="does not belong"):
        load(tmp_path, backend="openvino")


def test_without_openvino_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"\[openvino\]"):
        load(folder, backend="openvino")
