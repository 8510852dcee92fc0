"""A shard made anew beside the one in use: nothing waits for it, nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from passreid.errors import GalleryError
from passreid.gallery import Entry, Gallery, Where, open_gallery
from tests.gallery.drawn import DIM, MODEL

pytest.importorskip("qdrant_edge")

from passreid.gallery import folder as folder_room
from passreid.gallery import indexing, shard

MANY = 4000


def some(numbers: range) -> Iterator[Entry]:
    for n in numbers:
        vector = np.random.default_rng(n).standard_normal(DIM).astype(np.float32)
        yield Entry(content_hash=str(n), embedding=vector, camera="c1", source=f"source-{n}")


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gallery]:
    """One whose index pays early, and is always built by another process."""
    monkeypatch.setattr(indexing, "_WAITING", 3000 * DIM)
    monkeypatch.setattr(indexing, "_HERE", 0)
    monkeypatch.setattr(folder_room, "_INDEX_FROM_KB", 1)
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as opened:
        yield opened


def wait_until(true: Any) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def check(gallery: Gallery, numbers: range) -> None:
    """Each number is there once and is found, by the index too."""
    there = [int(entry.content_hash) for entry in gallery.page(limit=100_000).entries]
    assert sorted(there) == list(numbers)
    for entry in some(range(numbers.start, numbers.stop, max(len(numbers) // 20, 1))):
        assert entry.embedding is not None
        assert gallery.search(entry.embedding, top_k=1)[0].entry.id == entry.id


class Held:
    """Enrols so many that an index pays, and holds its build until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gallery: Gallery) -> None:
        self.begun, self.free = threading.Event(), threading.Event()
        real = indexing.finish_build

        def slow(child: Any) -> None:
            self.begun.set()
            self.free.wait(60)
            real(child)

        monkeypatch.setattr("passreid.gallery.shard.finish_build", slow)
        gallery.add(some(range(MANY)))
        assert self.begun.wait(60)


def test_an_index_comes_by_itself_while_others_add_change_and_forget(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shard, "_BROUGHT", 100)
    held = Held(monkeypatch, gallery)
    told = gallery.info()
    assert told.indexed == 0
    assert told.bytes_on_disk
    gallery.add(some(range(MANY, MANY + 600)))
    first, last = (next(some(range(n, n + 1))).id for n in (0, MANY + 599))
    assert gallery.update([first, last], person="found") == 2
    assert gallery.remove(Where(sources=("source-1", f"source-{MANY}"))) == 2
    gallery.add(some(range(1, 2)))
    gallery.add(some(range(MANY, MANY + 1)))
    check(gallery, range(MANY + 600))
    held.free.set()
    wait_until(lambda: gallery.info().indexed >= 3000)
    check(gallery, range(MANY + 600))
    assert {e.id for e in gallery.page(Where(people=("found",))).entries} == {first, last}
    wait_until(lambda: not list((tmp_path / "g").glob("shard.*")))


def test_closing_gives_up_the_index_and_nothing_else(
    tmp_path: Path, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch, gallery)
    threading.Timer(0.3, held.free.set).start()
    gallery.close()
    assert sorted(p.name for p in (tmp_path / "g").iterdir()) == ["gallery.json", "lock", "shard"]
    with open_gallery(tmp_path / "g") as again:
        check(again, range(MANY))
        again.add(some(range(MANY, MANY + 1)))  # the build begins anew
        wait_until(lambda: again.info().indexed >= MANY)


def test_an_index_that_fails_is_told_and_costs_nothing(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = indexing.start_build
    monkeypatch.setattr("passreid.gallery.shard.start_build", lambda copy: real(copy / "nowhere"))
    gallery.add(some(range(MANY)))
    wait_until(lambda: "the index was not built" in caplog.text)
    gallery.add(some(range(MANY, MANY + 10)))  # not tried again for so few
    check(gallery, range(MANY + 10))
    assert caplog.text.count("the index was not built") == 1
    monkeypatch.undo()
    gallery.compact()
    check(gallery, range(MANY + 10))


def test_a_compaction_ends_the_build_and_lets_others_go_on(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    held = Held(monkeypatch, gallery)
    gallery.remove(Where(sources=("source-0",)))
    held.begun.clear()
    compacting = threading.Thread(target=gallery.compact)
    compacting.start()
    held.free.set()
    assert held.begun.wait(60)
    gallery.add(some(range(MANY, MANY + 5)))
    check(gallery, range(1, MANY + 5))
    compacting.join()
    assert gallery.info().indexed >= MANY - 1
    check(gallery, range(1, MANY + 5))
    files = [path for path in (tmp_path / "g").rglob("*") if path.is_file()]
    assert not any(b'"source-0"' in path.read_bytes() for path in files)


def test_an_index_comes_again_where_most_were_forgotten(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a build that was given up nor entries that are gone stand in its way."""
    held = Held(monkeypatch, gallery)
    gallery.remove(Where(), everything=True)
    held.free.set()
    gallery.compact()
    gallery.add(some(range(MANY)))
    wait_until(lambda: gallery.info().indexed >= 3000)


def test_closing_gives_a_compaction_up(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A service that stops cannot wait for an index that takes an hour."""
    begun, errors = threading.Event(), []

    def start_long(copy: Path) -> Any:
        begun.set()
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stderr=-1)

    def compact() -> None:
        try:
            gallery.compact()
        except GalleryError as error:
            errors.append(str(error))

    monkeypatch.setattr("passreid.gallery.shard.start_build", start_long)
    gallery.add(some(range(20)))
    waiting = [threading.Thread(target=compact) for _ in range(2)]
    for thread in waiting:
        thread.start()
    assert begun.wait(60)
    gallery.close()
    for thread in waiting:
        thread.join(60)
    assert [error.endswith("was closed before it was compacted.") for error in errors] == [True] * 2
    with open_gallery(tmp_path / "g") as again:
        check(again, range(20))


INDEX = """
import sys, time
sys.path[:0] = [sys.argv[2]]
from passreid.gallery import folder, indexing, open_gallery
from tests.gallery.test_shard import MANY, some
indexing._WAITING, indexing._HERE, folder._INDEX_FROM_KB = 1, 0, 1
gallery = open_gallery(sys.argv[1], model="m", dim=16, create=True)
gallery.add(some(range(MANY)))
gallery.add(some(range(MANY, 2 * MANY)))
print("done", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="SIGKILL, and children that die with it")
def test_a_kill_during_a_build_loses_nothing(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    for pause in (0.0, 0.1, 0.3, 0.6):
        place = tmp_path / str(pause)
        running = subprocess.Popen(
            [sys.executable, "-c", INDEX, str(place), str(root)], stdout=subprocess.PIPE
        )
        assert running.stdout is not None
        running.stdout.readline()
        time.sleep(pause)
        running.send_signal(signal.SIGKILL)
        running.wait()
        running.stdout.close()
        wait_until(lambda place=place: not _building(place))
        with open_gallery(place, model="m") as gallery:
            check(gallery, range(2 * MANY))
        assert not list(place.glob("shard.*"))


def _building(place: Path) -> bool:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"passreid.gallery.indexing" in line and os.fsencode(place) in line:
                return True
    return False


@pytest.mark.parametrize(
    ("count", "indexed", "answer"),
    [(50_000, 0, False), (60_000, 0, True), (160_000, 100_000, True), (1_060_000, 10**6, False)],
)
def test_an_index_pays_when_much_waits(count: int, indexed: int, answer: bool) -> None:
    assert indexing.pays(count, indexed, 384) is answer


def test_holes_are_not_copied(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    with old.open("wb") as file:
        file.write(b"begin")
        file.seek(2**20)
        file.write(b"middle")
        file.truncate(2**22)
    shard.copy_sparse(str(old), str(new))
    assert new.read_bytes() == old.read_bytes()
    assert new.stat().st_blocks <= old.stat().st_blocks
    old.write_bytes(b"")
    shard.copy_sparse(str(old), str(new))
    assert new.read_bytes() == b""


def test_what_changes_while_a_copy_ends_can_be_noted(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of changes may not be taken away from who holds the lock on changes."""
    live: Any = gallery._live  # type: ignore[attr-defined]
    real, held, seen = live._exchange, threading.Event(), []

    def change() -> None:
        with live._changes:
            seen.append(live._changed)
            held.set()
            time.sleep(0.2)
            seen.append(live._changed)

    def exchange(*arguments: Any) -> None:
        real(*arguments)
        threading.Thread(target=change).start()
        assert held.wait(10)

    monkeypatch.setattr(live, "_exchange", exchange)
    gallery.add(some(range(20)))
    gallery.compact()
    wait_until(lambda: len(seen) == 2)
    assert seen[0] is not None and seen[1] is seen[0]
