"""A centred gallery: its camera means follow every change; search equals the formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from passreid.centring import CameraMeans
from passreid.errors import GalleryError
from passreid.gallery import Entry, Gallery, Where, copy, open_gallery
from tests.gallery.drawn import DIM, MODEL, VECTORS, entries

pytest.importorskip("faiss")


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    made = open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True)
    made.add(entries())
    made.set_centred(True)
    return made


def expected(gallery: Gallery, query: np.ndarray, camera: str | None) -> list[tuple[str, float]]:
    """Centre every entry by `CameraMeans`, and compare."""
    held = gallery.page(limit=1000, whole=True).entries
    rows = np.stack([np.asarray(entry.embedding) for entry in held])
    cameras = [entry.camera for entry in held]
    means = CameraMeans(DIM)
    known = [n for n, name in enumerate(cameras) if name is not None]
    means.add(rows[known], [cameras[n] for n in known])
    scores = means.centre(rows, cameras) @ means.centre(query[None], [camera])[0]
    order = np.argsort(-scores, kind="stable")
    return [(held[n].id, float(scores[n])) for n in order]


@pytest.mark.parametrize("camera", ["c1", None, "never seen"])
def test_search_equals_centring_written_out(gallery: Gallery, camera: str | None) -> None:
    query = np.random.default_rng(1).standard_normal(DIM).astype(np.float32)
    hits = gallery.search(query, top_k=60, camera=camera)
    wanted = expected(gallery, query, camera)
    assert [hit.score for hit in hits] == pytest.approx([s for _, s in wanted], abs=2e-3)
    assert [hit.entry.id for hit in hits[:5]] == [id for id, _ in wanted[:5]]


def test_means_follow_what_is_added_labelled_and_forgotten(gallery: Gallery) -> None:
    query = VECTORS[3]
    gallery.search(query)  # the means are made once, and must be made again
    more = np.random.default_rng(2).standard_normal((20, DIM)).astype(np.float32) + 3
    gallery.add(
        Entry(content_hash=f"more {n}", embedding=row, camera="c1") for n, row in enumerate(more)
    )
    gallery.update([entries()[5].id, entries()[9].id], camera="c3")
    gallery.remove(Where(cameras=("c2",)))
    hits = gallery.search(query, top_k=100, camera="c1")
    wanted = expected(gallery, query, "c1")
    assert len(hits) == len(wanted)
    assert [hit.score for hit in hits] == pytest.approx([s for _, s in wanted], abs=2e-3)


def test_another_process_sees_the_setting_and_it_can_be_taken_back(
    gallery: Gallery, tmp_path: Path
) -> None:
    plain = gallery.search(VECTORS[3], top_k=3)
    with open_gallery(tmp_path / "g", read_only=True) as other:
        assert other.centred
        assert other.info().centred
        seen = other.search(VECTORS[3], top_k=3)
        assert [(h.entry.id, h.score) for h in seen] == [(h.entry.id, h.score) for h in plain]
        gallery.set_centred(False)
        assert not other.info().centred
        first = other.search(VECTORS[3], top_k=1)[0]
        assert first.score == pytest.approx(1, abs=1e-3)
    with pytest.raises(GalleryError, match="read-only"):
        open_gallery(tmp_path / "g", read_only=True).set_centred(True)


def test_filters_and_reranking_work_in_a_centred_gallery(gallery: Gallery) -> None:
    where = Where(cameras=("c1", "c2"))
    hits = gallery.search(VECTORS[5], top_k=10, where=where, camera="c1", rerank=10)
    assert len(hits) == 10
    assert {hit.entry.camera for hit in hits} == {"c1", "c2"}
    assert gallery.search(VECTORS[5], where=Where(cameras=("nowhere",))) == []


def test_centring_finds_people_whose_cameras_tint_them(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    people = generator.standard_normal((40, DIM))
    tints = {name: 3 * generator.standard_normal(DIM) for name in ("door", "hall")}
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as made:
        made.add(
            Entry(content_hash=f"{name} {n}", embedding=person + tint, camera=name, person=str(n))
            for name, tint in tints.items()
            for n, person in enumerate(people)
        )

        def right() -> int:
            others = Where(not_cameras=("door",))
            queries = people + tints["door"] + 0.3 * generator.standard_normal(people.shape)
            hits = [made.search(q, top_k=1, where=others, camera="door")[0] for q in queries]
            return sum(hit.entry.person == str(n) for n, hit in enumerate(hits))

        before = right()
        made.set_centred(True)
        after = right()
    assert after >= 35
    assert after > before + 5


def test_copies_and_snapshots_open_and_a_server_gallery_refuses(
    gallery: Gallery, tmp_path: Path
) -> None:
    with open_gallery(tmp_path / "h", model=MODEL, dim=DIM, create=True) as target:
        copy(gallery, target)
        assert target.count() == 60
        assert not target.centred
    pytest.importorskip("qdrant_client")
    from passreid.gallery.engine import Gallery as Base

    with pytest.raises(GalleryError, match="needs a gallery in a file"):
        Base.set_centred(gallery, True)
