"""A gallery in a file: what it finds, what it keeps, what it forgets, what it survives."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from passreid.errors import GalleryError, OutputError, UsageError
from passreid.gallery import Entry, Gallery, Where, open_gallery
from tests.gallery.drawn import DIM, MODEL, VECTORS, entries

pytest.importorskip("faiss")


def files(place: Path) -> list[Path]:
    """The gallery's file and all that SQLite keeps beside it."""
    return [path for path in place.parent.iterdir() if path.name.startswith(place.name)]


def seen(place: Path, *words: bytes) -> bool:
    return any(word in file.read_bytes() for file in files(place) for word in words)


def stored_vector(entry: Entry) -> bytes:
    assert entry.embedding is not None
    unit: Any = entry.embedding / np.linalg.norm(entry.embedding)
    return bytes(unit.astype(np.float16).tobytes())


def test_a_gallery_is_one_file_that_sqlite_tools_open(gallery: Gallery, tmp_path: Path) -> None:
    gallery.close()
    assert [path.name for path in tmp_path.iterdir()] == ["g"]
    with closing(sqlite3.connect(tmp_path / "g")) as connection:
        (count,) = connection.execute("SELECT count(*) FROM entries WHERE camera = 'c1'").fetchone()
        pragmas = ("application_id", "user_version", "journal_mode")
        told = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas]
    assert count == sum(entry.camera == "c1" for entry in entries())
    assert told == [0x70726964, 1, "wal"]


def test_forgotten_entries_leave_no_byte_behind(gallery: Gallery, tmp_path: Path) -> None:
    place, face = tmp_path / "g", b"\xff\xd8 a face nobody else has"
    noise = np.random.default_rng(5)
    many = [
        Entry(
            content_hash=f"unmistakable-{n}",
            embedding=noise.standard_normal(DIM).astype(np.float32),
            person=f"unmistakable-{n % 7}",
            payload={"said": "unmistakable" * int(noise.integers(1, 400))},
            thumbnail=face + noise.bytes(int(noise.integers(1, 9000))) if n % 3 else None,
        )
        for n in range(300)
    ]
    traces = [b"unmistakable", face, *map(stored_vector, many)]
    with open_gallery(place, read_only=True) as reader:
        for start in range(0, 300, 50):
            gallery.add(many[start : start + 50])
            gallery.add(
                Entry(content_hash=f"kept {start} {n}", embedding=VECTORS[n]) for n in range(40)
            )
        assert seen(place, b"unmistakable") and seen(place, face)
        assert reader.count(Where(people=("unmistakable-3",))) > 0
        for n in range(7):
            assert gallery.remove(Where(people=(f"unmistakable-{n}",))) > 0
        assert not gallery.to_compact()
        assert not seen(place, *traces)
        assert reader.count() == gallery.count() == 300
        hits = reader.search(VECTORS[11], top_k=7)
        assert {hit.entry.content_hash for hit in hits} == {
            "picture 11",
            *(f"kept {start} 11" for start in range(0, 300, 50)),
        }


def test_an_earlier_label_and_payload_leave_the_disk(gallery: Gallery, tmp_path: Path) -> None:
    (first,) = entries(range(1))
    gallery.update([first.id], person="mrs-unmistakable", payload={"said": "unmistakable" * 999})
    assert seen(tmp_path / "g", b"unmistakable")
    gallery.update([first.id], person="somebody", payload={})
    assert not seen(tmp_path / "g", b"unmistakable")


def test_bytes_a_reader_kept_in_the_log_go_with_the_next_change(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("passreid.gallery.local.WAIT_S", 0.05)
    place = tmp_path / "g"
    gallery.add([Entry(content_hash="unmistakable", embedding=VECTORS[0])])
    with closing(sqlite3.connect(place, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entries").fetchone()
        assert gallery.remove(Where(ids=(Entry(content_hash="unmistakable").id,))) == 1
        assert gallery.to_compact()
    gallery.compact()
    assert not gallery.to_compact() and not seen(place, b"unmistakable")


def test_compacting_gives_space_back(gallery: Gallery, tmp_path: Path) -> None:
    gallery.add(
        Entry(content_hash=f"x{n}", embedding=VECTORS[n % 60], thumbnail=bytes(9000), person="x")
        for n in range(100)
    )
    before = (tmp_path / "g").stat().st_size
    gallery.remove(Where(people=("x",)))
    gallery.compact()
    assert (tmp_path / "g").stat().st_size < before / 5
    assert gallery.count() == 60


def test_who_goes_while_hits_are_reranked_is_left_out(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = gallery
    real = engine._vectors
    monkeypatch.setattr(engine, "_vectors", lambda ids: real(ids[1:]))
    found = gallery.search(VECTORS[0], top_k=10, rerank=10)
    assert len(found) == 9 and all(hit.entry.payload["n"] for hit in found)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"people": "12"}, r"people is the text '12'; give a tuple, \('12',\)"),
        ({"not_cameras": "gate"}, "not_cameras is the text 'gate'"),
        ({"since": "2026-11-23"}, "since is the text '2026-11-23'; give a datetime or Unix"),
    ],
)
def test_a_filter_is_not_taken_letter_by_letter(wrong: dict[str, Any], said: str) -> None:
    """Else forgetting person 12 forgets 1 and 2, and all but one camera are all."""
    with pytest.raises(UsageError, match=said):
        Where(**wrong)


def test_readers_follow_a_writer(gallery: Gallery, tmp_path: Path) -> None:
    with open_gallery(tmp_path / "g", model=MODEL, read_only=True) as reader:
        new = Entry(content_hash="new", embedding=VECTORS[3] + 0.01, camera="c9")
        gallery.add([new])
        assert reader.search(VECTORS[3], top_k=2)[1].entry.id == new.id
        gallery.update([new.id], camera="c8", time=5.0)
        assert reader.count(Where(cameras=("c9",))) == 0
        assert reader.page(Where(cameras=("c8",), since=4.0)).entries[0].id == new.id
        gallery.remove(Where(ids=(new.id,)))
        assert len(reader.search(VECTORS[3], top_k=100)) == 60
        assert reader.get([new.id]) == []
        assert gallery.add([new]) == (1, 0)
        assert reader.search(VECTORS[3], top_k=100, where=Where(cameras=("c9",)))


def test_two_writers_take_turns(gallery: Gallery, tmp_path: Path) -> None:
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as other:
        for n, writer in enumerate((gallery, other) * 5):
            assert writer.add([Entry(content_hash=f"x{n}", embedding=VECTORS[n])]) == (1, 0)
        assert other.add([Entry(content_hash="x0", embedding=VECTORS[0])]) == (0, 1)
        assert gallery.count() == other.count() == 70


def test_a_reader_that_missed_too_much_reads_everything_again(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("passreid.gallery.local._FOLLOWED", 5)
    with open_gallery(tmp_path / "g", read_only=True) as reader:
        gallery.update([entry.id for entry in entries(range(40))], camera="moved")
        assert reader.count(Where(cameras=("moved",))) == 40
        gallery.remove(Where(cameras=("moved",)))
        assert reader.count() == 20


def test_many_forgotten_entries_leave_the_memory(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("passreid.gallery.memory._FEWEST_DEAD", 5)
    gone = tuple(entry.id for entry in entries(range(0, 60, 2)))
    gallery.remove(Where(ids=gone))
    hits = gallery.search(VECTORS[5], top_k=60)
    assert len(hits) == 30 and hits[0].entry.payload == {"n": 5}
    memory: Any = gallery._memory  # type: ignore[attr-defined]
    assert len(memory.rows) == 30
    gallery.add([Entry(content_hash="x", embedding=VECTORS[2], camera="c9")])
    (hit,) = gallery.search(VECTORS[2], where=Where(cameras=("c9",)))
    assert hit.entry.content_hash == "x"


def test_a_writer_waits_for_another_and_then_says_so(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("passreid.gallery.database.WAIT_S", 0.05)
    with closing(sqlite3.connect(tmp_path / "g", isolation_level=None)) as other:
        other.execute("UPDATE settings SET value = value")  # the log is not empty
        other.execute("BEGIN IMMEDIATE")
        with (
            open_gallery(tmp_path / "g") as waiting,
            pytest.raises(GalleryError, match=r"another process is writing to it.*try again"),
        ):
            waiting.add([Entry(content_hash="x", embedding=VECTORS[0])])
        assert gallery.search(VECTORS[4])[0].entry.payload == {"n": 4}
        other.execute("ROLLBACK")
    gallery.add([Entry(content_hash="x", embedding=VECTORS[0])])


def test_threads_search_while_one_enrols(gallery: Gallery) -> None:
    wrong: list[object] = []
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            for n in (3, 9, 40):
                hits = gallery.search(VECTORS[n], top_k=3)
                if hits[0].entry.payload.get("n") != n:
                    wrong.append(hits)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(30):
        gallery.add([Entry(content_hash=f"x{n}", embedding=-VECTORS[n])])
        gallery.remove(Where(ids=(Entry(content_hash=f"x{n - 5}").id,)))
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong and gallery.count() == 65


def test_a_gallery_is_found_again(tmp_path: Path) -> None:
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as gallery:
        gallery.add(entries())
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, read_only=True) as gallery:
        info = gallery.info()
        assert (info.count, info.dim, info.model, info.engine) == (60, DIM, MODEL, "sqlite")
        assert info.bytes_on_disk == (tmp_path / "g").stat().st_blocks * 512
        for change in (
            gallery.compact,
            lambda: gallery.remove(Where(cameras=("c1",))),
            lambda: gallery.add([]),
            lambda: gallery.update([], person="x"),
        ):
            with pytest.raises(GalleryError, match="read-only"):
                change()
    with pytest.raises(GalleryError, match="holds embeddings of some-model@0123, not of other"):
        open_gallery(tmp_path / "g", model="other")
    with pytest.raises(GalleryError, match="holds embeddings of 16 numbers, not 9"):
        open_gallery(tmp_path / "g", model=MODEL, dim=9)


def test_a_closed_gallery_says_so(gallery: Gallery) -> None:
    gallery.close()
    gallery.close()
    for use in (
        lambda: gallery.search(VECTORS[0]),
        gallery.count,
        lambda: gallery.add([Entry(content_hash="x", embedding=VECTORS[0])]),
        lambda: gallery.remove(Where(cameras=("c1",))),
    ):
        with pytest.raises(GalleryError, match="is closed; open it again"):
            use()


def test_what_is_not_a_gallery_is_said(tmp_path: Path) -> None:
    make: Any = {"model": MODEL, "dim": DIM, "create": True}
    with pytest.raises(GalleryError, match="there is no gallery here; add pictures"):
        open_gallery(tmp_path / "none")
    for wrong in ({"create": True}, {"model": MODEL, "create": True}, {**make, "model": ""}):
        with pytest.raises(UsageError, match="needs the model and the width"):
            open_gallery(tmp_path / "none", **wrong)
    with pytest.raises(GalleryError, match="there is no gallery here"):
        open_gallery(tmp_path / "none", **make, read_only=True)
    with pytest.raises(GalleryError, match="is a folder; a gallery is one file"):
        open_gallery(tmp_path, **make)
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8" * 5000)
    with pytest.raises(GalleryError, match="is not a gallery, or damaged beyond reading"):
        open_gallery(tmp_path / "a.jpg", **make)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE t (x)")
    with pytest.raises(GalleryError, match="is a database of another program"):
        open_gallery(tmp_path / "other.db", **make)
    (tmp_path / "empty").touch()
    with pytest.raises(GalleryError, match="there is no gallery here"):
        open_gallery(tmp_path / "empty")


def test_a_gallery_of_an_older_passreid_says_how_to_move(tmp_path: Path) -> None:
    (tmp_path / "old" / "shard").mkdir(parents=True)
    (tmp_path / "old" / "gallery.json").write_text(json.dumps({"format": 1, "model": "m"}))
    for more in ({}, {"model": MODEL, "dim": DIM, "create": True}):
        with pytest.raises(GalleryError, match=r"older passreid\. Export it.*gallery import NEW"):
            open_gallery(tmp_path / "old", **more)  # type: ignore[arg-type]


def altered(place: Path, *statements: str) -> None:
    with closing(sqlite3.connect(place)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("PRAGMA user_version = 2", "is of format 2, this passreid reads 1; export it"),
        ("DELETE FROM settings WHERE name = 'model'", "does not say whose embeddings"),
        ("UPDATE settings SET value = '' WHERE name = 'model'", "does not say whose embeddings"),
        ("UPDATE settings SET value = 'x' WHERE name = 'dim'", "does not say whose embeddings"),
        ("UPDATE settings SET value = 8 WHERE name = 'dim'", "is damaged"),
        ("CREATE TRIGGER t AFTER INSERT ON entries BEGIN SELECT 1; END", "its tables are not"),
        ("CREATE VIEW v AS SELECT 1", "its tables are not"),
    ],
)
def test_a_file_that_is_not_as_passreid_makes_it_is_refused(
    gallery: Gallery, tmp_path: Path, statement: str, said: str
) -> None:
    gallery.close()
    altered(tmp_path / "g", statement)
    with pytest.raises(GalleryError, match=said):
        open_gallery(tmp_path / "g")


def test_a_creation_that_was_killed_is_finished(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "g")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("DROP TABLE t")
    with pytest.raises(GalleryError, match="there is no gallery here"):
        open_gallery(tmp_path / "g")
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as gallery:
        assert gallery.add(entries()).added == 60


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="no gallery can be made here"):
        open_gallery(tmp_path / "file" / "g", model=MODEL, dim=DIM, create=True)


def test_files_open_for_reading_are_searched(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.close()
    real = os.access
    # The tests may run as root, whom permissions do not stop.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
    with open_gallery(tmp_path / "g", read_only=True) as found:
        assert found.search(VECTORS[4])[0].entry.payload == {"n": 4}
    open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True).close()
    assert [path.name for path in tmp_path.iterdir()] == ["g"]
    (tmp_path / "g-wal").write_bytes(b"changes that were never written to the file")
    with pytest.raises(GalleryError, match=r"was killed.*copy it with g-wal to a disk"):
        open_gallery(tmp_path / "g", read_only=True)


ENROL = """
import sys
import numpy as np
from passreid.gallery import Entry, open_gallery
with open_gallery(sys.argv[1], model="m", dim=16, create=True) as gallery:
    for number in range(int(sys.argv[2]), 100000):
        vector = np.random.default_rng(number).standard_normal(16)
        gallery.add([Entry(content_hash=str(number), embedding=vector)])
        print(number, flush=True)
"""
KILLS = int(os.environ.get("PASSREID_TEST_KILLS", "4"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_what_was_acknowledged_survives_kills(tmp_path: Path) -> None:
    rng, acknowledged = np.random.default_rng(0), -1
    for _ in range(KILLS):
        running = subprocess.Popen(
            [sys.executable, "-c", ENROL, str(tmp_path / "g"), str(max(acknowledged - 3, 0))],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert running.stdout is not None
        wanted = acknowledged + int(rng.integers(2, 40))
        for line in running.stdout:
            acknowledged = max(acknowledged, int(line))
            if acknowledged >= wanted:
                break
        running.send_signal(signal.SIGKILL)
        for line in running.stdout:  # what it had said before it died counts too
            acknowledged = max(acknowledged, int(line))
        running.wait()
        running.stdout.close()
        with open_gallery(tmp_path / "g", model="m") as gallery:
            found = [int(e.content_hash) for e in gallery.page(limit=100_000).entries]
        assert len(found) == len(set(found))
        assert set(range(acknowledged + 1)) <= set(found)
        assert max(found) <= acknowledged + 1  # at most the one it died with
