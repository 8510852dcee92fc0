"""Galleries in and out: Parquet files, copies from one engine to another, snapshots of a folder."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from passreid.errors import GalleryError, MissingExtraError, OutputError, UsageError
from passreid.gallery.base import Added, Entry, Gallery, Where
from passreid.storage import is_address, open_parquet, replacing

_BATCH = 1024
_CHUNK = 2**16
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
        UsageError: It would lie in the gallery's own folder.
        MissingExtraError: pyarrow is not installed.
    """
    if (folder := getattr(gallery, "folder", None)) is not None:  # others lie on no disk of ours
        _outside(path, folder)
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
            raise GalleryError(f"{path}: is no export of a gallery.")
        dim = getattr(schema.field("embedding").type, "list_size", None)
        if dim is None:
            raise GalleryError(f"{path}: its embeddings are not all of one width.")
        return model.decode(), int(dim)


def import_parquet(gallery: Gallery, path: Path) -> Added:
    """Add the entries of a file `export_parquet` wrote; it may be repeated after a kill.

    Raises:
        GalleryError: It is no such file, or of another model.
        EmbeddingError: A row's embedding is of no use.
        MissingExtraError: pyarrow is not installed.
    """
    model, _ = read_header(path)
    _same_model(str(path), model, gallery)
    added = known = 0
    with open_parquet(str(path), GalleryError) as file:
        for batch in file.iter_batches(_BATCH, columns=_COLUMNS):
            try:
                done = gallery.add([_entry(row) for row in batch.to_pylist()])
            except (TypeError, ValueError, UsageError) as error:
                raise GalleryError(f"{path}: a row is no entry of a gallery ({error}).") from None
            added, known = added + done.added, known + done.known
    return Added(added, known)


def snapshot(place: str | Path, path: Path) -> None:
    """Write a gallery's folder, as it is between two changes, to one tar file.

    Raises:
        GalleryError: There is no gallery, or another process has it open.
        OutputError: The file cannot be written.
        UsageError: The file would lie in the folder, or the gallery lies on a server.
        MissingExtraError: qdrant-edge-py is not installed.
    """
    from passreid.gallery import open_gallery

    if is_address(str(place)):
        raise UsageError(f"{place}: a server keeps snapshots of its own; export the gallery.")
    folder = Path(place)
    _outside(path, folder)
    with (
        open_gallery(folder),
        replacing(path) as temporary,
        _open_sparse(temporary) as stream,
        tarfile.open(fileobj=stream, mode="w") as tar,
    ):
        from passreid.gallery.folder import LOCK

        for file in sorted(folder.rglob("*")):
            if file != folder / LOCK:
                tar.add(file, file.relative_to(folder).as_posix(), recursive=False)


def restore(path: Path, folder: Path) -> None:
    """Make a gallery's folder from a snapshot; it is there whole or not at all.

    Raises:
        UsageError: Something lies at `folder` already.
        GalleryError: The file is no snapshot of a gallery.
        OutputError: The folder cannot be written.
        MissingExtraError: qdrant-edge-py is not installed.
    """
    from passreid.gallery import open_gallery

    if folder.exists():
        raise UsageError(f"{folder} is there already; restore to a new name.")
    fresh = folder.with_name(f".{uuid.uuid4().hex}")
    try:
        fresh.mkdir(parents=True)
        _unpack(path, fresh)
        try:
            open_gallery(fresh).close()
        except GalleryError as error:
            said = str(error).replace(str(fresh), str(folder))
            raise GalleryError(f"{path}: is no snapshot of a gallery ({said})") from None
        fresh.rename(folder)
    except tarfile.TarError as error:
        raise GalleryError(f"{path}: is no snapshot of a gallery ({error}).") from None
    except OSError as error:
        raise OutputError(f"{folder}: cannot be restored ({error.strerror or error}).") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _outside(path: Path, folder: Path) -> None:
    """Refuse a file in a gallery: it may be one of its own, and is not forgotten with entries."""
    if path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{path} lies in the gallery itself; write it elsewhere.")


def _unpack(path: Path, folder: Path) -> None:
    """Unpack plain files and folders below `folder`; a tar may name others."""
    try:
        stream = path.open("rb")
    except OSError as error:
        raise GalleryError(f"{path}: cannot be read ({error.strerror}).") from None
    with stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            inside = PurePosixPath(member.name)
            if (
                inside.is_absolute()
                or ".." in inside.parts
                or not (member.isreg() or member.isdir())
            ):
                raise GalleryError(f"{path}: is no snapshot of a gallery ({member.name}).")
            target = folder / inside
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None
            with content, _open_sparse(target) as file:
                shutil.copyfileobj(content, file)


class _Sparse(io.FileIO):
    """A new file in which zeros take no place: the engine's are mostly pages yet to be filled."""

    def write(self, data: Any) -> int:
        """Write, or leave a hole."""
        if bytes(data).count(0) < len(data):
            return super().write(data)
        self.seek(len(data), io.SEEK_CUR)
        return len(data)

    def close(self) -> None:
        """Close; a hole at the end belongs to the file."""
        if not self.closed:
            self.truncate()
        super().close()


def _open_sparse(path: Path) -> io.BufferedWriter:
    return io.BufferedWriter(_Sparse(path, "w"), _CHUNK)


def _row(entry: Entry) -> dict[str, Any]:
    return {**vars(entry), "payload": json.dumps(dict(entry.payload))}


def _entry(row: dict[str, Any]) -> Entry:
    embedding = np.asarray(row.pop("embedding"), np.float32)
    payload = json.loads(row.pop("payload"))
    return Entry(**row, embedding=embedding, payload=payload)


def _same_model(what: str, model: str, target: Gallery) -> None:
    if model != target.model:
        raise GalleryError(f"{what} holds embeddings of {model}, the gallery of {target.model}.")
