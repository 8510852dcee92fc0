"""Galleries in and out: Parquet files, copies from one engine to another, snapshots."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from passreid.errors import GalleryError, MissingExtraError, UsageError
from passreid.gallery.base import Added, Entry, Where
from passreid.gallery.engine import Gallery
from passreid.storage import is_address, open_parquet, replacing

_BATCH = 1024
_MODEL = b"passreid_model"
_WORDS = ("id", "content_hash", "source", "camera", "person", "tracklet", "payload")
_COLUMNS = (*_WORDS, "time", "thumbnail", "embedding")


def read_all(
    gallery: Gallery, where: Where | None = None, *, whole: bool = True
) -> Iterator[list[Entry]]:
    """Yield entries in the order of their ids, some hundred at a time; whole as in `page`."""
    after: str | None = None
    while True:
        page = gallery.page(where, limit=_BATCH, after=after, whole=whole)
        if page.entries:
            yield page.entries
        after = page.next
        if after is None:
            return


def copy(source: Gallery, target: Gallery, where: Where | None = None) -> Added:
    """Add a gallery's entries to another; what is there already stays, so it may be repeated.

    Raises:
        GalleryError: The galleries are of two models, or the target cannot be written.
    """
    _same_model("the source", source.model, target)
    added = known = 0
    for batch in read_all(source, where):
        done = target.add(batch)
        added, known = added + done.added, known + done.known
    return Added(added, known)


def export_parquet(gallery: Gallery, path: Path, where: Where | None = None) -> int:
    """Write entries to a Parquet file, a row each; return how many.

    Columns: id, content_hash, source, camera, time (seconds, UTC), person, tracklet, payload
    (JSON), thumbnail (JPEG) and embedding (list of float32 at unit length). The file's metadata
    names the model.

    Raises:
        OutputError: It cannot be written.
        UsageError: It is the gallery's own file.
        MissingExtraError: pyarrow is not installed.
    """
    if (place := getattr(gallery, "place", None)) is not None:  # others lie on no disk of ours
        _outside(path, place)
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError("Writing Parquet", "bulk") from error
    fields = [(name, arrow.string()) for name in _WORDS]
    fields += [("time", arrow.float64()), ("thumbnail", arrow.binary())]
    fields += [("embedding", arrow.list_(arrow.float32(), gallery.dim))]
    schema = arrow.schema(fields, metadata={_MODEL: gallery.model.encode()})
    count = 0
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for batch in read_all(gallery, where):
            writer.write_table(arrow.Table.from_pylist([_row(e) for e in batch], schema))
            count += len(batch)
    return count


def read_header(path: Path) -> tuple[str, int]:
    """Return the model and the width of the embeddings of a file `export_parquet` wrote.

    Raises:
        GalleryError: It is no such file.
        MissingExtraError: pyarrow is not installed.
    """
    with open_parquet(str(path), GalleryError) as file:
        schema = file.schema_arrow
        model = (schema.metadata or {}).get(_MODEL)
        if model is None or not set(_COLUMNS) <= set(schema.names):
            raise GalleryError(f"{path}: is not an export of a gallery.")
        dim = getattr(schema.field("embedding").type, "list_size", None)
        if dim is None:
            raise GalleryError(f"{path}: its embeddings are not all of one width.")
        return model.decode(), int(dim)


def import_parquet(gallery: Gallery, path: Path, *, formerly: str | None = None) -> Added:
    """Add the entries of a file `export_parquet` wrote; it may be repeated after a kill.

    Args:
        gallery, path: Where to, and what.
        formerly: What the gallery's model was called when the file was written, where that was
            another name: `former_identity`.

    Raises:
        GalleryError: It is no such file, or of another model.
        EmbeddingError: A row's embedding is of no use.
        MissingExtraError: pyarrow is not installed.
    """
    model, _ = read_header(path)
    if model != formerly:
        _same_model(str(path), model, gallery)
    added = known = 0
    with open_parquet(str(path), GalleryError) as file:
        for batch in file.iter_batches(_BATCH, columns=_COLUMNS):
            try:
                done = gallery.add(_entries(batch))
            except (TypeError, ValueError, RecursionError, UsageError) as error:
                raise GalleryError(f"{path}: a row cannot be enrolled ({error}).") from None
            added, known = added + done.added, known + done.known
    return Added(added, known)


def snapshot(place: str | Path, path: Path) -> None:
    """Write a gallery, as it is between two changes, to one file, which is a gallery itself.

    Other processes go on reading and writing meanwhile.

    Raises:
        GalleryError: There is no gallery, or it is damaged.
        OutputError: The file cannot be written.
        UsageError: The file is the gallery's own, or the gallery lies on a server.
        MissingExtraError: faiss-cpu is not installed.
    """
    if is_address(str(place)):
        raise UsageError(f"{place}: a server keeps snapshots of its own; export the gallery.")
    source = Path(place)
    _outside(path, source)
    _copy_checked(source, path)


def restore(path: Path, place: Path) -> None:
    """Make a gallery from a snapshot; it is there whole or not at all.

    Raises:
        UsageError: Something lies at `place` already.
        GalleryError: The file is no snapshot of a gallery, or damaged.
        OutputError: The gallery cannot be written.
        MissingExtraError: faiss-cpu is not installed.
    """
    if place.exists():
        raise UsageError(f"{place} exists; restore to a new name.")
    if path.is_file() and tarfile.is_tarfile(path):
        raise GalleryError(
            f"{path}: is a snapshot of an older passreid; restore it with that version, export "
            "the gallery to Parquet, and import that."
        )
    _copy_checked(path, place)


def _copy_checked(source: Path, target: Path) -> None:
    """Copy a gallery's file page by page, and check the copy before it gets its name."""
    from passreid.gallery import open_gallery

    with open_gallery(source, read_only=True) as gallery, replacing(target) as temporary:
        gallery.back_up(temporary)  # type: ignore[attr-defined]  # a file's alone


def _outside(path: Path, place: Path) -> None:
    """Refuse to write over a gallery's own files."""
    own = [place, *(place.with_name(f"{place.name}{end}") for end in ("-wal", "-shm"))]
    if path.resolve() in [file.resolve() for file in own]:
        raise UsageError(f"{path} is the gallery's own file; write it elsewhere.")


def _row(entry: Entry) -> dict[str, Any]:
    return {**vars(entry), "payload": json.dumps(dict(entry.payload))}


def _entries(batch: Any) -> list[Entry]:
    """Make entries of a batch of rows."""
    vectors = batch.column("embedding").flatten().to_numpy(zero_copy_only=False)
    embeddings = vectors.reshape(len(batch), -1) if len(batch) else []
    rows = batch.drop_columns("embedding").to_pylist()
    return [
        Entry(**row | {"embedding": embedding, "payload": json.loads(row["payload"])})
        for row, embedding in zip(rows, embeddings, strict=True)
    ]


def _same_model(what: str, model: str, target: Gallery) -> None:
    if model != target.model:
        raise GalleryError(f"{what} holds embeddings of {model}, the gallery of {target.model}.")
