"""bench: every engine that can run is measured in a process of its own; the rest is left out."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from passreid.backends import matrix_product
from passreid.bench import Speed, measure_speed, operations, peak_memory
from passreid.card import PRESETS, Architecture, ModelCard
from passreid.cli import run
from passreid.errors import UsageError
from passreid.exporting import write_graph
from tests import small
from tests.checkpoint import fabricate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small.folder(tmp_path_factory.mktemp("model") / "m", small.architecture(depth=1))
    write_graph(folder)
    return folder


@pytest.fixture
def crops(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        Image.fromarray(small.picture(number)).save(path)
    return paths


@pytest.mark.slow
def test_a_row_for_each_mode(folder: Path, crops: list[Path]) -> None:
    modes = (("onnx", "float32"), ("openvino", "bfloat16"))
    rows = measure_speed(str(folder), modes=modes, batch_size=2, crops=crops)
    assert [(row.backend, row.precision) for row in rows] == list(modes)
    for row in rows:
        assert row.end_to_end > 0 and row.network > 0
        assert 0 < row.p50_ms <= row.p95_ms
        assert row.peak_mib is not None and 20 < row.peak_mib < 20_000
        assert row.limit is not None and row.limit > 0
    assert rows[0].worst_cosine == pytest.approx(1, abs=1e-6)
    assert 0.99 < rows[1].worst_cosine <= rows[1].mean_cosine < 1


@pytest.mark.slow
def test_a_weight_file_is_measured_as_it_is_said_to_be(tmp_path: Path, crops: list[Path]) -> None:
    torch.save(fabricate.backbone(patches=192), tmp_path / "m.pth")
    modes = (("torch", "float32"),)
    with pytest.raises(UsageError, match="192 patch positions fit several inputs"):
        measure_speed(str(tmp_path / "m.pth"), modes=modes, crops=crops)
    options = {"image_size": (256, 192)}
    rows = measure_speed(
        str(tmp_path / "m.pth"), modes=modes, crops=crops, batch_size=2, overrides=options
    )
    assert [row.backend for row in rows] == ["torch"]


@pytest.mark.slow
def test_what_cannot_run_is_left_out_and_nothing_at_all_is_explained(
    tmp_path: Path, crops: list[Path]
) -> None:
    bare = small.folder(tmp_path / "m", small.architecture(depth=1))
    with pytest.raises(UsageError, match=r"has no model\.onnx"):
        measure_speed(str(bare), modes=(("onnx", "float32"),), crops=crops)


@pytest.mark.slow
def test_json_is_an_object_a_mode(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "--model", str(folder), "--backend", "onnx", "--count", "4", "--json"]
    assert run(arguments) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["backend"] == "onnx"


def test_a_count_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--count", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err


def test_an_engine_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="none of these engines is installed: torch"):
        measure_speed("passreid-tiny", modes=(("torch", "float32"), ("torch", "bfloat16")), count=1)


def test_crops_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    modes = (("onnx", "float32"), ("onnx", "int8"))
    with pytest.raises(UsageError, match=r"a\.jpg: is empty"):
        measure_speed("passreid-tiny", modes=modes, count=1, crops=[tmp_path / "a.jpg"])


def test_memory_that_the_system_does_not_tell_is_null_and_a_dash(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    row = Speed("onnx", "float32", 1.0, 1.0, 1.0, 1.0, peak_memory(), None)
    monkeypatch.setattr("passreid.bench.measure_speed", lambda *_, **__: [row])
    assert run(["bench", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["peak_mib"] is None
    assert run(["bench"]) == 0
    assert "nan" not in capsys.readouterr().out


def test_operations_of_a_vit_b() -> None:
    """About 23 GFLOP a crop of 256 x 128, worked out term by term."""
    card = ModelCard(name="b", architecture=PRESETS["base"])
    tokens, width = 132, 768
    block = 2 * (12 * tokens * width**2 + 2 * tokens**2 * width)
    assert operations(card) == 12 * block + 2 * 128 * width * 768
    assert 22e9 < operations(card) < 24e9


def test_merged_patches_take_no_operations() -> None:
    """Two blocks of four patches, CLS and a part: the first one's MLP and the second see three."""
    a = Architecture(
        image_size=(16, 16), patch_size=8, stride=(8, 8), width=64, heads=1, depth=2, parts=1
    )
    saved = 2 * (8 * 64**2 + 12 * 64**2 + 2 * (6**2 - 5**2) * 64)
    cards = [ModelCard(name="a", architecture=replace(a, merge=merge)) for merge in (0, 1)]
    assert operations(cards[0]) - operations(cards[1]) == saved


def test_a_stem_counts_as_nothing() -> None:
    plain = Architecture(width=64, heads=1, depth=1, patch_size=8, stride=(8, 8))
    stem = Architecture(width=64, heads=1, depth=1, patch_size=8, stride=(8, 8), stem="conv4")
    cards = [ModelCard(name="a", architecture=a) for a in (plain, stem)]
    assert operations(cards[0]) - operations(cards[1]) == 2 * 32 * 16 * 64 * 3 * 64


def test_the_limit_is_not_known_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert matrix_product(2, 3, 4, "bfloat16") is None
