"""Files with weights of their own: found by precision, close to torch, or not there at all."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import passreid
from passreid.backends import _quantised, export_command, exported
from passreid.card import ModelCard
from passreid.cli import run
from passreid.embed import load, read_crop
from passreid.errors import (
    CheckpointError,
    MissingExtraError,
    ModelNotFoundError,
    UsageError,
)
from passreid.exporting import graph, variants, write_variant
from tests import small

PICTURES = np.stack([small.picture(n) for n in range(40, 45)])


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("crops")
    paths = [folder / f"{n:02}.png" for n in range(12)]
    for n, path in enumerate(paths):
        Image.fromarray(small.picture(n)).save(path)
    return paths


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small.folder(tmp_path / "m", small.architecture(depth=1))


def rows(folder: Path, **options: Any) -> Any:
    return load(folder, **options)(PICTURES, channel_order="rgb")


def lowest_cosine(a: Any, b: Any) -> float:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / lengths).min())


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize(
    ("precision", "normalise", "bound"),
    [("float32", True, 0.99999), ("float16", False, 0.9999), ("int8", True, 0.99)],
)
def test_a_file_is_loaded_by_its_precision_and_is_close(
    folder: Path, crops: list[Path], engine: Any, precision: Any, normalise: bool, bound: float
) -> None:
    if (engine, precision) == ("openvino", "int8"):
        pytest.importorskip("nncf")
    exact = rows(folder, backend="torch", flip=True)
    path = write_variant(
        folder, format=engine, precision=precision, normalise=normalise, crops=crops
    )
    assert path.name == f"model.{precision}.{'onnx' if engine == 'onnx' else 'xml'}"
    embedder = load(folder, backend=engine, precision=precision, flip=True)
    assert (embedder.backend, embedder.precision) == (engine, precision)
    assert embedder.network.normalises is normalise
    found = embedder(PICTURES, channel_order="rgb")
    assert found.dtype == np.float32
    assert lowest_cosine(found, exact) > bound
    if precision == "int8":
        assert np.abs(found - exact).max() > 1e-4
        assert load(folder, precision="int8").backend == engine
    assert sum(f.stat().st_size for f in folder.glob(f"model.{precision}.*")) > 20_000


def test_a_file_that_is_too_far_is_not_kept(
    folder: Path, crops: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(graph.WORST_COSINE, "int8", 1.1)
    before = sorted(folder.iterdir())
    with pytest.raises(CheckpointError, match=r"int8 onnx file .*12 crops: worst cosine"):
        write_variant(folder, crops=crops)
    monkeypatch.setitem(graph.WORST_COSINE, "int8", 0.0)
    monkeypatch.setitem(graph.WORST_COSINE, "float16", 1.1)
    with pytest.raises(CheckpointError, match=r"float16 onnx file .*8 crops: worst cosine"):
        write_variant(folder, precision="float16")
    assert sorted(folder.iterdir()) == before


def test_crops_are_spread_over_the_list(
    folder: Path, crops: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = ModelCard.read(folder / "model.json")
    monkeypatch.setattr(variants, "_CROPS", 3)
    chosen = [read_crop(crops[n], card) for n in (0, 6, 11)]
    np.testing.assert_array_equal(variants._pixels(card, crops), chosen)


def test_int8_takes_the_engine_that_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model.int8.onnx", "model.int8.xml"):
        (folder / name).touch()
    assert _quantised(folder) == "openvino"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert _quantised(folder) == "onnx"


def test_a_file_of_other_weights_is_refused(folder: Path) -> None:
    path = write_variant(folder, precision="float16")
    assert path.stat().st_size < 0.7 * (folder / "model.safetensors").stat().st_size
    assert rows(folder, backend="onnx", precision="float16").shape == (5, 128)
    small.folder(folder, small.architecture(depth=1), seed=1)
    told = r"model\.float16\.onnx: does not belong.* --format onnx --precision float16`"
    with pytest.raises(CheckpointError, match=told):
        load(folder, backend="onnx", precision="float16")


def test_an_int8_file_asks_for_its_own_engine(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "model.int8.xml").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"\[openvino\]"):
        load(folder, precision="int8")


def test_the_command_that_is_told_writes_the_file_it_is_told_for(folder: Path) -> None:
    for name in ("model.onnx", "model.float32.onnx", "model.float16.xml"):
        command = export_command(folder, name).split()
        assert command.pop(0) == "passreid"
        assert run(command) == 0
        assert (folder / name).is_file()
    assert [file.name for file in exported(folder)] == [
        "model.onnx",
        "attention.onnx",
        "model.float32.onnx",
        "model.float16.xml",
        "model.float16.bin",
    ]
    weights = [folder / name for name in ("model.float16.bin", "model.safetensors")]
    assert weights[0].stat().st_size < 0.6 * weights[1].stat().st_size
    assert export_command(folder, "model.int8.onnx").endswith("int8 --calibrate CROPS")


def test_what_is_missing_is_said(
    folder: Path, crops: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="--calibrate"):
        write_variant(folder)
    engines: list[Any] = ["onnx", "openvino"]
    for engine in engines:
        with pytest.raises(
            ModelNotFoundError, match=f"--format {engine} --precision int8 --calibrate"
        ):
            load(folder, backend=engine, precision="int8")
    with pytest.raises(ModelNotFoundError, match="--precision int8"):
        load(folder, precision="int8")
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingExtraError, match=r"\[int8\]"):
        write_variant(folder, format="openvino", crops=crops)
    assert len(list(folder.iterdir())) == 2


@pytest.mark.slow
@pytest.mark.skipif("PASSREID_MARKET" not in os.environ, reason="needs real crops")
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_int8_keeps_the_accuracy_of_the_bundled_model(tmp_path: Path, engine: Any) -> None:
    from passreid.hub import resolve
    from passreid.listing import find_images

    root = Path(os.environ["PASSREID_MARKET"])
    for file in resolve("passreid-tiny").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_variant(tmp_path, format=engine, crops=find_images(root / "bounding_box_train"))
    data = passreid.read_dataset(root)
    exact, rounded = (
        passreid.evaluate(load(tmp_path, backend=engine, precision=p), data).metrics.mAP
        for p in ("float32", "int8")
    )
    assert abs(exact - rounded) < 0.005
