"""Parquet, copies and snapshots: everything comes back, nothing half."""

from __future__ import annotations

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


def test_an_export_does_not_overwrite_its_gallery(gallery: Gallery, tmp_path: Path) -> None:
    for path in (tmp_path / "g", tmp_path / "x" / ".." / "g", tmp_path / "g-wal"):
        with pytest.raises(UsageError, match="is the gallery's own file; write it elsewhere"):
            export_parquet(gallery, path)
    assert gallery.count() == 60


def test_an_export_that_names_its_model_as_older_versions_did_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "old.parquet"
    with open_gallery(tmp_path / "o", model="m@0123", dim=DIM, create=True) as old:
        old.add(entries())
        export_parquet(old, file)
    with open_gallery(tmp_path / "n", model="m@89ab", dim=DIM, create=True) as new:
        for formerly in (None, "m@4567"):
            with pytest.raises(GalleryError, match="holds embeddings of m@0123"):
                import_parquet(new, file, formerly=formerly)
        assert import_parquet(new, file, formerly="m@0123") == (60, 0)


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
    with pytest.raises(GalleryError, match="is not an export"):
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
        with pytest.raises(GalleryError, match="is not an export"):
            import_parquet(other, file)
        with pytest.raises(GalleryError, match="the source holds embeddings of some"):
            copy(gallery, other)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("payload", None), ("payload", "no JSON"), ("payload", "[]")),
        ("payload", "[" * 100_000),
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
        pytest.raises(GalleryError, match="a row cannot be enrolled"),
    ):
        import_parquet(other, file)


def test_a_snapshot_is_a_gallery_again(tmp_path: Path) -> None:
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as gallery:
        gallery.add([*entries(), Entry(content_hash="f", embedding=VECTORS[0], thumbnail=FACE)])
        kept = whole(gallery)
        snapshot(tmp_path / "g", tmp_path / "s.snapshot")  # while it is open
        gallery.remove(Where(cameras=("c1",)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g", "s.snapshot"]
    restore(tmp_path / "s.snapshot", tmp_path / "again")
    with open_gallery(tmp_path / "again") as gallery:
        assert whole(gallery) == kept
        assert gallery.search(VECTORS[9])[0].entry.payload == {"n": 9}
        gallery.add([Entry(content_hash="more", embedding=VECTORS[0])])
    with pytest.raises(UsageError, match="exists; restore to a new name"):
        restore(tmp_path / "s.snapshot", tmp_path / "again")
    with pytest.raises(UsageError, match="is the gallery's own file"):
        snapshot(tmp_path / "g", tmp_path / "g")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot be written"):
        restore(tmp_path / "s.snapshot", tmp_path / "file" / "again")
    with pytest.raises(UsageError, match="a server keeps snapshots of its own"):
        snapshot("http://localhost:6333/people", tmp_path / "s2")


def test_a_snapshot_takes_the_place_of_its_gallery(tmp_path: Path) -> None:
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as gallery:
        gallery.add(entries())
    snapshot(tmp_path / "g", tmp_path / "s")
    assert (tmp_path / "s").stat().st_size <= (tmp_path / "g").stat().st_size


def test_what_is_not_a_snapshot_is_said(tmp_path: Path) -> None:
    file = tmp_path / "s"
    with pytest.raises(GalleryError, match="there is no gallery here"):
        restore(file, tmp_path / "g")
    file.write_bytes(b"nothing" * 1000)
    with pytest.raises(GalleryError, match="is not a gallery, or damaged beyond reading"):
        restore(file, tmp_path / "g")
    with tarfile.open(file, "w") as tar:
        tar.addfile(tarfile.TarInfo("gallery.json"))
    with pytest.raises(GalleryError, match="is a snapshot of an older passreid; restore it with"):
        restore(file, tmp_path / "g")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


def test_a_damaged_snapshot_is_refused(tmp_path: Path) -> None:
    with open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True) as gallery:
        gallery.add(entries())
    snapshot(tmp_path / "g", tmp_path / "s")
    data = (tmp_path / "s").read_bytes()
    (tmp_path / "s").write_bytes(data.replace(b"frames/5.jpg", b"frames/6.jpg", 1))
    with pytest.raises(GalleryError, match="s is damaged"):
        restore(tmp_path / "s", tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g", "s"]
