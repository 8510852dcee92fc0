"""evaluate and calibrate, run as a user runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

import passreid
from passreid.cli.calibration import _reach
from passreid.cli.measure import draw_sheet
from passreid.data import ReIDDataset
from passreid.embed import load
from passreid.exporting import write_graph, write_variant
from passreid.hub import MODELS
from tests import small
from tests.cli.conftest import Cli
from tests.drawn import draw_layout

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
    draw_layout(tmp_path / "set", "folders", people=2, train_fraction=0, size=(128, 64))
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
    draw_layout(tmp_path, "csv", people=3, train_fraction=0, cameras=5, size=(128, 64))
    listed = (tmp_path / "dataset.csv").read_text()
    for number, name in enumerate(names):
        listed = listed.replace(f",{number},", f",{name},")
    (tmp_path / "dataset.csv").write_text(listed)
    shown = cli("evaluate", tmp_path, "--camera-pairs").out
    heads = [line for line in shown.splitlines() if line.strip().startswith("query")]
    assert [name for name in names if name in heads[0]] == names


def test_names_in_brackets_and_colons_are_shown_as_they_are(cli: Cli, tmp_path: Path) -> None:
    root = tmp_path / "a"
    draw_layout(root, "csv", people=3, train_fraction=0, cameras=2, size=(128, 64))
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


@pytest.mark.parametrize(("options", "filtered"), [([], True), (["--no-camera-filter"], False)])
def test_a_sheet_is_drawn_by_the_camera_filter_of_the_figures(
    cli: Cli,
    people: ReIDDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    filtered: bool,
) -> None:
    filters: list[bool] = []
    monkeypatch.setattr(
        "passreid.show.ranksheet.rank_sheet",
        lambda *_, camera_filter, **__: filters.append(camera_filter),
    )
    assert cli("evaluate", people.root, "--sheet", tmp_path / "s.png", *options).code == 0
    assert filters == [filtered]


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


def crops_without_labels(people: ReIDDataset, folder: Path) -> Path:
    """The gallery's pictures with cameras and no people in their names."""
    folder.mkdir()
    for number, sample in enumerate(people.gallery):
        name = f"crop{number}_c{sample.camid + 1}.jpg"
        (folder / name).write_bytes(sample.path.read_bytes())
    return folder


def test_calibrate_without_labels_promises_no_more_than_pairs_support(
    cli: Cli, tmp_path: Path
) -> None:
    made = passreid.make_synthetic(
        tmp_path / "p", people=40, cameras=3, per_camera=2, train_fraction=0
    )
    crops, output = crops_without_labels(made, tmp_path / "crops"), tmp_path / "model"
    ran = cli("calibrate", crops, "--output", output, "--people", 40)
    assert ran.code == 0, ran.err
    assert "nothing says who is on the pictures; calibrating without labels" in ran.err
    assert "pairs of crops (" in ran.out and "without labels" in ran.out
    # 780 pairs of people: not one rate of a thousandth, and a fortieth of all pairs is genuine.
    assert (
        "pairs of different people cannot support" in ran.err and "0.01, 0.001, 0.0001" in ran.err
    )
    ran = cli("calibrate", crops, "--output", output)
    assert "FMR 0.01: threshold 0." in ran.out
    assert "true rate at most 0.01; --people N says how far below" in ran.out
    values = json.loads((output / "model.json").read_text())["calibration"]
    assert values["origin"] == "user"
    assert "without labels" in cli("models", output).out
    assert "slope" not in values and values["curve"]["fmr"][0] == 1
    verdict = json.loads(
        cli(
            "compare",
            *sorted(crops.iterdir())[:2],
            "--model",
            output,
            "--json",
            "--false-match-rate",
            0.01,
        ).out
    )
    assert verdict["probability"] is None
    assert verdict["same_person"] is not None
    ran = cli("calibrate", crops, "--output", output, "--within-cameras", "--json")
    assert json.loads(ran.out)["different_pairs"] == len(list(crops.iterdir())) ** 2 // 2 - 60
    assert cli("calibrate", crops, "--output", output, "--labels").code == 1
    assert cli("calibrate", crops, "--output", output, "--people", 1).code == 2


def test_it_is_said_between_which_ends_a_rate_without_labels_lies() -> None:
    assert _reach(0.01, 1 / 500) == "true rate between 0.008 and 0.01"
    assert _reach(0.001, 1 / 500).endswith(
        "how far below is unknown, as one pair in 500 is genuine"
    )


def test_options_for_crops_without_labels_are_refused_with_labels(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    for options in (["--people", 30], ["--within-cameras"]):
        ran = cli("calibrate", people.root, "--output", tmp_path / "m", *options)
        assert ran.code == 2 and "--no-labels" in ran.err
    assert not (tmp_path / "m").exists()


def test_calibrate_takes_several_labelled_sets_and_one_folder_of_crops(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    other = passreid.make_synthetic(tmp_path / "other", people=8, cameras=2, per_camera=2, seed=3)
    output = tmp_path / "model"
    ran = cli("calibrate", people.root, other.root, "--output", output, "--json")
    assert ran.code == 0, ran.err
    names = json.loads(ran.out)["data"]
    assert names.startswith("people (") and " and other (" in names
    crops = crops_without_labels(people, tmp_path / "crops")
    for wrong in ([crops, crops, "--no-labels"], []):
        ran = cli("calibrate", *wrong, "--output", output)
        assert ran.code == 2 and "error: " in ran.err


def test_labels_can_be_left_unused(cli: Cli, people: ReIDDataset, tmp_path: Path) -> None:
    ran = cli("calibrate", people.root, "--no-labels", "--output", tmp_path / "m", "--json")
    assert ran.code == 0, ran.err
    assert "equal_error_rate" not in json.loads(ran.out)


def test_calibrate_centred_writes_the_means_that_compare_needs(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    output = tmp_path / "centred"
    ran = cli("calibrate", people.root, "--output", output, "--centre-on", "self")
    assert ran.code == 0, ran.err
    means = output / "cameras.npz"
    assert f"--centre-on {means}" in ran.err
    pair = [people.query[0].path, people.gallery[0].path]
    with_means = cli("compare", *pair, "--json", "--model", output, "--centre-on", means)
    assert json.loads(with_means.out)["probability"] is not None
    without = cli("compare", *pair, "--json", "--model", output)
    assert json.loads(without.out)["probability"] is None
    assert "fitted with camera centring" in without.err


def test_several_sets_give_a_row_each_and_say_which_are_in_domain(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    other = passreid.make_synthetic(tmp_path / "other", people=6, cameras=2, per_camera=2)
    model = tmp_path / "model"
    shutil.copytree(MODELS / "passreid-tiny", model)
    card = json.loads((model / "model.json").read_text()) | {"trained_on": ["other"]}
    (model / "model.json").write_text(json.dumps(card))
    ran = cli("evaluate", people.root, other.root, "--model", model, "--json")
    assert ran.code == 0, ran.err
    values = json.loads(ran.out)
    assert [row["data"] for row in values["sets"]] == ["people", "other"]
    assert [row["in_domain"] for row in values["sets"]] == [False, True]
    for row, root in zip(values["sets"], (people.root, other.root), strict=True):
        alone = json.loads(cli("evaluate", root, "--model", model, "--json").out)
        assert {**row, "images_per_second": 0} == {**alone, "images_per_second": 0}
    shown = cli("evaluate", people.root, other.root, "--model", model).out.splitlines()
    rows = [line for line in shown if line.split()[:1] in (["people"], ["other"])]
    assert [row.split()[2] for row in rows] == ["no", "yes"]
    (model / "model.json").write_text(json.dumps(card | {"trained_on": []}))
    assert "unknown" in cli("evaluate", people.root, other.root, "--model", model).out
    alone = cli("evaluate", people.root, "--model", MODELS / "passreid-tiny").out.split()
    assert alone[alone.index("set") + 2] == "no"
    ran = cli("evaluate", people.root, other.root, "--centre-on", people.root)
    assert ran.code == 2 and "--centre-on self" in ran.err
    ran = cli("evaluate", people.root, other.root, "--sheet", tmp_path / "s.png")
    assert ran.code == 2 and "name one" in ran.err
    assert cli("evaluate").code == 2


def test_evaluate_reports_open_set_search_and_draws_its_det_curve(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    plot = tmp_path / "det.png"
    ran = cli("evaluate", people.root, "--json", "--det", plot)
    values = json.loads(ran.out)
    report = passreid.evaluate(passreid.load(), people)
    assert list(values["tpir"]) == ["0.01", "0.05", "0.1"]
    assert values["tpir"]["0.01"] is None  # too few searches to tell
    det = values["det"]["identification"]
    assert det["fpir"][0] == 1 and len(det["fpir"]) == len(det["fnir"]) == len(det["threshold"])
    low, high = values["intervals"]["mAP"]
    assert low <= report.mAP <= high
    with Image.open(plot) as picture:
        assert min(picture.size) > 200
    ran = cli("evaluate", people.root, "--det", plot, "--rerank")
    assert ran.code == 2 and "--rerank" in ran.err


def test_evaluate_centres_cameras(cli: Cli, people: ReIDDataset) -> None:
    plain = json.loads(cli("evaluate", people.root, "--json").out)
    ran = cli("evaluate", people.root, "--json", "--centre-on", "self")
    centred = json.loads(ran.out)
    assert (plain["centred"], centred["centred"]) == (False, True)
    assert "Each camera's mean embedding was subtracted." in centred["notes"]
    assert centred["det"]["comparison"] != plain["det"]["comparison"]


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
    draw_layout(root, "viper", people=8, cameras=2, size=(128, 64))
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
    made = draw_layout(root, "ltcc", people=4, cameras=3, train_fraction=0, size=(128, 64))
    values = json.loads(cli("evaluate", root, "--multi-query", "--json").out)
    assert values["num_query"] == len({(s.pid, s.camid) for s in made.query})
    assert any("multi-query" in line for line in values["notes"])
    for options, noted in (((), True), (("--clothes-changing",), False)):
        values = json.loads(cli("evaluate", root, *options, "--json").out)
        assert any("--clothes-changing leaves them out" in n for n in values["notes"]) == noted
    plain = passreid.make_synthetic(tmp_path / "m", people=2, train_fraction=0)
    refused = cli("evaluate", plain.root, "--clothes-changing")
    assert refused.code == 1 and "clothid" in refused.err
