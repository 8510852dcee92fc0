"""gallery: every verb, run as a user runs it."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from passreid.cli.gallery import one_line
from passreid.data import ReIDDataset, make_synthetic
from passreid.embed import load
from passreid.openset import cut
from tests.cli.conftest import Cli

pytest.importorskip("faiss")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> ReIDDataset:
    return make_synthetic(tmp_path_factory.mktemp("people"), people=6, cameras=2, per_camera=1)


def test_people_are_enrolled_found_and_forgotten(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    box, folder = tmp_path / "p.gallery", people.gallery[0].path.parent
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"no picture")
    added = cli("gallery", "add", box, folder, damaged, "--camera", "gate", "--time", 1700000000)
    assert added.code == 1
    count = len(list(folder.glob("*.jpg")))
    assert f"Added {count}, known 0; {box} holds {count} entries." in added.err
    assert "damaged.jpg" in added.err
    again = cli("gallery", "add", box, folder, "--camera", "gate")
    assert (again.code, f"Added 0, known {count}" in again.err) == (0, True)
    assert "other labels" not in again.err
    other = cli("gallery", "add", box, folder, "--camera", "other")
    assert f"{count} of the known have other labels there, which stay" in other.err

    query = str(people.query[0].path)
    found = cli("gallery", "search", box, query, "--top", 2, "--json")
    hits = [json.loads(line) for line in found.out.splitlines()]
    assert [hit["rank"] for hit in hits] == [1, 2]
    assert hits[0]["cosine"] >= hits[1]["cosine"]
    assert hits[0]["camera"] == "gate"
    assert 0 <= hits[0]["probability"] <= 1
    assert cli("gallery", "search", box, query, "--not-camera", "gate").out == (
        "No match. No entry meets all the filters at once.\n"
    )
    anew = cli("gallery", "search", box, query, "--top", 20, "--rerank", "--json")
    assert len(anew.out.splitlines()) == min(count, 20)
    track = cli("gallery", "search", box, query, query, "--top", 1)
    assert track.code == 0
    assert "gate" in track.out

    listed = cli("gallery", "list", box, "--limit", 1, "--since", "2023-11-14")
    assert len(listed.out.splitlines()) == 1
    assert "2023-11-14 22:13:20" in listed.out
    assert "--after" in listed.err
    early = cli("gallery", "list", box, "--until", "2023-11-14T23:13:00+01:00")
    assert (early.out, early.err) == ("", "No match. No entry has a time in that span.\n")
    told = json.loads(cli("gallery", "info", box, "--json").out)
    assert (told["count"], told["engine"]) == (count, "sqlite")

    assert cli("gallery", "remove", box).code == 2
    removed = cli("gallery", "remove", box, "--id", hits[0]["id"])
    assert f"Forgot 1 entries; {box} holds {count - 1}." in removed.err
    assert "To be forgotten: 1 entry; camera 'gate' (1)." in removed.err
    again = cli("gallery", "remove", box, "--id", hits[0]["id"], "--yes")
    assert (again.code, again.err) == (1, "Forgot nothing. No entry has such an id.\n")
    assert cli("gallery", "compact", box).code == 0
    assert f"count          {count - 1}\n" in cli("gallery", "info", box).out
    assert f"Forgot {count - 1}" in cli("gallery", "remove", box, "--everything").err


def test_people_are_labelled_anew(
    cli: Cli, people: ReIDDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("passreid.gallery.exchange._BATCH", 2)  # pages that the labels cut through
    box = tmp_path / "p.gallery"
    cli("gallery", "add", box, people.gallery[0].path.parent, "--camera", "gate")
    cli("gallery", "add", box, people.query[0].path, "--camera", "yard")

    def listed(*filters: str) -> list[dict[str, object]]:
        ran = cli("gallery", "list", box, "--json", *filters)
        return [json.loads(line) for line in ran.out.splitlines()]

    count = len(listed("--camera", "gate"))
    assert count > 2
    given = ("camera=door=2", "person=Jane Doe", "time=20231114T221320Z")
    done = cli("gallery", "label", box, *given, "--camera", "gate")
    assert (done.code, done.err.strip()) == (0, f"Labelled {count} entries.")
    changed = listed("--camera", "door=2")
    assert len(changed) == count
    assert {(entry["person"], entry["time"]) for entry in changed} == {("Jane Doe", 1700000000)}
    assert listed("--camera", "yard")[0]["person"] is None

    assert cli("gallery", "label", box, "person=", "time=", "--everything").code == 0
    assert {(entry["person"], entry["time"]) for entry in listed()} == {(None, None)}
    assert len(listed("--camera", "door=2")) == count


def test_entries_are_chosen_and_hits_ordered_as_asked(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    box, pictures = tmp_path / "p.gallery", [str(sample.path) for sample in people.query[:3]]
    for n, picture in enumerate(pictures):
        labels = ("--person", f"p{n // 2}", "--tracklet", f"[b]t{n}")
        assert cli("gallery", "add", box, picture, *labels, "--no-thumbnails").code == 0
    entries = [json.loads(line) for line in cli("gallery", "list", box, "--json").out.splitlines()]
    assert len(entries) == 3

    def found(*options: object) -> list[Any]:
        ran = cli("gallery", "search", box, *options, "--json")
        return [json.loads(line) for line in ran.out.splitlines()]

    for option, value, picture in (
        ("--person", "p1", pictures[2]),
        ("--tracklet", "[b]t1", pictures[1]),
        ("--source", pictures[0], pictures[0]),
    ):
        assert [hit["source"] for hit in found(pictures[0], option, value)] == [picture]
    assert len(found(pictures[0])) == 3
    assert [hit["person"] for hit in found(pictures[2], "--group-by", "person")] == ["p1", "p0"]
    assert [hit["source"] for hit in found(pictures[1], "--min-score", 0.999)] == [pictures[1]]
    assert max(hit["cosine"] for hit in found(*pictures)) < 0.999
    nobody = cli("gallery", "search", box, pictures[0], "--person", "p2")
    assert (nobody.code, nobody.out) == (
        0,
        "No match. No entry has the person 'p2'; there are 'p0' (2), 'p1' (1).\n",
    )
    assert found(pictures[0], "--person", "nobody") == []
    shown = cli("gallery", "search", box, pictures[1], "--top", 1).out
    assert "p0  track [b]t1  " in shown


def test_hits_are_ordered_anew_among_a_hundred_or_all_that_are_shown(
    cli: Cli, people: ReIDDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from passreid.gallery.local import SqliteGallery

    box, picture = tmp_path / "p.gallery", people.query[0].path
    assert cli("gallery", "add", box, picture).code == 0
    asked: list[int] = []

    def search(*_: Any, rerank: int, **__: Any) -> list[Any]:
        asked.append(rerank)
        return []

    monkeypatch.setattr(SqliteGallery, "search", search)
    for options in ((), ("--rerank",), ("--rerank", "--top", 200)):
        cli("gallery", "search", box, picture, *options)
    assert asked == [0, 100, 200]


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a process is POSIX")
def test_times_are_utc_wherever_the_machine_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    from passreid.gallery import Entry
    from passreid.times import parse_time

    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        moment = parse_time("2023-11-14T22:13:20", "time")
        line = one_line(Entry(content_hash="x", time=1700000000))
    time.tzset()
    assert (moment, line) == (1700000000, "2023-11-14 22:13:20  ")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("person=Jane",), "say --everything"),
        (("name=Jane", "--camera", "gate"), "'name=Jane' is not a label"),
        (("Jane", "--camera", "gate"), "'Jane' is not a label"),
        (("person=a", "person=b", "--camera", "gate"), "'person' is given twice"),
        (("time=noon", "--camera", "gate"), "time is 'noon', which is not a time"),
        (("--camera", "gate"), "Command"),
    ],
)
def test_what_is_no_label_is_said(
    cli: Cli, tmp_path: Path, given: tuple[str, ...], said: str
) -> None:
    ran = cli("gallery", "label", tmp_path / "p.gallery", *given)
    assert (ran.code, said in ran.err) == (2, True), ran.err


def test_what_cannot_be_done_is_said(cli: Cli, people: ReIDDataset, tmp_path: Path) -> None:
    missing = cli("gallery", "info", tmp_path / "none")
    assert (missing.code, "there is no gallery here" in missing.err) == (1, True)
    for text in ("yesterday", "nan", "1e30", "2026", "1000"):
        odd = cli("gallery", "list", tmp_path / "none", "--since", text)
        assert (odd.code, f"--since is '{text}', which is not a time" in odd.err) == (2, True)
    turned = ("--since", "2026-11-24", "--until", "2026-11-23")
    odd = cli("gallery", "list", tmp_path / "none", *turned)
    assert (odd.code, "is not before until" in odd.err) == (2, True)
    box = tmp_path / "p.gallery"
    assert cli("gallery", "add", box, people.query[0].path).code == 0
    for verb in ("list", "remove"):
        nobody = cli("gallery", verb, box, "--id", "7")
        assert (nobody.code, "is '7'; ids are UUIDs" in nobody.err) == (2, True)
    much = cli("gallery", "search", box, people.query[0].path, "--min-score", 80)
    assert (much.code, "min_score is 80.0; it is a cosine" in much.err) == (2, True)
    flip = cli("gallery", "search", box, people.query[0].path, "--flip")
    assert (flip.code, "+flip" in flip.err) == (1, True)


def test_no_probability_of_embeddings_that_were_not_calibrated(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    box, picture = tmp_path / "p.gallery", people.query[0].path
    assert cli("gallery", "add", box, picture, "--flip").code == 0
    found = cli("gallery", "search", box, picture, "--flip", "--json")
    hit = json.loads(found.out)
    assert (hit["probability"], hit["band"], hit["expected_strangers"]) == (None, None, None)
    assert "without --flip" in found.err


def test_galleries_go_out_and_in_again(cli: Cli, people: ReIDDataset, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    box, folder = tmp_path / "p.gallery", people.gallery[0].path.parent
    count = len(list(folder.glob("*.jpg")))
    assert cli("gallery", "add", box, folder, "--camera", "gate").code == 0
    assert cli("gallery", "add", box, people.query[0].path, "--camera", "roof").code == 0

    file, tar = tmp_path / "people.parquet", tmp_path / "monday.tar"
    exported = cli("gallery", "export", box, file, "--camera", "gate")
    assert (exported.code, exported.err) == (0, f"Wrote {count} entries to {file}.\n")
    for place, expected in (("new", (count, 0)), ("new", (0, count))):
        imported = cli("gallery", "import", tmp_path / place, file)
        assert (imported.code, imported.err) == (0, "Added {}, known {}.\n".format(*expected))
    copied = cli("gallery", "copy", box, tmp_path / "new")
    assert (copied.code, copied.err) == (0, f"Added 1, known {count}.\n")

    assert cli("gallery", "snapshot", box, tar).code == 0
    assert cli("gallery", "restore", tar, tmp_path / "again").code == 0
    listed = cli("gallery", "list", box).out
    assert listed.count("\n") == count + 1
    assert cli("gallery", "list", tmp_path / "again").out == listed
    assert cli("gallery", "list", tmp_path / "new").out == listed


def test_what_cannot_go_out_or_in_is_said(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"neither")
    for words, code, message in (
        (("import", tmp_path / "g", tmp_path / "file"), 1, "cannot be read"),
        (("export", tmp_path / "g", tmp_path / "people.csv"), 2, "must end in .parquet"),
        (("restore", tmp_path / "file", tmp_path / "g"), 1, "is not a gallery, or damaged"),
        (("restore", tmp_path / "file", tmp_path), 2, "exists; restore to a new name"),
        (("check", tmp_path / "none"), 1, "there is no gallery here"),
        (("check", "http://host/people"), 2, "a server checks itself"),
        (("snapshot", "http://host/people", tmp_path / "s"), 2, "snapshots of its own"),
        (("copy", tmp_path / "none", tmp_path / "g"), 1, "there is no gallery here"),
        (("copy", tmp_path / "g", tmp_path / "x" / ".." / "g"), 2, "name another one"),
        (("info", "http://host/a/b"), 2, "write a server's gallery as"),
    ):
        ran = cli("gallery", *words)
        assert (ran.code, message in ran.err, ran.err.count("\n")) == (code, True, 1), ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_date_without_dashes_is_a_date_and_forgets_no_more_than_it_says(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    box = tmp_path / "p.gallery"
    for day, sample in zip(("01", "10", "24"), people.gallery, strict=False):
        cli("gallery", "add", box, sample.path, "--time", f"2026-11-{day}")
    assert cli("gallery", "list", box, "--since", "20261123").out.count("\n") == 1
    removed = cli("gallery", "remove", box, "--since", "20261123")
    assert f"Forgot 1 entries; {box} holds 2." in removed.err
    assert cli("gallery", "remove", box, "--since", "2026").code == 2
    assert cli("gallery", "list", box).out.count("\n") == 2


def test_removing_asks_on_a_terminal(
    cli: Cli, people: ReIDDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = tmp_path / "p.gallery"
    cli("gallery", "add", box, people.query[0].path, people.query[1].path, "--person", "Jane")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    remove = ("gallery", "remove", box, "--person", "Jane")
    for answer in ("", "n\n", "\n"):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        refused = cli(*remove)
        assert (refused.code, "Forgot nothing." in refused.err) == (1, True)
        assert "To be forgotten: 2 entries; person 'Jane' (2)." in refused.err
    assert cli("gallery", "list", box).out.count("\n") == 2
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert cli(*remove).code == 0
    cli("gallery", "add", box, people.query[0].path, "--person", "Jane")
    monkeypatch.setattr("sys.stdin", Terminal(""))
    assert cli(*remove, "--yes").code == 0
    assert cli(*remove).err == "Forgot nothing. The gallery is empty.\n"


def test_a_name_is_found_in_every_unicode_form(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    box = tmp_path / "p.gallery"
    cli("gallery", "add", box, people.query[0].path, "--person", "Jose\u0301")
    assert "Jos\u00e9" in cli("gallery", "list", box, "--person", "Jose\u0301 ").out
    wrong = cli("gallery", "remove", box, "--person", "Jose")
    assert (wrong.code, "there are 'Jos\u00e9' (1)." in wrong.err) == (1, True)
    assert cli("gallery", "remove", box, "--person", "Jos\u00e9").code == 0


def test_a_damaged_gallery_is_told_and_repaired(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    box, pictures = tmp_path / "p.gallery", [sample.path for sample in people.query[:3]]
    gone = tmp_path / "gone.jpg"
    gone.write_bytes(people.gallery[0].path.read_bytes())
    assert cli("gallery", "add", box, *pictures, gone).code == 0
    gone.unlink()
    whole = cli("gallery", "check", box)
    assert (whole.code, whole.err) == (0, f"{box} is whole: 4 entries.\n")
    with closing(sqlite3.connect(box)) as connection, connection:
        connection.execute("UPDATE entries SET vector = zeroblob(768) WHERE row IN (2, 4)")
    refused = cli("gallery", "search", box, pictures[0])
    assert (refused.code, "gallery check --repair" in refused.err) == (1, True)
    checked = cli("gallery", "check", box)
    assert (checked.code, checked.out.count("vector damaged\n")) == (1, 2)
    assert "2 entries are whole, 2 damaged" in checked.err
    repaired = cli("gallery", "check", box, "--repair")
    assert repaired.code == 0
    assert "it holds 3 entries, 1 of them embedded again; 1 were dropped." in repaired.err
    found = cli("gallery", "search", box, pictures[1], "--top", 1, "--json")
    assert json.loads(found.out)["source"] == str(pictures[1])
    assert json.loads(found.out)["cosine"] > 0.999


def test_an_export_of_an_older_passreid_is_taken_with_its_model(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    from passreid import load
    from passreid.gallery import former_identity

    box, file = tmp_path / "p.gallery", tmp_path / "p.parquet"
    assert cli("gallery", "add", box, people.query[0].path).code == 0
    assert cli("gallery", "export", box, file).code == 0
    table = parquet.read_table(file)
    model = table.schema.metadata[b"passreid_model"]
    former = former_identity(load("passreid-tiny"))
    assert former is not None and former.encode() != model
    old = {b"passreid_model": former.encode()}
    parquet.write_table(table.replace_schema_metadata(old), file)
    imported = cli("gallery", "import", tmp_path / "n", file, "--model", "passreid-tiny")
    assert (imported.code, imported.err) == (0, "Added 1, known 0.\n")
    assert cli("gallery", "search", tmp_path / "n", people.query[0].path).code == 0


def test_a_hit_says_how_many_strangers_its_score_would_bring(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    box, folder = tmp_path / "p.gallery", people.gallery[0].path.parent
    assert cli("gallery", "add", box, folder).code == 0
    picture = people.gallery[0].path
    told = cli("gallery", "search", box, picture, "--top", 1)
    assert re.match(r"  1  1\.000  strong    < \S+ strangers expected  ", told.out), told.out
    assert "%" not in told.out
    hit = json.loads(cli("gallery", "search", box, picture, "--top", 1, "--json").out)
    count = len(list(folder.glob("*.jpg")))
    assert hit["expected_strangers"] == pytest.approx(count * hit["false_match_rate"])


def test_a_centred_gallery_is_searched_by_the_camera_of_the_query(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    place = tmp_path / "people.gallery"
    for camera in ("1", "2"):
        pictures = [s.path for s in people.gallery if str(s.camid + 1) == camera]
        assert cli("gallery", "add", place, *pictures, "--camera", camera).code == 0
    ran = cli("gallery", "centre", place)
    assert "subtract the means of 2 cameras" in ran.err
    assert json.loads(cli("gallery", "info", place, "--json").out)["centred"] is True
    one = people.query[0]
    found = cli(
        "gallery", "search", place, one.path, "--query-camera", one.camid + 1, "--top", 1, "--json"
    )
    assert found.code == 0
    assert "fitted without camera centring" in found.err
    assert f"{one.pid:04}_" in json.loads(found.out)["source"]
    assert "no longer" in cli("gallery", "centre", place, "--off").err


def test_search_marks_the_cut_and_shows_what_is_above_alone_on_request(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    place = tmp_path / "people.gallery"
    pictures = [sample.path for sample in people.gallery]
    assert cli("gallery", "add", place, *pictures).code == 0
    one = people.query[0].path
    everything = cli("gallery", "search", place, one, "--top", 99, "--json").out.splitlines()
    cosines = [json.loads(line)["cosine"] for line in everything]
    calibration = load().calibration
    assert calibration is not None
    above = [c for c in cosines if c >= cut(calibration, len(pictures)).threshold]
    assert 0 < len(above) < len(cosines)
    shown = cli("gallery", "search", place, one, "--top", 99).out.splitlines()
    assert shown[len(above)].startswith("  --- cut at")
    alone = cli("gallery", "search", place, one, "--top", 99, "--same-only", "--json").out
    assert [json.loads(line)["cosine"] for line in alone.splitlines()] == above
    looser = cli("gallery", "search", place, one, "--same-only", "--fpir", 0.9, "--json").out
    assert len(looser.splitlines()) >= len(above)
