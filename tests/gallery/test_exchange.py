"""Parquet, copies and snapshots: everything comes back, nothing half."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from passreid.errors import GalleryError, OutputError, UsageError
from passreid.gallery import (
    Entry,
    Gallery,
    Where,
    copy,
    export_parquet,
    import_parquet,
    open_gallery,
    read_all,
    read_header,
    restore,
    snapshot,
)
from tests.gallery.conftest import opened
from tests.gallery.drawn import DIM, MODEL, VECTORS, entries

pytest.importorskip("faiss")
pytest.importorskip("pyarrow")

FACE = b"\xff\xd8 a face"


def whole(gallery: Gallery) -> list[tuple[object, ...]]:
    kept = gallery.get([entry.id for entry in gallery.page(limit=1000).entries])
    names = ("id", "content_hash", "source", "camera", "time", "person", "tracklet", "thumbnail")
    return [(*(getattr(e, n) for n in names), dict(e.payload)) for e in kept]


def vectors(gallery: Gallery) -> np.ndarray[Any, Any]:
    kept = gallery.get([entry.id for entry in gallery.page(limit=1000).entries])
    return np.stack([entry.embedding for entry in kept if entry.embedding is not None])


def test_parquet_brings_everything_back(
    everywhere: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("passreid.gallery.exchange._BATCH", 25)
    everywhere.add([Entry(content_hash="face", embedding=VECTORS[0], thumbnail=FACE)])
    file = tmp_path / "people.parquet"
    assert export_parquet(everywhere, file) == 61
    assert read_header(file) == (MODEL, DIM)
    with opened("file", tmp_path / "other") as other:
        assert import_parquet(other, file) == (61, 0)
        assert import_parquet(other, file) == (0, 61)
        assert whole(other) == whole(everywhere)
        np.testing.assert_allclose(vectors(other), vectors(everywhere), atol=1e-3)


def test_a_filter_chooses_what_is_written(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("passreid.gallery.exchange._BATCH", 5)
    where = Where(cameras=("c1",))
    assert export_parquet(gallery, tmp_path / "c1.parquet", where) == gallery.count(where) > 0
    with opened("memory", tmp_path / "none") as other:
        assert copy(gallery, other, where) == (gallery.count(where), 0)
        assert copy(gallery, other, where).added == 0
        assert {entry.camera for entry in other.page().entries} == {"c1"}
    batches = list(read_all(gallery, where, whole=False))
    assert sum(map(len, batches)) == gallery.count(where) > len(batches[0]) == 5
    assert batches[0][0].embedding is None


def test_an_export_overwrites_nothing_of_its_gallery(gallery: Gallery, tmp_path: Path) -> None:
    card = tmp_path / "g" / "gallery.json"
    before = card.read_bytes()
    for path in (card, tmp_path / "g" / "thumbnails" / "new.parquet"):
        with pytest.raises(UsageError, match="lies in the gallery itself; write it elsewhere"):
            export_parquet(gallery, path)
    assert card.read_bytes() == before


def test_what_is_no_export_is_said(gallery: Gallery, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    file = tmp_path / "x.parquet"
    with pytest.raises(GalleryError, match="cannot be read"):
        read_header(file)
    file.write_bytes(b"PAR1 no")
    with pytest.raises(GalleryError, match="cannot be read"):
        import_parquet(gallery, file)
    parquet.write_table(pyarrow.table({"a": [1]}), file)
    with pytest.raises(GalleryError, match="is no export"):
        import_parquet(gallery, file)
    with open_gallery(tmp_path / "o", model="other", dim=DIM, create=True) as other:
        export_parquet(other, file)
        with pytest.raises(GalleryError, match=r"holds embeddings of other, the gallery of some"):
            import_parquet(gallery, file)
        table = parquet.read_table(file)
        lists = table.column("embedding").cast(pyarrow.list_(pyarrow.float32()))
        place = table.schema.names.index("embedding")
        parquet.write_table(table.set_column(place, "embedding", lists), file)
        with pytest.raises(GalleryError, match="embeddings are not all of one width"):
            import_parquet(other, file)
        parquet.write_table(table.drop_columns("payload"), file)
        with pytest.raises(GalleryError, match="is no export"):
            import_parquet(other, file)
        with pytest.raises(GalleryError, match="the source holds embeddings of some"):
            copy(gallery, other)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("payload", None), ("payload", "no JSON"), ("payload", "[]")),
        *(("id", "7"), ("time", np.nan), ("content_hash", None)),
    ],
)
def test_a_damaged_row_is_said(
    gallery: Gallery, tmp_path: Path, column: str, value: object
) -> None:
    import pyarrow
    from pyarrow import parquet

    file = tmp_path / "x.parquet"
    export_parquet(gallery, file)
    table = parquet.read_table(file)
    broken = pyarrow.array([value] * 60, table.schema.field(column).type)
    parquet.write_table(table.set_column(table.schema.names.index(column), column, broken), file)
    with (
        opened("file", tmp_path / "other") as other,
        pytest.raises(GalleryError, match="a row is no entry of a gallery"),
    ):
        import_parquet(other, file)


def test_a_snapshot_is_a_gallery_again(tmp_path: Path) -> None:
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as gallery:
        gallery.add([*entries(), Entry(content_hash="f", embedding=VECTORS[0], thumbnail=FACE)])
        kept = whole(gallery)
        with pytest.raises(GalleryError, match="another process"):
            snapshot(tmp_path / "g", tmp_path / "s.tar")
    snapshot(tmp_path / "g", tmp_path / "s.tar")
    restore(tmp_path / "s.tar", tmp_path / "again")
    with open_gallery(tmp_path / "again") as gallery:
        assert whole(gallery) == kept
        assert gallery.search(VECTORS[9])[0].entry.payload == {"n": 9}
    with pytest.raises(UsageError, match="is there already"):
        restore(tmp_path / "s.tar", tmp_path / "again")
    with pytest.raises(UsageError, match="lies in the gallery itself"):
        snapshot(tmp_path / "g", tmp_path / "g" / "s.tar")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot be restored \(Not a directory\)"):
        restore(tmp_path / "s.tar", tmp_path / "file" / "again")
    with pytest.raises(UsageError, match="a server keeps snapshots of its own"):
        snapshot("http://localhost:6333/people", tmp_path / "s2.tar")


def test_a_snapshot_and_what_is_made_of_it_take_no_more_disk(tmp_path: Path) -> None:
    from passreid.gallery.folder import bytes_on_disk

    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as gallery:
        gallery.add(entries())
    snapshot(tmp_path / "g", tmp_path / "s.tar")
    restore(tmp_path / "s.tar", tmp_path / "again")
    before, after = (bytes_on_disk(tmp_path / name) for name in ("g", "again"))
    told = (tmp_path / "s.tar").stat()
    assert max(after, told.st_blocks * 512) < before + 4 * 2**20
    with tarfile.open(tmp_path / "s.tar") as tar:
        assert sum(member.size for member in tar) < told.st_size
        assert "lock" not in tar.getnames()
        for member in filter(tarfile.TarInfo.isreg, tar):
            content = tar.extractfile(member)
            assert content is not None
            kept = (tmp_path / "again" / member.name).read_bytes()
            assert content.read() == (tmp_path / "g" / member.name).read_bytes() == kept


@pytest.mark.parametrize("name", ["../evil", "{}/evil", "shard/../../evil", "link"])
def test_a_snapshot_cannot_reach_out(tmp_path: Path, name: str) -> None:
    file = tmp_path / "s.tar"
    with tarfile.open(file, "w") as tar:
        member = tarfile.TarInfo(name.format(tmp_path))
        if name == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
        else:
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(GalleryError, match="is no snapshot of a gallery"):
        restore(file, tmp_path / "g")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.tar"]


def test_what_is_no_snapshot_is_said(tmp_path: Path) -> None:
    file = tmp_path / "s.tar"
    with pytest.raises(GalleryError, match="cannot be read"):
        restore(file, tmp_path / "g")
    file.write_bytes(b"no tar" * 1000)
    with pytest.raises(GalleryError, match="is no snapshot"):
        restore(file, tmp_path / "g")
    with tarfile.open(file, "w"):
        pass
    with pytest.raises(GalleryError, match="there is no gallery here"):
        restore(file, tmp_path / "g")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.tar"]


def test_a_snapshot_whose_shard_is_damaged_is_refused(tmp_path: Path) -> None:
    open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True).close()
    snapshot(tmp_path / "g", tmp_path / "s.tar")
    with tarfile.open(tmp_path / "s.tar") as old, tarfile.open(tmp_path / "c.tar", "w") as card:
        card.addfile(old.getmember("gallery.json"), old.extractfile("gallery.json"))
    with pytest.raises(GalleryError, match=r"c\.tar: is no snapshot of a gallery .*again"):
        restore(tmp_path / "c.tar", tmp_path / "again")
    assert not (tmp_path / "again").exists()
