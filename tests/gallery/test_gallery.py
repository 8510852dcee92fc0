"""A gallery in a folder: what it finds, what it keeps, what it forgets, what it survives."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from passreid.errors import GalleryError, OutputError, UsageError
from passreid.gallery import Entry, Gallery, Where, open_gallery
from passreid.gallery.points import INDEXED
from tests.gallery.drawn import DIM, MODEL, VECTORS, entries

pytest.importorskip("qdrant_edge")


def test_a_disk_that_cannot_be_written_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "g"
    open_gallery(folder, model=MODEL, dim=DIM, create=True).close()
    real = Path.open

    def barred(path: Path, mode: str = "r", *more: Any, **words: Any) -> Any:
        if "a" in mode or "w" in mode:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, mode, *more, **words)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", barred)
        with pytest.raises(GalleryError, match=r"Read-only file system.*copy the folder"):
            open_gallery(folder, model=MODEL, read_only=True)
    open_gallery(folder, model=MODEL, read_only=True).close()


def test_filtered_searches_are_exact_unless_the_filter_lets_most_through(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qdrant_edge

    from passreid.gallery import embedded

    asked: list[tuple[bool, bool]] = []
    real = qdrant_edge.SearchParams

    def watched(*, hnsw_ef: int, exact: bool, acorn: Any) -> Any:
        assert hnsw_ef == 256
        asked.append((exact, acorn is not None and not exact))
        return real(hnsw_ef=hnsw_ef, exact=exact, acorn=acorn)

    monkeypatch.setattr(qdrant_edge, "SearchParams", watched)
    gallery.search(VECTORS[0])
    gallery.search(VECTORS[0], where=Where(cameras=("c1",)))
    gallery.search(VECTORS[0], where=Where(cameras=("c1",)), exact=False)
    gallery.search(VECTORS[0], exact=True)
    monkeypatch.setattr(embedded, "_EXACT_UP_TO", 3)
    gallery.search(VECTORS[0], where=Where(cameras=("c1",)))
    assert asked == [(False, False), (True, False), (False, True), (True, False), (False, True)]


def test_vectors_are_float16_and_what_filters_name_is_indexed(
    gallery: Gallery, tmp_path: Path
) -> None:
    """Else a gallery takes twice the room, and a filter reads all there is."""
    with gallery._live.reading() as shard:  # type: ignore[attr-defined]
        assert shard.info().payload_schema.keys() == {"time", *INDEXED}
    assert "float16" in (tmp_path / "g" / "shard" / "edge_config.json").read_text()


def test_what_is_forgotten_is_gone_from_the_disk(gallery: Gallery, tmp_path: Path) -> None:
    """Its words and its picture are looked for in the bytes of every file."""
    secret, face = b"mrs-unmistakable", b"\xff\xd8 a face nobody else has"
    entry = Entry(content_hash="s", embedding=VECTORS[0], source=secret.decode(), thumbnail=face)
    other = Entry(content_hash="o", embedding=VECTORS[1], thumbnail=b"of another")
    gallery.add([entry, other])
    assert gallery.get([entry.id])[0].thumbnail == face

    def seen(marker: bytes) -> bool:
        files = [path for path in (tmp_path / "g").rglob("*") if path.is_file()]
        return any(marker in path.read_bytes() for path in files)

    assert seen(secret)
    assert seen(face)
    assert not gallery.to_compact()
    assert gallery.remove(Where(sources=(secret.decode(),))) == 1
    assert gallery.to_compact()
    assert not seen(face)
    assert gallery.get([entry.id]) == []
    orphan = tmp_path / "g" / "thumbnails" / "ab" / "abc.jpg"  # as a kill may leave one
    orphan.parent.mkdir(parents=True, exist_ok=True)
    orphan.touch()
    gallery.compact()
    assert not orphan.exists()
    assert not seen(secret)
    assert not gallery.to_compact()
    assert gallery.count() == 61
    assert gallery.get([other.id])[0].thumbnail == b"of another"
    assert gallery.search(VECTORS[11])[0].entry.payload == {"n": 11}


def test_what_a_label_said_before_leaves_the_disk(gallery: Gallery, tmp_path: Path) -> None:
    secret = "mrs-unmistakable"
    (first, second), files = entries(range(2)), tmp_path / "g"

    def seen() -> bool:
        return any(secret.encode() in f.read_bytes() for f in files.rglob("*") if f.is_file())

    gallery.update([first.id], payload={})
    gallery.compact()
    gallery.update([second.id], tracklet=second.tracklet)
    gallery.update([first.id], payload={"said": secret})
    assert seen() and not gallery.to_compact()  # nothing that was said before is taken back
    gallery.update([first.id, second.id], payload={})
    assert seen() and gallery.to_compact()
    gallery.compact()
    assert not seen() and not gallery.to_compact()
    gallery.update([first.id], person=secret)
    gallery.update([first.id], person="somebody else")
    assert gallery.to_compact()


def test_what_goes_while_a_gallery_is_compacted_waits_for_the_next_time(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    live: Any = gallery._live  # type: ignore[attr-defined]
    real = live.rewrite

    def rewrite() -> None:
        real()
        gallery.remove(Where(cameras=("c2",)))

    gallery.remove(Where(cameras=("c1",)))
    monkeypatch.setattr(live, "rewrite", rewrite)
    gallery.compact()
    assert gallery.to_compact()
    gallery.compact()
    assert not gallery.to_compact()


def test_who_goes_while_hits_are_reranked_is_left_out(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = gallery
    real = engine._vectors
    monkeypatch.setattr(engine, "_vectors", lambda ids: real(ids[1:]))
    found = gallery.search(VECTORS[0], top_k=10, rerank=10)
    assert len(found) == 9 and all(hit.entry.payload["n"] for hit in found)


def test_a_making_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_made(path: Path, *_: object, **__: object) -> None:
        path.mkdir()
        (path / "half").touch()
        raise RuntimeError("as the engine raises")

    monkeypatch.setattr("passreid.gallery.embedded.new_shard", half_made)
    with pytest.raises(OutputError, match="as the engine raises"):
        open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True)
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"people": "12"}, r"people is the text '12'; give a tuple, \('12',\)"),
        ({"not_cameras": "gate"}, "not_cameras is the text 'gate'"),
        ({"since": "2026-11-23"}, "since is the text '2026-11-23'; give Unix seconds"),
    ],
)
def test_a_filter_is_not_taken_letter_by_letter(wrong: dict[str, Any], said: str) -> None:
    """Else forgetting person 12 forgets 1 and 2, and all but one camera are all."""
    with pytest.raises(UsageError, match=said):
        Where(**wrong)


def test_a_gallery_is_found_again(tmp_path: Path) -> None:
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as gallery:
        gallery.add(entries())
        with pytest.raises(GalleryError, match="another process has this gallery open"):
            open_gallery(tmp_path / "g")
    with open_gallery(tmp_path / "g", model=MODEL, read_only=True) as gallery:
        info = gallery.info()
        assert (info.count, info.dim, info.model, info.engine) == (60, DIM, MODEL, "edge")
        copy = tmp_path / "g" / "shard.0123" / "being-made"
        copy.parent.mkdir()
        files = [path for path in (tmp_path / "g").rglob("*") if path.is_file()]
        copy.write_bytes(b"x" * 10_000)
        assert gallery.info().bytes_on_disk == sum(file.stat().st_blocks * 512 for file in files)
        for change in (
            gallery.compact,
            lambda: gallery.remove(Where()),
            lambda: gallery.add([]),
            lambda: gallery.update([], person="x"),
        ):
            with pytest.raises(GalleryError, match="read-only"):
                change()
    other = "holds embeddings of some-model@0123, not of other"
    with pytest.raises(GalleryError, match=other) as refused:
        open_gallery(tmp_path / "g", model="other")
    open_gallery(tmp_path / "g").close()  # the refused one has let go of the folder
    del refused


def test_what_is_no_gallery_is_said(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="there is no gallery here"):
        open_gallery(tmp_path / "none")
    with pytest.raises(UsageError, match="needs the model"):
        open_gallery(tmp_path / "none", create=True)
    with pytest.raises(UsageError, match="needs the model and the width"):
        open_gallery(tmp_path / "none", model=MODEL, create=True)
    with pytest.raises(GalleryError, match="there is no gallery here"):
        open_gallery(tmp_path / "none", model=MODEL, dim=DIM, create=True, read_only=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(GalleryError, match="other things"):
        open_gallery(tmp_path / "photos", model=MODEL, dim=DIM, create=True)
    with pytest.raises(GalleryError, match="is a file"):
        open_gallery(tmp_path / "photos" / "a.jpg", model=MODEL, dim=DIM, create=True)
    (tmp_path / "photos" / "gallery.json").write_text('{"format": 9}')
    with pytest.raises(GalleryError, match=r"format 9.* export it with"):
        open_gallery(tmp_path / "photos")
    (tmp_path / "photos" / "gallery.json").write_text('{"format": 1, "model": "m", "dim": 3}')
    with pytest.raises(GalleryError, match="shard is gone"):
        open_gallery(tmp_path / "photos")
    for card, message in (
        ("[]", "is not what a gallery says"),
        ('{"format": 1, "dim": 3}', "does not say whose"),
        ('{"format": 1, "model": "m", "dim": "3"}', "does not say whose"),
    ):
        (tmp_path / "photos" / "gallery.json").write_text(card)
        with pytest.raises(GalleryError, match=message):
            open_gallery(tmp_path / "photos")
    (tmp_path / "photos" / "gallery.json").write_text('{"format": 1, "model": "m", "dim": 3}')
    (tmp_path / "photos" / "shard").mkdir()
    with pytest.raises(GalleryError, match="cannot be opened"):
        open_gallery(tmp_path / "photos")


def test_a_making_that_was_killed_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qdrant_edge

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(qdrant_edge.UpdateOperation, "create_field_index", killed)
        with pytest.raises(KeyboardInterrupt):
            open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True)
    (half,) = (tmp_path / "g").iterdir()
    for file in half.rglob("*.json"):
        file.unlink()
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as gallery:
        assert gallery.add(entries()).added == 60
    assert not half.exists()
    (tmp_path / "g" / "gallery.json").unlink()  # killed just before the end
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as gallery:
        assert gallery.count() == 60


def test_a_thumbnail_that_goes_while_its_entry_is_read(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Entry(content_hash="s", embedding=VECTORS[0], thumbnail=b"jpeg")
    gallery.add([entry])
    real = Path.is_file

    def looked_at(path: Path) -> bool:
        there = real(path)
        path.unlink()
        return there

    monkeypatch.setattr(Path, "is_file", looked_at)
    assert gallery.get([entry.id])[0].thumbnail == b"jpeg"
    monkeypatch.undo()
    next(Path(gallery.info().name).rglob("*.jpg")).unlink()
    assert gallery.get([entry.id])[0].thumbnail is None


@pytest.mark.parametrize("moment", ["building", "between", "after"])
def test_a_killed_compaction_is_settled(tmp_path: Path, moment: str) -> None:
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as gallery:
        gallery.add(entries())
    shard = tmp_path / "g" / "shard"
    if moment == "building":
        (tmp_path / "g" / "shard.0123").mkdir()
    elif moment == "between":
        (tmp_path / "g" / "shard.0123").mkdir()
        shard.rename(tmp_path / "g" / "shard.old")
    else:
        (tmp_path / "g" / "shard.old").mkdir()
    with open_gallery(tmp_path / "g") as gallery:
        assert gallery.count() == 60
    assert not list((tmp_path / "g").glob("shard.*"))


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


def test_a_thumbnail_that_cannot_be_removed(tmp_path: Path) -> None:
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as gallery:
        entry = Entry(content_hash="x", embedding=np.ones(DIM, np.float32), thumbnail=b"x")
        gallery.add([entry])
        thumbnail = next((tmp_path / "g" / "thumbnails").rglob("*.jpg"))
        thumbnail.unlink()
        thumbnail.mkdir()
        with pytest.raises(OutputError, match="a thumbnail cannot be removed"):
            gallery.remove(Where(ids=(entry.id,)))
        assert gallery.count() == 1
        thumbnail.rmdir()
        assert gallery.remove(Where(ids=(entry.id,))) == 1


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="no gallery can be made"):
        open_gallery(tmp_path / "file" / "g", model=MODEL, dim=DIM, create=True)
