"""A disk that runs full: one sentence, and nothing that was acknowledged is lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from passreid.errors import OutputError
from passreid.gallery import Entry, Gallery, Where, open_gallery
from tests.gallery.drawn import DIM, MODEL

pytest.importorskip("qdrant_edge")

from passreid.gallery.folder import LITTLE, MUCH

WIDE = 384

FILL = """
import sys
import numpy as np
from passreid.errors import PassreidError
from passreid.gallery import Entry, open_gallery

folder, dim = sys.argv[1], int(sys.argv[2])
random, done = np.random.default_rng(0), 0
try:
    with open_gallery(folder, model="m", dim=dim, create=True) as gallery:
        while True:
            numbers = range(done, done + 512)
            vectors = random.standard_normal((512, dim)).astype(np.float32)
            gallery.add(
                Entry(content_hash=str(n), embedding=v, payload={"said": "x" * 400})
                for n, v in zip(numbers, vectors, strict=True)
            )
            done += 512
            print(done, flush=True)
except PassreidError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here: that takes Linux and root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def fill(folder: Path) -> list[str]:
    """Enrol in another process until that ends, and return its lines."""
    command = [sys.executable, "-c", FILL, str(folder), str(WIDE)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr  # SIGBUS else
    return said.stdout.splitlines()


def room(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Pretend that so many bytes are free."""
    usage = shutil.disk_usage(".")._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def one(text: str, **more: Any) -> Entry:
    return Entry(content_hash=text, embedding=np.ones(DIM, np.float32), **more)


@pytest.mark.slow
def test_a_disk_that_runs_full(small_disk: Path) -> None:
    *acknowledged, last = fill(small_disk / "g")
    assert last.startswith("OutputError")
    assert "nearly full" in last
    assert len(acknowledged) > 3
    there = int(acknowledged[-1])
    with open_gallery(small_disk / "g", model="m") as gallery:
        assert gallery.count() == there
        first = gallery.page(limit=600).entries
        # What makes room again is still done.
        assert gallery.remove(Where(ids=tuple(entry.id for entry in first))) == 600
        with pytest.raises(OutputError, match="nearly full"):
            gallery.compact()
        assert gallery.count() == there - 600

    free = shutil.disk_usage(small_disk).free
    (small_disk / "other").write_bytes(bytes(free))  # now there is none left
    with pytest.raises(OutputError, match="nearly full, 0 MiB are free where 32 MiB"):
        open_gallery(small_disk / "g", model="m")
    (small_disk / "other").unlink()
    with open_gallery(small_disk / "g", model="m") as gallery:
        assert gallery.count() == there - 600


def test_no_gallery_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, MUCH - 1)
    with pytest.raises(OutputError, match="nearly full"):
        open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True)
    assert not (tmp_path / "g").exists()
    (tmp_path / "g").mkdir()
    with pytest.raises(OutputError, match="nearly full"):
        open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True)
    assert (tmp_path / "g").exists()  # it was there before
    room(monkeypatch, MUCH + 1)
    open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True).close()


def test_what_is_added_counts(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    before = gallery.count()
    room(monkeypatch, MUCH + 16 * DIM)
    with pytest.raises(OutputError, match="nearly full, 64 MiB are free where 65 MiB"):
        gallery.add([one("small")])
    room(monkeypatch, MUCH + 1000)
    assert gallery.add([one("small")]) == (1, 0)
    with pytest.raises(OutputError, match="nearly full"):
        gallery.add([one("thumbnail", thumbnail=bytes(300))])
    with pytest.raises(OutputError, match="nearly full"):
        gallery.add([one("payload", payload={"said": "x" * 300})])
    assert gallery.add([one("small")]) == (0, 1)  # nothing comes
    room(monkeypatch, 0)
    assert gallery.add([one("small")]) == (0, 1)
    assert gallery.count() == before + 1


def test_changes_need_little(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, *_ = gallery.page().entries
    room(monkeypatch, LITTLE)
    assert gallery.update([first.id], person="found") == 1
    assert gallery.remove(Where(ids=(first.id,))) == 1
    room(monkeypatch, LITTLE - 1)
    with pytest.raises(OutputError, match="nearly full"):
        gallery.update([second.id], person="found")
    with pytest.raises(OutputError, match="nearly full"):
        gallery.remove(Where(ids=(second.id,)))
    assert gallery.get([second.id])[0].person == second.person


def test_a_copy_needs_room_for_two(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    size = gallery.info().bytes_on_disk
    assert size
    room(monkeypatch, size + MUCH)
    with pytest.raises(OutputError, match="nearly full"):
        gallery.compact()
    room(monkeypatch, 2 * size + MUCH)
    gallery.compact()
    assert gallery.count() == 60


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
import numpy as np
from passreid.errors import PassreidError
from passreid.gallery import Entry, open_gallery
gallery = open_gallery(sys.argv[1], model="m", dim=16, create=True)
gallery.add([Entry(content_hash="kept", embedding=np.ones(16))])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    gallery.add([Entry(content_hash="x", embedding=np.ones(16), thumbnail=b"x" * 5000)])
except PassreidError as error:
    print(type(error).__name__, error)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "g")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert said.stdout.startswith("OutputError"), said.stderr
    with open_gallery(tmp_path / "g") as gallery:
        assert [e.content_hash for e in gallery.page().entries] == ["kept"]
