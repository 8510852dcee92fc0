"""Damage on disk is told, and what is whole is kept; no answer is silently wrong."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from passreid.errors import GalleryError
from passreid.gallery import Entry, Where, open_gallery
from tests.gallery.drawn import DIM, MODEL, VECTORS, entries

pytest.importorskip("faiss")

from passreid.gallery.check import check, repair
from passreid.gallery.database import SELECT_WORDS, checksum

IDS = [entry.id for entry in entries()]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The file of a closed gallery, of whose entries each has a thumbnail."""
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as gallery:
        gallery.add(
            Entry(**vars(entry) | {"thumbnail": b"jpeg %d" % n})
            for n, entry in enumerate(entries())
        )
    return tmp_path / "g"


def edit(place: Path, statement: str, *values: Any) -> None:
    """Change something behind the gallery's back."""
    with closing(sqlite3.connect(place)) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


def none(entry: Entry, model: str) -> None:
    """Embed nothing again."""
    raise AssertionError(entry)


def test_a_whole_gallery_is_whole(place: Path) -> None:
    report = check(place)
    assert (report.sound, report.entries) == (True, 60)
    before = place.read_bytes()
    assert repair(place, none).sound
    assert place.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ("UPDATE entries SET camera = 'c9' WHERE id = ?", "labels"),
        ("UPDATE entries SET camera = NULL WHERE id = ?", "labels"),
        ("UPDATE entries SET time = time + 1 WHERE id = ?", "labels"),
        ("UPDATE entries SET payload = '{' WHERE id = ?", "labels"),
        ("UPDATE entries SET vector = zeroblob(32) WHERE id = ?", "vector"),
        ("UPDATE entries SET vector = 'text' WHERE id = ?", None),
        ("UPDATE entries SET bits = x'0000' WHERE id = ?", "vector"),
    ],
)
def test_an_entry_that_does_not_fit_its_checksum_is_named_at_opening(
    place: Path, change: str, wrong: str | None
) -> None:
    edit(place, change, IDS[4])
    message = f"is damaged .*{IDS[4]}.*check --repair" if wrong else "is damaged"
    with pytest.raises(GalleryError, match=message):
        open_gallery(place)
    if wrong:
        assert check(place).damaged == {IDS[4]: [wrong]}


def test_a_damaged_thumbnail_is_told_when_it_is_read(place: Path) -> None:
    edit(place, "UPDATE thumbnails SET jpeg = x'00' WHERE row = 5")
    with open_gallery(place) as gallery:
        assert gallery.search(VECTORS[4])[0].entry.id == IDS[4]
        with pytest.raises(GalleryError, match=f"is damaged .*{IDS[4]}"):
            gallery.get([IDS[4]])
    assert check(place).damaged == {IDS[4]: ["thumbnail"]}
    edit(place, "DELETE FROM thumbnails WHERE row = 5")
    assert check(place).damaged == {IDS[4]: ["thumbnail"]}
    report = repair(place, none)
    assert (report.entries, report.dropped, report.embedded) == (60, [], [])
    with open_gallery(place) as gallery:
        assert [entry.thumbnail for entry in gallery.get(IDS[3:5])] == [b"jpeg 3", None]


def test_a_row_damaged_while_the_gallery_is_open_is_told(place: Path) -> None:
    with open_gallery(place) as gallery:
        edit(place, "UPDATE entries SET person = 'somebody else' WHERE id = ?", IDS[4])
        for ask in (
            lambda: gallery.search(VECTORS[4]),
            lambda: gallery.page(Where(ids=(IDS[4],))),
            lambda: gallery.update([IDS[4]], camera="c"),
        ):
            with pytest.raises(GalleryError, match=f"is damaged .*{IDS[4]}"):
                ask()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("time", "noon"), ("camera", b"gate"), ("payload", "[]")),
        *(("payload", "[" * 100_000), ("payload", 7), ("source", b"\xff")),
    ],
)
def test_values_of_a_wrong_type_are_told_even_where_checksums_hold(
    place: Path, column: str, value: Any
) -> None:
    """As in a file that somebody made to harm: no raw error of SQLite's or Python's comes out."""
    with closing(sqlite3.connect(place)) as connection, connection:
        connection.execute(f"UPDATE entries SET {column} = ? WHERE id = ?", (value, IDS[4]))
        query = f"{SELECT_WORDS} WHERE id = ?"
        row = connection.execute(query, (IDS[4],)).fetchone()
        crc = checksum(row[1:-1])
        connection.execute("UPDATE entries SET crc = ? WHERE id = ?", (crc, IDS[4]))
    with pytest.raises(GalleryError, match="is damaged"), open_gallery(place) as gallery:
        gallery.get([IDS[4]])


def test_repair_keeps_what_is_whole_and_embeds_again_what_it_can(place: Path) -> None:
    edit(place, "UPDATE entries SET person = 'x' WHERE id = ?", IDS[2])
    for n in (4, 7, 9):
        edit(place, "UPDATE entries SET vector = zeroblob(32) WHERE id = ?", IDS[n])
    place.chmod(0o600)
    asked = []

    def embed(entry: Entry, model: str) -> Any:
        asked.append((entry.source, model))
        n = entry.payload["n"]
        return None if n == 7 else np.zeros(DIM, np.float32) if n == 9 else VECTORS[n]

    report = repair(place, embed)
    assert (report.entries, report.embedded) == (57, [IDS[4]])
    assert sorted(report.dropped) == sorted(IDS[n] for n in (2, 7, 9))
    assert asked == [(f"frames/{n}.jpg", MODEL) for n in (4, 7, 9)]
    assert [path.name for path in place.parent.iterdir()] == ["g"]
    assert place.stat().st_mode & 0o777 == 0o600
    with open_gallery(place) as gallery:
        assert gallery.count() == 57
        (hit,) = gallery.search(VECTORS[4], top_k=1)
        assert hit.entry.id == IDS[4] and hit.score > 0.999
        (kept,) = gallery.get([IDS[5]])
        assert (kept.person, kept.thumbnail) == ("p0", b"jpeg 5")
        assert gallery.add([entries()[7]]) == (1, 0)
    assert check(place).sound


def test_a_gallery_in_use_is_not_repaired(place: Path) -> None:
    with (
        open_gallery(place) as gallery,
        pytest.raises(GalleryError, match="another process has it open; end that"),
    ):
        assert gallery.count() == 60
        repair(place, none)


def test_a_file_whose_free_pages_are_damaged_is_not_written_to(place: Path) -> None:
    """SQLite would take a page that is in use for a free one, and write over it."""
    with open_gallery(place) as gallery:
        gallery.remove(Where(cameras=("c1", "c2", "c3")))
        gallery.add(Entry(content_hash=f"x{n}", embedding=VECTORS[n]) for n in range(60))
        gallery.remove(Where(not_cameras=("c0",)))
    data = bytearray(place.read_bytes())
    assert int.from_bytes(data[36:40], "big") > 0  # free pages
    data[36:40] = (1).to_bytes(4, "big")
    data[32:36] = (2).to_bytes(4, "big")
    place.write_bytes(bytes(data))
    for _ in range(2):
        with open_gallery(place) as gallery, pytest.raises(GalleryError, match="is damaged"):
            gallery.add([Entry(content_hash="y", embedding=VECTORS[0])])


def test_an_index_that_hides_an_entry_is_told(place: Path) -> None:
    """An entry the index does not name would be enrolled twice, and not found by its id."""
    data = place.read_bytes()
    at = [i for i in range(len(data)) if data.startswith(IDS[4].encode(), i)]
    assert len(at) >= 2  # in the table and in the index
    told = 0
    for offset in at:
        changed = bytearray(data)
        changed[offset] ^= 1
        place.write_bytes(bytes(changed))
        with pytest.raises(GalleryError, match="is damaged"):
            open_gallery(place)
        told += not check(place).sound
    assert told == len(at)
    report = repair(place, none)
    assert report.entries >= 59


def answers(place: Path) -> list[Any]:
    """All that can be asked of a gallery."""
    with open_gallery(place) as gallery:
        listed = [
            (e.id, e.person, e.camera, e.time, dict(e.payload), e.thumbnail, e.source)
            for e in gallery.page(limit=1000, whole=True).entries
        ]
        hits = [
            [(hit.entry.id, hit.score) for hit in gallery.search(v, top_k=60, where=w)]
            for v in VECTORS[:3]
            for w in (None, Where(cameras=("c1",)))
        ]
        return [listed, hits, gallery.tally("person"), gallery.get(IDS)[3].thumbnail]


@pytest.mark.parametrize("seed", range(8))
def test_no_corruption_is_a_silent_wrong_answer(place: Path, seed: int) -> None:
    """After flips, cuts and zeroed blocks answers are right, or refused in a sentence."""
    rng, truth, whole = np.random.default_rng(seed), answers(place), place.read_bytes()
    told = 0
    for kind in ("flip", "flip", "flip", "zero", "cut"):
        data = bytearray(whole)
        at = int(rng.integers(0, len(data)))
        if kind == "flip":
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == "zero":
            data[at : at + 512] = bytes(len(data[at : at + 512]))
        else:
            del data[at:]
        shutil.rmtree(place, ignore_errors=True)
        place.write_bytes(bytes(data))
        try:
            assert answers(place) == truth, (kind, at)
        except GalleryError:
            told += 1
            if kind == "flip" and at > 200:
                assert not check(place).sound
    assert told
