"""A living gallery: enrol people, find them again, forget them.

base.py       entries, filters, hits, the protocol
words.py      what may be said of an entry
embedded.py   a folder on this machine: the Qdrant engine in the process
folder.py     what lies in it, and what a kill left of it
shard.py      the engine's files, made anew while they are used
indexing.py   the index of them, built by a process of its own
remote.py     a Qdrant server or cluster
connection.py the way there: addresses, clients, requests tried again
engine.py     what both do alike
points.py     entries and filters in the words of both
enrolment.py  pictures -> entries
exchange.py   Parquet files, copies, snapshots
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from passreid.errors import GalleryError, MissingExtraError, PassreidError, UsageError
from passreid.gallery.base import Entry, Gallery, Hit, Layout, Where, identity
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
from passreid.storage import is_address

if TYPE_CHECKING:
    from passreid.gallery.embedded import EmbeddedGallery
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
    """Open a gallery in a folder or on a Qdrant server, or make one.

    Args:
        place: The folder, or ``http(s)://host:6333/name``.
        model: `identity` of the model that will embed; another gallery's is refused.
        dim: Width of its embeddings; needed to make a gallery.
        create: Make the gallery if there is none.
        read_only: Refuse every change.
        api_key: Of the server; else from the environment, PASSREID_QDRANT_API_KEY.
        layout: Of a gallery that is made; one that is there and has another is refused.

    Raises:
        GalleryError: There is no gallery, of another model or layout, damaged, in use by another
            process, or the server does not answer.
        UsageError: `create` without `model` and `dim`, no such address, or shards in a folder.
        OutputError: It cannot be made.
        MissingExtraError: qdrant-edge-py, or qdrant-client for a server, is not installed.
    """
    if create and not read_only and (model is None or dim is None):
        raise UsageError("A new gallery needs the model and the width of its embeddings.")
    made = (model, dim, layout) if create and not read_only and model and dim else None
    if layout is not None and (layout.shards or layout.replicas) and not is_address(str(place)):
        raise UsageError(
            f"{place}: shards and replicas are for a gallery on a server; a folder has neither."
        )
    gallery: EmbeddedGallery | RemoteGallery
    if is_address(str(place)):
        gallery = _on_server(str(place), made, read_only, api_key)
    else:
        gallery = _in_folder(Path(place), made, read_only)
    if model is not None and gallery.model != model:
        gallery.close()
        raise GalleryError(
            f"{place} holds embeddings of {gallery.model}, not of {model}: use that model, or "
            "make another gallery."
        )
    if layout is not None and (differs := _contradiction(layout, gallery.layout)):
        gallery.close()
        raise GalleryError(
            f"{place} was made {differs} and stays so: leave that option out, or make another "
            "gallery with it and copy the entries there (`passreid gallery copy`)."
        )
    return gallery


_New = tuple[str, int, Layout | None]


def _contradiction(asked: Layout, there: Layout) -> str | None:
    """Say what a gallery does not have of a layout; what is not asked for may be as it is."""
    if asked.int8 and not there.int8:
        return "without int8"
    for wanted, number, name in (
        (asked.shards, there.shards, "shards"),
        (asked.replicas, there.replicas, "replicas"),
    ):
        if wanted is not None and wanted != number:
            return f"with {number} {name}, not {wanted},"
    return None


def _in_folder(folder: Path, made: _New | None, read_only: bool) -> EmbeddedGallery:
    try:
        from passreid.gallery.embedded import EmbeddedGallery
        from passreid.gallery.folder import CARD, SHARD
    except ModuleNotFoundError as error:
        raise MissingExtraError("A gallery", "gallery") from error
    if made and not (folder / CARD).exists():
        if folder.is_file():
            raise GalleryError(f"{folder}: is a file; a gallery is a folder, name a new one.")
        others = (p for p in folder.glob("*") if not p.name.startswith(f"{SHARD}."))
        if any(others) and not (folder / SHARD).exists():
            raise GalleryError(f"{folder}: is a folder of other things; name a new one.")
        model, dim, layout = made
        EmbeddedGallery.create(folder, model=model, dim=dim, layout=layout)
    return EmbeddedGallery(folder, read_only=read_only)


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
