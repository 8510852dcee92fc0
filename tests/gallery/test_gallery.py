"""A gallery in a folder: what it finds, what it keeps, what it forgets, what it survives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from passreid.errors import EmbeddingError, GalleryError, OutputError, UsageError
from passreid.gallery import Entry, Gallery, Where, open_gallery

pytest.importorskip("qdrant_edge")

DIM = 16
MODEL = "some-model@0123"
VECTORS = np.random.default_rng(0).standard_normal((60, DIM)).astype(np.float32)


def entries(numbers: range = range(60)) -> list[Entry]:
    return [
        Entry(
            content_hash=f"picture {n}",
            embedding=VECTORS[n],
            source=f"frames/{n}.jpg",
            camera=None if n % 7 == 0 else f"c{n % 4}",
            time=None if n % 5 == 0 else 100.0 * n,
            person=f"p{n // 6}" if n % 3 else None,
            tracklet=f"t{n // 3}",
            payload={"n": n},
        )
        for n in numbers
    ]


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as opened:
        assert opened.add(entries()) == (60, 0)
        yield opened


def cosines(query: Any) -> np.ndarray[Any, Any]:
    rows = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    found: np.ndarray[Any, Any] = rows @ (query / np.linalg.norm(query))
    return found


FILTERS = [
    Where(),
    Where(cameras=("c1", "c2")),
    Where(not_cameras=("c1",)),
    Where(people=("p2",), tracklets=("t4", "t5")),
    Where(sources=("frames/3.jpg", "frames/9.jpg")),
    Where(since=500.0, until=1200.0),
    Where(until=1200.0, not_cameras=("c1", "c3"), people=("p0", "p1", "p2")),
    Where(ids=(entries()[4].id, entries()[8].id), cameras=("c0",)),
    Where(cameras=("nowhere",)),
]


def fits(entry: Entry, where: Where) -> bool:
    """The slow, obvious filter."""
    one_of = [
        (where.ids, entry.id),
        (where.cameras, entry.camera),
        (where.people, entry.person),
        (where.tracklets, entry.tracklet),
        (where.sources, entry.source),
    ]
    if any(allowed and value not in allowed for allowed, value in one_of):
        return False
    if entry.camera in where.not_cameras:
        return False
    if where.since is None and where.until is None:
        return True
    low = -np.inf if where.since is None else where.since
    high = np.inf if where.until is None else where.until
    return entry.time is not None and low <= entry.time < high


@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize("exact", [False, True])
def test_search_and_lists_agree_with_a_loop(gallery: Gallery, where: Where, exact: bool) -> None:
    query = VECTORS[4] + 0.3 * VECTORS[8]
    scores = cosines(query)
    wanted = [n for n, entry in enumerate(entries()) if fits(entry, where)]
    hits = gallery.search(query, top_k=7, where=where, exact=exact)
    assert [hit.entry.payload["n"] for hit in hits] == sorted(wanted, key=lambda n: -scores[n])[:7]
    for hit in hits:
        assert hit.score == pytest.approx(scores[hit.entry.payload["n"]], abs=2e-3)
        assert hit.entry.embedding is None
    assert gallery.count(where) == len(wanted)
    found, after = [], None
    while True:
        page = gallery.page(where, limit=9, after=after)
        found += page.entries
        after = page.next
        if after is None:
            break
    assert sorted(entry.payload["n"] for entry in found) == wanted


def test_filtered_searches_are_exact_unless_the_filter_lets_most_through(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qdrant_edge

    from passreid.gallery import embedded

    asked: list[bool] = []
    real = qdrant_edge.SearchParams

    def watched(*, exact: bool) -> Any:
        asked.append(exact)
        return real(exact=exact)

    monkeypatch.setattr(qdrant_edge, "SearchParams", watched)
    gallery.search(VECTORS[0])
    gallery.search(VECTORS[0], where=Where(cameras=("c1",)))
    monkeypatch.setattr(embedded, "_EXACT_UP_TO", 3)
    gallery.search(VECTORS[0], where=Where(cameras=("c1",)))
    assert asked == [False, True, False]


def test_an_entry_comes_back_as_it_was(gallery: Gallery) -> None:
    given = entries()
    one, other = gallery.get([given[5].id, "00000000-0000-0000-0000-000000000000", given[7].id])
    for found, entry in ((one, given[5]), (other, given[7])):
        for name in ("id", "content_hash", "source", "camera", "time", "person", "payload"):
            assert getattr(found, name) == getattr(entry, name)
        assert entry.embedding is not None and found.embedding is not None
        unit = entry.embedding / np.linalg.norm(entry.embedding)
        np.testing.assert_allclose(found.embedding, unit, atol=1e-3)


def test_the_same_picture_is_enrolled_once(gallery: Gallery, tmp_path: Path) -> None:
    twice = [*entries(range(58, 60)), Entry(content_hash="new", embedding=VECTORS[0])] * 2
    assert gallery.add(twice) == (1, 5)
    assert gallery.count() == 61


def test_thresholds_groups_and_tracklets(gallery: Gallery) -> None:
    query = VECTORS[10]
    scores = cosines(query)
    assert [h.score >= 0.2 for h in gallery.search(query, top_k=60, min_score=0.2)] == (
        [True] * int((scores >= 0.2).sum())
    )
    grouped = gallery.search(query, top_k=12, group_by="tracklet")
    best = {f"t{t}": scores[3 * t : 3 * t + 3].max() for t in range(20)}
    order = sorted(best, key=lambda name: -best[name])[:12]
    assert [hit.group for hit in grouped] == order
    everybody = gallery.search(query, top_k=60, group_by="person")
    assert len(everybody) == 10 + 20  # the people, and those without a name for themselves
    tracklet = VECTORS[[10, 20]]
    unit = tracklet / np.linalg.norm(tracklet, axis=1, keepdims=True)
    mean, single = (gallery.search(tracklet, top_k=5, pooling=p) for p in ("mean", "best"))
    expected = np.argsort(-cosines(unit.mean(axis=0)))[:5]
    assert {hit.entry.payload["n"] for hit in mean} == set(expected.tolist())
    expected = np.argsort(-np.maximum(cosines(tracklet[0]), cosines(tracklet[1])))[:5]
    assert {hit.entry.payload["n"] for hit in single} == set(expected.tolist())


def test_labels_can_be_changed(gallery: Gallery) -> None:
    ids = [entry.id for entry in entries(range(3))]
    absent = "00000000-0000-0000-0000-000000000000"
    assert gallery.update([*ids, absent], person="found", payload={"by": "guard"}) == 3
    assert {e.id for e in gallery.page(Where(people=("found",))).entries} == set(ids)
    assert gallery.get(ids)[0].payload == {"by": "guard"}
    assert gallery.get(ids)[1].camera == "c1"
    with pytest.raises(UsageError, match="content_hash cannot be changed"):
        gallery.update(ids, content_hash="x")


def test_what_is_forgotten_is_gone_from_the_disk(gallery: Gallery, tmp_path: Path) -> None:
    """Its words and its picture are looked for in the bytes of every file."""
    secret, face = b"mrs-unmistakable", b"\xff\xd8 a face nobody else has"
    entry = Entry(content_hash="s", embedding=VECTORS[0], source=secret.decode(), thumbnail=face)
    gallery.add([entry])
    assert gallery.get([entry.id])[0].thumbnail == face

    def seen(marker: bytes) -> bool:
        files = [path for path in (tmp_path / "g").rglob("*") if path.is_file()]
        return any(marker in path.read_bytes() for path in files)

    assert seen(secret)
    assert seen(face)
    assert gallery.remove(Where(sources=(secret.decode(),))) == 1
    assert not seen(face)
    assert gallery.get([entry.id]) == []
    orphan = tmp_path / "g" / "thumbnails" / "ab" / "abc.jpg"  # as a kill may leave one
    orphan.parent.mkdir(parents=True, exist_ok=True)
    orphan.touch()
    gallery.compact()
    assert not orphan.exists()
    assert not seen(secret)
    assert gallery.count() == 60
    assert gallery.search(VECTORS[11])[0].entry.payload == {"n": 11}


def test_a_gallery_is_found_again(tmp_path: Path) -> None:
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as gallery:
        gallery.add(entries())
        with pytest.raises(GalleryError, match="another process has this gallery open"):
            open_gallery(tmp_path / "g")
    with open_gallery(tmp_path / "g", model=MODEL, read_only=True) as gallery:
        info = gallery.info()
        assert (info.count, info.dim, info.model, info.engine) == (60, DIM, MODEL, "edge")
        assert info.bytes_on_disk
        for change in (gallery.compact, lambda: gallery.remove(Where()), lambda: gallery.add([])):
            with pytest.raises(GalleryError, match="read-only"):
                change()
    with pytest.raises(GalleryError, match="holds embeddings of some-model@0123, not of other"):
        open_gallery(tmp_path / "g", model="other")


def test_what_is_no_gallery_is_said(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="there is no gallery here"):
        open_gallery(tmp_path / "none")
    with pytest.raises(UsageError, match="needs the model"):
        open_gallery(tmp_path / "none", create=True)
    with pytest.raises(UsageError, match="folders"):
        open_gallery("http://localhost:6333/people")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(GalleryError, match="other things"):
        open_gallery(tmp_path / "photos", model=MODEL, dim=DIM, create=True)
    (tmp_path / "photos" / "gallery.json").write_text('{"format": 9}')
    with pytest.raises(GalleryError, match="format 9"):
        open_gallery(tmp_path / "photos")
    (tmp_path / "photos" / "gallery.json").write_text('{"format": 1, "model": "m", "dim": 3}')
    with pytest.raises(GalleryError, match="shard is gone"):
        open_gallery(tmp_path / "photos")
    (tmp_path / "photos" / "shard").mkdir()
    with pytest.raises(GalleryError, match="cannot be opened"):
        open_gallery(tmp_path / "photos")


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (None, "has no embedding"),
        (np.zeros(DIM), "zero everywhere"),
        (np.full(DIM, np.nan), "NaN"),
        (np.ones(DIM + 1), "has 17 numbers, the gallery's have 16"),
    ],
)
def test_embeddings_that_cannot_be_kept(gallery: Gallery, embedding: Any, message: str) -> None:
    with pytest.raises(EmbeddingError, match=message):
        gallery.add([Entry(content_hash="x", embedding=embedding)])
    if embedding is not None:
        with pytest.raises(EmbeddingError, match=message):
            gallery.search(embedding)
    assert gallery.count() == 60
    with pytest.raises(UsageError, match="after is 'x', which is no earlier page's end"):
        gallery.page(after="x")
    with pytest.raises(UsageError, match="at least one hit"):
        gallery.search(VECTORS[0], top_k=0)


@pytest.mark.parametrize("moment", ["building", "between", "after"])
def test_a_killed_compaction_is_settled(tmp_path: Path, moment: str) -> None:
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as gallery:
        gallery.add(entries())
    shard = tmp_path / "g" / "shard"
    if moment == "building":
        (tmp_path / "g" / "shard.new").mkdir()
    elif moment == "between":
        shard.rename(tmp_path / "g" / "shard.new")
        (tmp_path / "g" / "shard.old").mkdir()
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


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    script = """
import resource, sys
import numpy as np
from passreid.errors import PassreidError
from passreid.gallery import Entry, open_gallery
gallery = open_gallery(sys.argv[1], model="m", dim=16, create=True)
gallery.add([Entry(content_hash="kept", embedding=np.ones(16))])
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    gallery.add([Entry(content_hash="x", embedding=np.ones(16), thumbnail=b"x" * 5000)])
except PassreidError as error:
    print(type(error).__name__, error)
"""
    said = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "g")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert said.stdout.startswith("OutputError"), said.stderr
    with open_gallery(tmp_path / "g") as gallery:
        assert [e.content_hash for e in gallery.page().entries] == ["kept"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="no gallery can be made"):
        open_gallery(tmp_path / "file" / "g", model=MODEL, dim=DIM, create=True)
