"""gallery add, search, list, remove, info, compact, run as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from passreid.data import ReIDDataset, make_synthetic
from tests.cli.conftest import Cli

pytest.importorskip("qdrant_edge")


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
    assert cli("gallery", "compact", box).code == 0
    assert f"Forgot {count - 1}" in cli("gallery", "remove", box, "--everything").err


def test_what_cannot_be_done_is_said(cli: Cli, people: ReIDDataset, tmp_path: Path) -> None:
    missing = cli("gallery", "info", tmp_path / "none")
    assert (missing.code, "there is no gallery here" in missing.err) == (1, True)
    odd = cli("gallery", "list", tmp_path / "none", "--since", "yesterday")
    assert (odd.code, "'yesterday' is no time" in odd.err) == (2, True)
    box = tmp_path / "p.gallery"
    assert cli("gallery", "add", box, people.query[0].path).code == 0
    flip = cli("gallery", "search", box, people.query[0].path, "--flip")
    assert (flip.code, "+flip" in flip.err) == (1, True)
