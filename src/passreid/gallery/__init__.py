"""A living gallery: enrol people, find them again, forget them.

base.py       entries, filters, hits, the protocol
embedded.py   a folder on this machine: the Qdrant engine in the process
folder.py     what lies in it, and what a kill left of it
points.py     entries and filters in the engine's words
enrolment.py  pictures -> entries
"""

from __future__ import annotations

from pathlib import Path

from passreid.errors import GalleryError, MissingExtraError, UsageError
from passreid.gallery.base import Entry, Gallery, Hit, Where, identity
from passreid.gallery.enrolment import NewImage, enrol

__all__ = [
    "Entry",
    "Gallery",
    "Hit",
    "NewImage",
    "Where",
    "enrol",
    "identity",
    "open_gallery",
]


def open_gallery(
    path: str | Path,
    *,
    model: str | None = None,
    dim: int | None = None,
    create: bool = False,
    read_only: bool = False,
) -> Gallery:
    """Open the gallery in a folder, or make one.

    Args:
        path: The folder.
        model: `identity` of the model that will embed; another gallery's is refused.
        dim: Width of its embeddings; needed to make a gallery.
        create: Make the gallery if there is none.
        read_only: Refuse every change.

    Raises:
        GalleryError: There is no gallery, of another model, damaged, or in use by another process.
        UsageError: `create` without `model` and `dim`, or an address.
        OutputError: It cannot be made.
        MissingExtraError: qdrant-edge-py is not installed.
    """
    if "://" in str(path):
        raise UsageError(f"{path}: galleries are folders; an address cannot be opened.")
    try:
        from passreid.gallery.embedded import EmbeddedGallery
        from passreid.gallery.folder import CARD, SHARD
    except ModuleNotFoundError as error:
        raise MissingExtraError("A gallery", "gallery") from error
    folder = Path(path)
    if create and not read_only and not (folder / CARD).exists():
        if model is None or dim is None:
            raise UsageError("A new gallery needs the model and the width of its embeddings.")
        if folder.exists() and any(folder.iterdir()) and not (folder / SHARD).exists():
            raise GalleryError(f"{folder}: is a folder of other things; name a new one.")
        EmbeddedGallery.create(folder, model=model, dim=dim)
    gallery = EmbeddedGallery(folder, read_only=read_only)
    if model is not None and gallery.model != model:
        gallery.close()
        raise GalleryError(
            f"{folder} holds embeddings of {gallery.model}, not of {model}: use that model, or "
            "make another gallery."
        )
    return gallery
