"""A living gallery: enrol people, find them again, forget them.

base.py       entries, filters, hits
validation.py what an entry may hold
identity.py   whose embeddings a gallery holds
engine.py     the gallery: what is asked of it, and what both engines do the same way
local.py      one SQLite file on this machine
database.py   its tables, connections and errors
memory.py     what searches and filters need of it, in memory
vectors.py    vectors in FAISS
check.py      checks a file, and keeps what is whole of a damaged one
remote.py     a Qdrant server or cluster
connection.py the way there: addresses, clients, requests tried again
points.py     entries and filters as Qdrant has them
enrolment.py  pictures -> entries
exchange.py   Parquet files, copies, snapshots
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from passreid.errors import GalleryError, MissingExtraError, PassreidError, UsageError
from passreid.gallery.base import Entry, Hit, Layout, Where
from passreid.gallery.engine import Gallery
from passreid.gallery.enrolment import NewImage, enrol
from passreid.gallery.exchange import (
    copy,
    export_parquet,
    import_parquet,
    read_all,
    read_header,
    restore,
    snapshot,
)
from passreid.gallery.identity import former_identity, identity
from passreid.storage import is_address

if TYPE_CHECKING:
    from passreid.gallery.local import SqliteGallery
    from passreid.gallery.remote import RemoteGallery

__all__ = [
    "Entry",
    "Gallery",
    "Hit",
    "Layout",
    "NewImage",
    "Where",
    "copy",
    "enrol",
    "export_parquet",
    "former_identity",
    "identity",
    "import_parquet",
    "open_gallery",
    "read_all",
    "read_header",
    "restore",
    "snapshot",
]


def open_gallery(
    place: str | Path,
    *,
    model: str | None = None,
    dim: int | None = None,
    create: bool = False,
    read_only: bool = False,
    api_key: str | None = None,
    layout: Layout | None = None,
) -> Gallery:
    """Open a gallery, a file or a collection on a Qdrant server, or make one.

    Args:
        place: The file, or ``http(s)://host:6333/name``.
        model: `identity` of the model that will embed; another gallery's is refused.
        dim: Width of its embeddings, likewise; needed to make a gallery.
        create: Make the gallery if there is none.
        read_only: Refuse every change; a file may then lie on a read-only disk.
        api_key: Of the server; else from the environment, PASSREID_QDRANT_API_KEY.
        layout: Of a gallery that is made; one that is there and has another is refused.

    Raises:
        GalleryError: There is no gallery, of another model, width or layout, damaged, or the server
            does not answer.
        UsageError: `create` without `model` and `dim`, no such address, or shards in a file.
        OutputError: It cannot be made or read.
        MissingExtraError: faiss-cpu, or qdrant-client for a server, is not installed.
    """
    if create and not read_only and (not model or not dim):
        raise UsageError("A new gallery needs the model and the width of its embeddings.")
    made = (model, dim, layout) if create and not read_only and model and dim else None
    gallery: Gallery
    if is_address(str(place)):
        gallery = _on_server(str(place), made, read_only, api_key)
    elif layout is not None and layout != Layout():
        raise UsageError(
            f"{place}: shards and replicas are for a gallery on a server; a file has neither."
        )
    else:
        gallery = _in_file(Path(place), made, read_only)
    differs = None
    if model is not None and gallery.model != model:
        differs = (
            f"{place} holds embeddings of {gallery.model}, not of {model}: use that model, or "
            "make another gallery."
        )
    elif dim is not None and gallery.dim != dim:
        differs = f"{place} holds embeddings of {gallery.dim} numbers, not {dim}."
    elif layout is not None and (found := _contradiction(layout, gallery.layout)):
        differs = (
            f"{place} was made {found} and stays so: leave that option out, or make another "
            "gallery with it and copy the entries there (`passreid gallery copy`)."
        )
    if differs is not None:
        gallery.close()
        raise GalleryError(differs)
    return gallery


_New = tuple[str, int, Layout | None]


def _contradiction(asked: Layout, there: Layout) -> str | None:
    """Say what a gallery does not have of a layout; what is not asked for may be as it is."""
    for wanted, number, name in (
        (asked.shards, there.shards, "shards"),
        (asked.replicas, there.replicas, "replicas"),
    ):
        if wanted is not None and wanted != number:
            return f"with {number} {name}, not {wanted},"
    return None


def _in_file(place: Path, made: _New | None, read_only: bool) -> SqliteGallery:
    try:
        from passreid.gallery.database import create
        from passreid.gallery.local import SqliteGallery
    except ModuleNotFoundError as error:
        raise MissingExtraError("A gallery", "gallery") from error
    if place.is_dir():
        if (place / "gallery.json").exists():
            raise GalleryError(
                f"{place}: is a folder, the gallery of an older passreid. Export it with that "
                "version (`passreid gallery export FOLDER people.parquet`) and import the file "
                "with this one (`passreid gallery import NEW people.parquet --model MODEL`)."
            )
        raise GalleryError(f"{place}: is a folder; a gallery is one file, name a new one.")
    if made:
        model, dim, _ = made
        create(place, model=model, dim=dim)
    return SqliteGallery(place, read_only=read_only)


def _on_server(url: str, made: _New | None, read_only: bool, api_key: str | None) -> RemoteGallery:
    try:
        from passreid.gallery.connection import address, connect
        from passreid.gallery.remote import RemoteGallery
    except ModuleNotFoundError as error:
        raise MissingExtraError("A gallery on a server", "qdrant") from error
    where = address(url)
    client = connect(where, api_key)
    try:
        if made:
            model, dim, layout = made
            RemoteGallery.create(client, where.collection, model=model, dim=dim, layout=layout)
        return RemoteGallery(client, where.collection, read_only=read_only)
    except PassreidError:
        client.close()
        raise
