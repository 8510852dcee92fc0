"""gallery: every verb, run as a user runs it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from passreid.cli.gallery import one_line, read_time
from passreid.data import ReIDDataset, make_synthetic
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
    added = cli("gallery", "add", box, folder, damaged, "--camera", "gate", "--time", 1000)
    assert added.code == 1
    count = len(list(folder.glob("*.jpg")))
    assert f"Added {count}, known 0; {box} holds {count} entries." in added.err
    assert "damaged.jpg" in added.err
    again = cli("gallery", "add", box, folder, "--camera", "other")
    assert (again.code, f"Added 0, known {count}" in again.err) == (0, True)

    query = str(people.query[0].path)
    found = cli("gallery", "search", box, query, "--top", 2, "--json")
    hits = [json.loads(line) for line in found.out.splitlines()]
    assert [hit["rank"] for hit in hits] == [1, 2]
    assert hits[0]["cosine"] >= hits[1]["cosine"]
    assert hits[0]["camera"] == "gate"
    assert 0 <= hits[0]["probability"] <= 1
    assert cli("gallery", "search", box, query, "--not-camera", "gate").out == "No match.\n"
    anew = cli("gallery", "search", box, query, "--top", 20, "--rerank", "--json")
    assert len(anew.out.splitlines()) == min(count, 20)
    track = cli("gallery", "search", box, query, query, "--top", 1)
    assert track.code == 0
    assert "gate" in track.out

    listed = cli("gallery", "list", box, "--limit", 1, "--since", "1970-01-01T00:16:00Z")
    assert len(listed.out.splitlines()) == 1
    assert "1970-01-01 00:16:40" in listed.out
    assert "--after" in listed.err
    assert cli("gallery", "list", box, "--until", "1970-01-01T01:16:00+01:00").out == ""
    told = json.loads(cli("gallery", "info", box, "--json").out)
    assert (told["count"], told["engine"]) == (count, "edge")

    assert cli("gallery", "remove", box).code == 2
    removed = cli("gallery", "remove", box, "--id", hits[0]["id"])
    assert f"Forgot 1 entries; {box} holds {count - 1}." in removed.err
    (box / "removed").touch()  # as one that was killed leaves it
    assert cli("gallery", "compact", box).code == 0
    assert not (box / "removed").exists()
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
    given = ("camera=door=2", "person=Jane Doe", "time=1970-01-01T00:16:40Z")
    done = cli("gallery", "label", box, *given, "--camera", "gate")
    assert (done.code, done.err.strip()) == (0, f"Labelled {count} entries.")
    changed = listed("--camera", "door=2")
    assert len(changed) == count
    assert {(entry["person"], entry["time"]) for entry in changed} == {("Jane Doe", 1000)}
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
    assert not (box / "thumbnails").exists()

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
    assert found(pictures[0], "--person", "nobody") == []
    shown = cli("gallery", "search", box, pictures[1], "--top", 1).out
    assert "p0  track [b]t1  " in shown


def test_hits_are_ordered_anew_among_a_hundred_or_all_that_are_shown(
    cli: Cli, people: ReIDDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from passreid.gallery.embedded import EmbeddedGallery

    box, picture = tmp_path / "p.gallery", people.query[0].path
    assert cli("gallery", "add", box, picture).code == 0
    asked: list[int] = []

    def search(*_: Any, rerank: int, **__: Any) -> list[Any]:
        asked.append(rerank)
        return []

    monkeypatch.setattr(EmbeddedGallery, "search", search)
    for options in ((), ("--rerank",), ("--rerank", "--top", 200)):
        cli("gallery", "search", box, picture, *options)
    assert asked == [0, 100, 200]


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a process is POSIX")
def test_times_are_utc_wherever_the_machine_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    from passreid.gallery import Entry

    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        moment = read_time("1970-01-01T00:16:40")
        line = one_line(Entry(content_hash="x", time=1000))
    time.tzset()
    assert (moment, line) == (1000, "1970-01-01 00:16:40  ")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("person=Jane",), "say --everything"),
        (("name=Jane", "--camera", "gate"), "'name=Jane' is no label"),
        (("Jane", "--camera", "gate"), "'Jane' is no label"),
        (("person=a", "person=b", "--camera", "gate"), "'person' is given twice"),
        (("time=noon", "--camera", "gate"), "'noon' is no time"),
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
    for text in ("yesterday", "nan", "1e30"):
        odd = cli("gallery", "list", tmp_path / "none", "--since", text)
        assert (odd.code, f"'{text}' is no time" in odd.err) == (2, True)
    box = tmp_path / "p.gallery"
    assert cli("gallery", "add", box, people.query[0].path).code == 0
    for verb in ("list", "remove"):
        nobody = cli("gallery", verb, box, "--id", "7")
        assert (nobody.code, "'7' is no id of an entry" in nobody.err) == (2, True)
    flip = cli("gallery", "search", box, people.query[0].path, "--flip")
    assert (flip.code, "+flip" in flip.err) == (1, True)


def test_no_probability_of_embeddings_that_were_not_calibrated(
    cli: Cli, people: ReIDDataset, tmp_path: Path
) -> None:
    box, picture = tmp_path / "p.gallery", people.query[0].path
    assert cli("gallery", "add", box, picture, "--flip").code == 0
    found = cli("gallery", "search", box, picture, "--flip", "--json")
    assert json.loads(found.out)["probability"] is None
    assert "without --flip" in found.err


def test_galleries_go_out_and_in_again(cli: Cli, people: ReIDDataset, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    box, folder = tmp_path / "p.gallery", people.gallery[0].path.parent
    count = len(list(folder.glob("*.jpg")))
    assert cli("gallery", "add", box, folder, "--camera", "gate", "--int8").code == 0
    assert '"int8": true' in (box / "gallery.json").read_text()
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
        (("restore", tmp_path / "file", tmp_path / "g"), 1, "is no snapshot of a gallery"),
        (("restore", tmp_path / "file", tmp_path), 2, "is there already"),
        (("snapshot", "http://host/people", tmp_path / "s"), 2, "snapshots of its own"),
        (("copy", tmp_path / "none", tmp_path / "g"), 1, "there is no gallery here"),
        (("copy", tmp_path / "g", tmp_path / "x" / ".." / "g"), 2, "name another one"),
        (("info", "http://host/a/b"), 2, "write a server's gallery as"),
    ):
        ran = cli("gallery", *words)
        assert (ran.code, message in ran.err, ran.err.count("\n")) == (code, True, 1), ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
