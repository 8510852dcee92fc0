"""evaluate and calibrate, run as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

import passreid
from passreid.cli.measure import draw_sheet
from passreid.data import ReIDDataset
from passreid.embed import load
from passreid.exporting import write_graph, write_variant
from passreid.show import ranksheet
from tests import small
from tests.cli.conftest import Cli

KEYS = {"mAP", "mINP", "rank1", "rank5", "rank10", "num_query", "num_gallery", "images_per_second"}


def test_evaluate_prints_what_the_library_measures(cli: Cli, people: ReIDDataset) -> None:
    ran = cli("evaluate", people.root, "--json")
    assert ran.code == 0
    values = json.loads(ran.out)
    assert set(values) >= KEYS
    report = passreid.evaluate(passreid.load(), people)
    assert values["mAP"] == pytest.approx(report.mAP, abs=1e-6)
    assert values["rank1"] == pytest.approx(report.rank1)
    assert (values["num_query"], values["num_gallery"]) == (len(people.query), len(people.gallery))


def test_evaluate_for_people_shows_counts_figures_and_a_sheet(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    sheet = tmp_path / "sheet.png"
    ran = cli("evaluate", people.root, "--rerank", "--sheet", sheet)
    assert ran.code == 0
    assert "Rank-1" in ran.out
    assert "query" in ran.err
    assert "2 cameras" in ran.err
    with Image.open(sheet) as picture:
        assert min(picture.size) > 200


def test_a_sheet_calls_people_and_cameras_as_the_files_do(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passreid.make_synthetic(tmp_path / "set", people=2, kind="folders", train_fraction=0)
    written: list[str] = []
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda _, __, text, **___: written.append(text)
    )
    ran = cli("evaluate", tmp_path / "set", "--sheet", tmp_path / "sheet.png")
    assert ran.code == 0
    assert {"person-001, cam 1", "person-002, cam 4"} <= set(written)
    assert not any("cam 0" in text for text in written)


def test_pairs_of_many_cameras_are_shown_whole(cli: Cli, tmp_path: Path) -> None:
    names = [f"the-{number}th-camera-of-the-hall" for number in range(5)]
    passreid.make_synthetic(tmp_path, people=3, kind="csv", train_fraction=0, cameras=5)
    listed = (tmp_path / "dataset.csv").read_text()
    for number, name in enumerate(names):
        listed = listed.replace(f",{number},", f",{name},")
    (tmp_path / "dataset.csv").write_text(listed)
    shown = cli("evaluate", tmp_path, "--camera-pairs").out
    heads = [line for line in shown.splitlines() if line.strip().startswith("query")]
    assert [name for name in names if name in heads[0]] == names


def test_names_in_brackets_and_colons_are_shown_as_they_are(cli: Cli, tmp_path: Path) -> None:
    root = tmp_path / "a"
    passreid.make_synthetic(root, people=3, kind="csv", train_fraction=0, cameras=2)
    listed = (root / "dataset.csv").read_text()
    (root / "dataset.csv").unlink()
    file = root / "[b] :dog:.csv"
    file.write_text(listed.replace(",0,", ",[/hall],"))
    ran = cli("evaluate", file, "--camera-pairs")
    assert ran.code == 0
    assert "[b] :dog:" in ran.out
    assert "[/hall]" in ran.out
    ran = cli("calibrate", file, "--output", tmp_path / "model")
    assert ran.code == 0
    assert "pairs of [b] :dog:" in ran.out
    ran = cli("compare", *sorted(root.glob("images/*"))[:2], "--model", tmp_path / "model")
    assert "[b] :dog:" in ran.out or "No threshold" in ran.err


def test_the_worst_queries_are_those_found_last(
    cli: Cli, people: ReIDDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Path] = []

    def watch(queries: Any, *_: Any, **__: Any) -> None:
        drawn.extend(sample.path for sample in queries)

    monkeypatch.setattr("passreid.show.ranksheet.rank_sheet", watch)
    report = passreid.evaluate(passreid.load(), people)
    draw_sheet(report, tmp_path / "sheet.png", rows=3, worst=True)
    order = sorted(range(len(people.query)), key=lambda n: report.metrics.average_precision[n])
    assert drawn == [people.query[n].path for n in order[:3]]
    ran = cli("evaluate", people.root, "--worst")
    assert ran.code == 2
    assert "--sheet" in ran.err


@pytest.mark.parametrize("options", [[], ["--no-camera-filter"]])
def test_a_sheet_marks_the_own_camera_as_the_figures_count_it(
    cli: Cli,
    people: ReIDDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
) -> None:
    verdicts: set[object] = set()
    draw = ranksheet._Sheet.draw

    def watch(sheet: ranksheet._Sheet) -> Image.Image:
        verdicts.update(sheet.verdicts)
        return draw(sheet)

    monkeypatch.setattr(ranksheet._Sheet, "draw", watch)
    assert cli("evaluate", people.root, "--sheet", tmp_path / "s.png", *options).code == 0
    assert verdicts == {"right", "wrong"}


def test_a_sheet_of_reranked_lists_shows_cosines(
    people: ReIDDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(
        "passreid.show.ranksheet.rank_sheet", lambda _, hits, *__, **___: drawn.extend(hits)
    )
    report = passreid.evaluate(passreid.load(), people, rerank=True)
    draw_sheet(report, tmp_path / "sheet.png", rows=1)
    found = report.ranking().hits(0)
    assert [sample for sample, _ in drawn[0]] == [people.gallery[i] for i, _ in found]
    cosines = [passreid.cosine(report.query.rows[0], report.gallery.rows[i]) for i, _ in found]
    assert [shown for _, shown in drawn[0]] == pytest.approx(cosines)
    assert [shown for _, shown in drawn[0]] != pytest.approx([s for _, s in found])


def test_evaluate_skips_and_lists_bad_pictures(cli: Cli, tmp_path: Path) -> None:
    people = passreid.make_synthetic(tmp_path / "p", people=6, cameras=2, per_camera=2)
    bad = people.gallery[0].path
    bad.write_bytes(b"")
    stopped = cli("evaluate", people.root, "--json")
    assert stopped.code == 1
    assert "--on-error skip leaves such pictures out" in stopped.err
    ran = cli("evaluate", people.root, "--json", "--on-error", "skip")
    assert ran.code == 1
    assert json.loads(ran.out)["num_gallery"] == len(people.gallery) - 1
    assert str(bad) in ran.err


def test_calibrate_writes_a_model_that_gives_probabilities(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    made = passreid.make_synthetic(
        tmp_path / "p", people=40, cameras=3, per_camera=2, train_fraction=0
    )
    output = tmp_path / "calibrated"
    ran = cli("calibrate", made.root, "--output", output)
    assert ran.code == 0, ran.err
    assert "equal error rate" in ran.out
    assert "false-accept rates of 0.0001 (too few" in ran.err
    values = json.loads((output / "model.json").read_text())
    assert values["calibration"]["data"].startswith("p (")
    a, b = people.query[0].path, people.query[1].path
    verdict = json.loads(cli("compare", a, b, "--model", output, "--json").out)
    assert 0 <= verdict["probability"] <= 1
    # The graphs came along: embedding and attention need no torch.
    assert passreid.load(output, backend="onnx").attend([a]).shape[:2] == (1, 4)


def test_what_was_exported_goes_along_with_a_calibrated_copy(
    cli: Cli, people: ReIDDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = passreid.load().calibration
    monkeypatch.setattr("passreid.evaluation.calibrate", lambda *_, **__: fitted)
    model = small.folder(tmp_path / "model", small.architecture(depth=1))
    write_graph(model)
    write_variant(model, format="onnx", precision="float16")
    write_variant(model, format="openvino", precision="float16")
    for name in (model, model / "model.safetensors"):
        output = tmp_path / f"calibrated {name.name}"
        ran = cli("calibrate", people.root, "--model", name, "--output", output)
        assert ran.code == 0, ran.err
        assert {file.name for file in output.iterdir()} == {file.name for file in model.iterdir()}
        assert load(output, backend="onnx", precision="float16").calibration == fitted
        assert load(output, backend="openvino", precision="float16").calibration == fitted


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "model"):
        ran = cli("calibrate", people.root, "--output", output)
        assert ran.code == 2
        assert ran.err.startswith(f"error: {output}: cannot be a folder to write to")


def test_flip_without_a_calibration_for_it_gives_no_probability(
    cli: Cli, people: ReIDDataset
) -> None:
    path = people.query[0].path
    ran = cli("compare", path, path, "--flip", "--json")
    assert json.loads(ran.out)["probability"] is None
    assert "--flip" in ran.err


def test_evaluate_by_pairs_of_cameras(cli: Cli, people: ReIDDataset) -> None:
    pairs = json.loads(cli("evaluate", people.root, "--json", "--camera-pairs").out)["camera_pairs"]
    # The files are called 0005_c1s1_000000_00.jpg and 0005_c2s1_000000_00.jpg.
    assert {(p["query"], p["gallery"]) for p in pairs} == {("1", "2"), ("2", "1")}
    assert 0 < pairs[0]["mAP"] <= 1
    assert pairs[0]["num_query"] > 0
    shown = cli("evaluate", people.root, "--camera-pairs", "--rerank").out
    assert f"({pairs[0]['num_query']})" in shown


def test_evaluate_says_what_it_understood(cli: Cli, people: ReIDDataset) -> None:
    ran = cli("evaluate", people.root)
    for subset, count, images, cameras in people.summary():
        (line,) = [line for line in ran.err.splitlines() if line.strip().startswith(subset)]
        assert [int(n) for n in line.split() if n.isdecimal()] == [images, count, cameras]
    understood = json.loads(cli("evaluate", people.root, "--json").out)["dataset"]
    assert understood["kind"] == "market1501"
    assert understood["query"] == {"subset": "query", "people": 4, "images": 8, "cameras": 2}


def test_evaluate_averages_over_random_splits(cli: Cli, tmp_path: Path) -> None:
    root = tmp_path / "viper"
    passreid.make_synthetic(root, people=8, cameras=2, kind="viper")
    assert "random split 1 of 10" in cli("evaluate", root).err
    ran = cli("evaluate", root, "--splits", "3", "--json")
    values = json.loads(ran.out)
    assert values["splits"] == 3
    single = [
        passreid.evaluate(passreid.load(), passreid.read_dataset(root, split=k)).mAP
        for k in range(3)
    ]
    assert values["mAP"] == pytest.approx(sum(single) / 3, abs=1e-6)
    assert set(values["spread"]) == {"mAP", "mINP", "rank1", "rank5", "rank10"}
    assert "±" in cli("evaluate", root, "--splits", "2").out
    refused = cli("evaluate", root, "--splits", "11")
    assert refused.code == 2 and "no random split 10" in refused.err
    assert cli("evaluate", root, "--splits", "0").code == 2


def test_evaluate_pools_queries_and_leaves_out_clothes(cli: Cli, tmp_path: Path) -> None:
    root = tmp_path / "ltcc"
    made = passreid.make_synthetic(root, people=4, cameras=3, kind="ltcc", train_fraction=0)
    values = json.loads(cli("evaluate", root, "--multi-query", "--json").out)
    assert values["num_query"] == len({(s.pid, s.camid) for s in made.query})
    assert any("multi-query" in line for line in values["notes"])
    changing = json.loads(cli("evaluate", root, "--clothes-changing", "--json").out)
    assert changing["mAP"] < json.loads(cli("evaluate", root, "--json").out)["mAP"]
    plain = passreid.make_synthetic(tmp_path / "m", people=2, train_fraction=0)
    refused = cli("evaluate", plain.root, "--clothes-changing")
    assert refused.code == 1 and "clothid" in refused.err
