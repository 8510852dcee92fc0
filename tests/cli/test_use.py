"""embed, compare and rank, run as a user runs them."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import passreid
from passreid.card import ModelCard
from passreid.centring import CameraMeans
from passreid.cli.app import calibration_of
from passreid.cli.use import Search
from passreid.data import ReIDDataset
from passreid.hub import MODELS
from tests.cli.conftest import Cli


def test_embed_writes_paths_and_raw_embeddings(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    output = tmp_path / "crops.npz"
    paths = [str(sample.path) for sample in people.query[:3]]
    ran = cli("embed", *paths, "--output", output)
    assert ran.code == 0
    with np.load(output) as stored:
        assert stored["paths"].tolist() == paths
        assert stored["embeddings"].dtype == np.float32
        np.testing.assert_allclose(stored["embeddings"], passreid.load()(paths), atol=1e-5)
    assert "3 embeddings of 384 numbers" in ran.err


def test_the_suffix_may_be_in_capitals(cli: Cli, people: ReIDDataset, tmp_path: Path) -> None:
    output = tmp_path / "CROPS.NPZ"
    assert cli("embed", people.query[0].path, "--output", output).code == 0
    with np.load(output) as stored:
        assert len(stored["embeddings"]) == 1
    assert list(tmp_path.iterdir()) == [output]


def test_embed_takes_folders_and_prints_one_object_a_line(cli: Cli, gallery: Path) -> None:
    ran = cli("embed", gallery, "--json")
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert len(lines) == len(list(gallery.glob("*.jpg")))
    assert all(len(line["embedding"]) == 384 for line in lines)


def test_embed_skips_lists_and_says_so_in_the_exit_code(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    ran = cli("embed", people.query[0].path, bad, "--json", "--on-error", "skip")
    assert ran.code == 1
    assert len(ran.out.splitlines()) == 1
    assert "Skipped 1 picture:" in ran.err
    assert str(bad) in ran.err
    stopped = cli("embed", people.query[0].path, bad, "--json")
    assert stopped.code == 1
    assert not stopped.out
    assert stopped.err.startswith(f"error: {bad}: ")
    assert "--on-error skip leaves such pictures out" in stopped.err
    assert "--on-error" not in cli("embed", bad).err


def test_compare_gives_cosine_probability_and_verdict(cli: Cli, people: ReIDDataset) -> None:
    path = people.query[0].path
    ran = cli("compare", path, path, "--json")
    values = json.loads(ran.out)
    assert ran.code == 0
    assert values["cosine"] > 0.9999
    assert values["probability"] > 0.9
    assert values["same_person"] is True
    assert "The same person" in cli("compare", path, path).out


FIXED = ("cosine", "probability", "same_person", "threshold", "false_accept_rate")


@pytest.mark.parametrize(
    ("option", "told"), [("--model", {"cosine", "probability"}), ("--flip", {"cosine"})]
)
def test_compare_tells_what_it_can_where_the_calibration_does_not_tell_all(
    cli: Cli, people: ReIDDataset, tmp_path: Path, option: str, told: set[str]
) -> None:
    path = people.query[0].path
    options = [option]
    if option == "--model":
        options.append(_loosely_calibrated(tmp_path / "model"))
    ran = cli("compare", path, path, "--json", *options)
    values = json.loads(ran.out)
    assert ran.code == 0
    assert {key for key in FIXED if values[key] is not None} == told
    assert values.keys() == json.loads(cli("compare", path, path, "--json").out).keys()
    shown = cli("compare", path, path, *options)
    assert shown.out.startswith("Cosine 1.000")
    assert ("probability > 0.999" in shown.out) == ("probability" in told)
    assert ("No threshold is known" in shown.err) == ("probability" in told)


def test_compare_states_the_prior_and_the_fmr_it_answers_with(
    cli: Cli, people: ReIDDataset
) -> None:
    a, b = people.query[0].path, people.query[1].path
    even = json.loads(cli("compare", a, b, "--json").out)
    rare = json.loads(cli("compare", a, b, "--json", "--prior", 0.001).out)
    assert (even["prior"], rare["prior"]) == (0.5, 0.001)
    odds = even["probability"] / (1 - even["probability"]) * 0.001 / 0.999
    assert rare["probability"] == pytest.approx(odds / (1 + odds), rel=1e-6)
    assert 0 < even["false_match_rate"] <= 1
    shown = cli("compare", a, b, "--prior", 0.001)
    assert "if 0.001 of such pairs show one person" in shown.out
    assert "100" not in shown.out.partition("probability")[2]
    assert cli("compare", a, b, "--prior", 1).code == 2


def test_results_say_that_the_calibration_is_the_models_until_the_user_calibrates(
    cli: Cli, people: ReIDDataset, gallery: Path, tmp_path: Path
) -> None:
    a, b = people.query[0].path, people.query[1].path
    ran = cli("compare", a, b, "--json")
    assert json.loads(ran.out)["calibration"]["origin"] == "model"
    assert "are those of the model on market600" in ran.err
    assert "are those of the model" in cli("rank", a, gallery).err
    crops = tmp_path / "crops"
    crops.mkdir()
    for sample in people.gallery:
        shutil.copy(sample.path, crops)
    own = tmp_path / "own"
    assert cli("calibrate", crops, "--output", own).code == 0
    ran = cli("compare", a, b, "--json", "--model", own)
    assert json.loads(ran.out)["calibration"]["origin"] == "user"
    assert "are those of the model" not in ran.err


def test_compare_refuses_a_rate_that_was_not_measured(cli: Cli, people: ReIDDataset) -> None:
    path = people.query[0].path
    ran = cli("compare", path, path, "--json", "--false-accept-rate", "1e-6")
    assert (ran.code, ran.out) == (1, "")
    assert "rate of 1e-06; measured on" in ran.err and "0.01, 0.001, 0.0001" in ran.err
    asked = cli("compare", path, path, "--json", "--false-accept-rate", "0.01")
    assert json.loads(asked.out)["false_accept_rate"] == 0.01


def _loosely_calibrated(folder: Path) -> str:
    """The bundled model, calibrated on too few people for a false-accept rate of 0.001."""
    shutil.copytree(MODELS / "passreid-tiny", folder)
    card = json.loads((folder / "model.json").read_text())
    del card["calibration"]["points"][1:]
    (folder / "model.json").write_text(json.dumps(card))
    return str(folder)


def test_rank_orders_by_cosine_and_leaves_out_the_query_itself(cli: Cli, gallery: Path) -> None:
    query = sorted(gallery.glob("*.jpg"))[0]
    ran = cli("rank", query, gallery, "--top", 4, "--json")
    answer = json.loads(ran.out)
    cosines = [match["cosine"] for match in answer["matches"]]
    assert len(cosines) == 4
    assert cosines == sorted(cosines, reverse=True)
    assert str(query) not in [match["path"] for match in answer["matches"]]


def test_rank_says_how_many_strangers_each_score_would_bring(cli: Cli, gallery: Path) -> None:
    query = sorted(gallery.glob("*.jpg"))[0]
    answer = json.loads(cli("rank", query, gallery, "--json").out)
    entries = len(list(gallery.glob("*.jpg")))
    assert answer["entries"] == entries
    assert answer["cut"]["fpir"] == pytest.approx(0.05)
    for match in answer["matches"]:
        strangers = match["expected_strangers"]
        assert strangers == pytest.approx(entries * match["false_match_rate"])
        limits = {"strong": (0, 0.05), "possible": (0.05, 1), "weak": (1, np.inf)}
        low, high = limits[match["band"]]
        assert low <= strangers < high
    shown = cli("rank", query, gallery).out
    assert f"{answer['matches'][0]['band']} " in shown
    assert "strangers expected" in shown
    assert "%" not in shown


def test_same_only_cuts_at_the_stated_fpir(cli: Cli, gallery: Path) -> None:
    query = sorted(gallery.glob("*.jpg"))[0]
    listed = json.loads(cli("rank", query, gallery, "--json", "--top", 50).out)
    for options in ([], ["--fpir", 0.5], ["--false-match-rate", 0.01]):
        kept = json.loads(cli("rank", query, gallery, "--json", "--same-only", *options).out)
        at = kept["cut"]["threshold"]
        above = [m["path"] for m in listed["matches"] if m["cosine"] >= at]
        assert [match["path"] for match in kept["matches"]] == above[:10]
    loose = json.loads(cli("rank", query, gallery, "--json", "--fpir", 0.5).out)
    assert loose["cut"]["threshold"] < listed["cut"]["threshold"]
    for wrong in (["--fpir", 1.5], ["--fpir", 0.1, "--false-match-rate", 0.01]):
        assert cli("rank", query, gallery, *wrong).code == 2
    ran = cli("rank", query, gallery, "--fpir", 0.1, "--flip")  # not calibrated for it
    assert ran.code == 2 and "need a calibrated model" in ran.err


def test_rank_and_compare_centre_cameras_by_the_names_of_files(
    cli: Cli, people: ReIDDataset, gallery: Path, tmp_path: Path
) -> None:
    query, other = people.query[0].path, people.gallery[0].path
    ran = cli("rank", query, gallery, "--json", "--centre-on", "self", "--top", 3)
    assert ran.code == 0, ran.err
    assert "without camera centring" in ran.err  # so nothing is said of error rates
    match = json.loads(ran.out)["matches"][0]
    means = CameraMeans(384)
    paths = sorted(gallery.glob("*.jpg"))
    cameras = [path.name.split("_c")[1][0] for path in paths]
    rows = passreid.load()(paths)
    means.add(rows, cameras)
    asked = means.centre(passreid.load()(query), [query.name.split("_c")[1][0]])
    cosines = passreid.cosine(asked[0], means.centre(rows, cameras))
    assert match["cosine"] in [pytest.approx(c, abs=1e-5) for c in cosines]
    means.save(tmp_path / "cameras.npz")
    by_file = cli("compare", query, other, "--json", "--centre-on", tmp_path / "cameras.npz")
    by_folder = cli("compare", query, other, "--json", "--centre-on", gallery)
    assert by_file.out == by_folder.out
    expected = cosines[paths.index(other)]
    assert json.loads(by_file.out)["cosine"] == pytest.approx(expected, abs=1e-5)
    assert json.loads(by_file.out)["probability"] is None


def test_centring_refuses_cameras_nobody_names(
    cli: Cli, people: ReIDDataset, gallery: Path, tmp_path: Path
) -> None:
    unnamed = tmp_path / "someone.jpg"
    shutil.copy(people.query[0].path, unnamed)
    ran = cli("compare", unnamed, people.query[1].path, "--centre-on", gallery)
    assert ran.code == 2
    assert "no name says which camera" in ran.err and "--camera-a" in ran.err
    options = ("--centre-on", gallery, "--camera-a")
    assert cli("compare", unnamed, people.query[1].path, *options, "1").code == 0
    ran = cli("compare", unnamed, people.query[1].path, *options, "9")
    assert "No crop by camera 9 (there are 1, 2)" in ran.err
    for wrong in (("--camera-a", "1"), ("--centre-on", "self")):
        assert cli("compare", unnamed, unnamed, *wrong).code == 2
    np.savez(tmp_path / "f.npz", cameras=["1"], counts=[1], sums=np.ones((1, 3)), shrinkage=1.0)
    ran = cli("compare", unnamed, unnamed, "--centre-on", tmp_path / "f.npz")
    assert "means of 3 numbers and passreid-tiny embeds to 384" in ran.err


def test_rank_can_answer_no_match(cli: Cli, gallery: Path, tmp_path: Path) -> None:
    grey = tmp_path / "grey.png"
    Image.new("RGB", (64, 128), (90, 90, 90)).save(grey)
    ran = cli("rank", grey, gallery, "--same-only", "--false-accept-rate", 0.001, "--json")
    assert json.loads(ran.out)["no_match"] is True
    assert "no match" in cli("rank", grey, gallery, "--same-only").out


def test_what_is_alike_enough_is_found_where_reranking_puts_others_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query = np.array([[1.0, 0.0]], np.float32)
    gallery = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.1], [1.0, 0.2]], np.float32)
    distances = np.array([[0.1, 0.2, 0.4, 0.3]], np.float32)
    monkeypatch.setattr("passreid.cli.use.rerank", lambda *_: distances.copy())
    found = Search(top=1, rerank=True).find(query, gallery, -math.inf)
    assert [index for index, _ in found[0]] == [0, 1]
    strict = Search(top=1, rerank=True, same_only=True).find(query, gallery, 0.9)
    assert [index for index, _ in strict[0]] == [3, 2]
    assert [score for _, score in strict[0]] == pytest.approx([0.9806, 0.9950], abs=1e-4)


def test_rank_draws_a_sheet_and_reranks(cli: Cli, people: ReIDDataset, tmp_path: Path) -> None:
    sheet = tmp_path / "ranked.png"
    query, gallery = people.query[0].path.parent, people.gallery[0].path.parent
    ran = cli("rank", query, gallery, "--rerank", "--sheet", sheet, "--top", 3)
    assert ran.code == 0
    with Image.open(sheet) as picture:
        assert min(picture.size) > 200


def test_rank_sheet_marks_hits_by_the_pids_in_file_names_and_caps_its_rows(
    cli: Cli, people: ReIDDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(
        "passreid.show.ranksheet.rank_sheet", lambda *given, **_: drawn.extend(given)
    )
    queries = tmp_path / "queries"
    queries.mkdir()
    for number in range(21):
        shutil.copy(people.query[0].path, queries / f"0007_c1s1_{number:06}.jpg")
    others = tmp_path / "others"
    others.mkdir()
    for name in ("0007_c2s1_1.jpg", "0000_c2s1_1.jpg", "holiday.jpg"):
        shutil.copy(people.query[0].path, others / name)
    ran = cli("rank", queries, others, "--sheet", tmp_path / "s.png")
    assert "the first 20 of 21 queries" in ran.err
    asked, hits = drawn[:2]
    assert len(asked) == len(hits) == 20
    assert (asked[0].pid, asked[0].camid) == (7, 1)
    shown = {hit if isinstance(hit, str) else (hit.pid, hit.camid) for hit, _ in hits[0]}
    assert shown == {(7, 2), str(others / "0000_c2s1_1.jpg"), str(others / "holiday.jpg")}


def test_rank_draws_its_sheet_also_for_a_reader_who_stops_early(
    people: ReIDDataset, tmp_path: Path
) -> None:
    folders = people.query[0].path.parent, people.gallery[0].path.parent
    command = [sys.executable, "-u", "-m", "passreid", "rank", *map(str, folders), "--sheet"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*command, tmp_path / "ranked.png"], stdout=write, check=False)
    os.close(write)
    assert done.returncode == 1
    assert (tmp_path / "ranked.png").exists()


def test_rank_can_skip_bad_pictures(cli: Cli, people: ReIDDataset, tmp_path: Path) -> None:
    shutil.copy(people.gallery[0].path, tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"")
    assert "--on-error skip" in cli("rank", people.query[0].path, tmp_path).err
    ran = cli("rank", people.query[0].path, tmp_path, "--json", "--on-error", "skip")
    assert ran.code == 1
    assert len(json.loads(ran.out)["matches"]) == 1


def test_rank_in_a_folder_where_nothing_can_be_read(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").touch()
    ran = cli("rank", people.query[0].path, tmp_path, "--json", "--on-error", "skip")
    assert ran.code == 1
    assert json.loads(ran.out)["matches"] == []
    assert "Skipped 1 picture:" in ran.err


def test_embed_of_nothing_readable_still_writes_text_and_floats(cli: Cli, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.touch()
    assert cli("embed", bad, "--output", tmp_path / "f.npz", "--on-error", "skip").code == 1
    with np.load(tmp_path / "f.npz") as stored:
        assert stored["paths"].dtype.kind == "U"
        assert stored["embeddings"].shape == (0, 384)


def test_an_empty_name_is_not_this_folder(
    cli: Cli, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(gallery)
    assert cli("embed", ".").code == 0
    for arguments in (("embed", ""), ("rank", "", ".")):
        ran = cli(*arguments)
        assert ran.code == 2
        assert "No picture was given" in ran.err


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_names_that_stdout_cannot_encode_are_spelled_out(
    people: ReIDDataset, tmp_path: Path, options: list[str]
) -> None:
    for sample, name in zip(people.query, ("é.jpg", "b.jpg"), strict=False):
        shutil.copy(sample.path, tmp_path / name)
    command = [sys.executable, "-m", "passreid", "rank", "b.jpg", ".", *options]
    narrow = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        command, cwd=tmp_path, env=narrow, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if options:
        assert json.loads(done.stdout)["matches"][0]["path"] == "é.jpg"
    else:
        assert "\\xe9.jpg" in done.stdout


def test_names_cannot_write_to_the_terminal(cli: Cli, gallery: Path, tmp_path: Path) -> None:
    content = next(gallery.iterdir()).read_bytes()
    crops = tmp_path / "odd"
    crops.mkdir()
    names = [b"x\ny\x1b[31m.jpg", b"caf\xe9.jpg", b"\xe2\x80\xaegpj.jpg", "张.jpg".encode()]
    for name in names:
        (crops / os.fsdecode(name)).write_bytes(content)
        (crops / os.fsdecode(b"bad-" + name)).write_bytes(b"no picture")
    query = str(next(gallery.iterdir()))
    done = cli("rank", query, str(crops), "--on-error", "skip")
    assert done.code == 1
    for shown in (r"x\ny\x1b[31m.jpg", r"caf\udce9.jpg", r"\u202egpj.jpg", "张.jpg"):
        assert f"/{shown}\n" in done.out
        assert f"/bad-{shown}: is not a JPEG" in done.err
    wrong = cli("rank", os.fsdecode(b"a\x1b[31m\xff.jpg"), str(crops))
    assert wrong.code == 1 and r"a\x1b[31m\udcff.jpg: there is no such file" in wrong.err
    for text in (done.out, done.err, wrong.err):
        assert all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize("flip", [False, True])
def test_it_is_said_how_a_calibration_that_does_not_fit_was_made(
    flip: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    card = ModelCard.read(MODELS / "passreid-tiny" / "model.json")
    assert card.calibration is not None
    embedder: Any = SimpleNamespace(calibration=replace(card.calibration, flip=flip), flip=not flip)
    assert calibration_of(embedder) is None
    assert f"was fitted {'with' if flip else 'without'} --flip" in capsys.readouterr().err
