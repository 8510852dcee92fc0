"""Pictures into a gallery: read, embed, add; unreadable ones are listed, known ones are skipped."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from PIL import Image

from passreid.embed import Embedder, OnError, Skipped
from passreid.errors import GalleryError, ImageError
from passreid.gallery.base import Entry, Gallery, Where, entry_id
from passreid.gallery.identity import identity
from passreid.images import (
    ChannelOrder,
    ImageInput,
    content_hash,
    describe,
    read_encoded,
    read_image,
)

THUMBNAIL = (128, 256)
"""Width and height of a thumbnail, at most: sharp on a phone's screen."""


@dataclass(frozen=True, kw_only=True)
class NewImage:
    """A picture to enrol, and what is known of it; the fields are those of `Entry`."""

    image: ImageInput
    source: str = ""
    camera: str | None = None
    time: float | None = None
    person: str | None = None
    tracklet: str | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)


class Enrolled(NamedTuple):
    """New entries, those that were there before, and pictures that could not be read."""

    added: int
    known: int
    skipped: tuple[Skipped, ...]


def enrol(
    gallery: Gallery,
    embedder: Embedder,
    images: Iterable[NewImage],
    *,
    thumbnails: bool = True,
    on_error: OnError = "skip",
    channel_order: ChannelOrder | None = None,
) -> Enrolled:
    """Embed pictures and add them, batch by batch: what was added stays when the rest fails.

    A picture the gallery knows is not embedded again, so a broken enrolment is simply repeated.

    Args:
        gallery: Made for this embedder's model.
        embedder: Embeds.
        images: Any number; memory stays bounded.
        thumbnails: Keep a small JPEG of each.
        on_error: "skip" lists unreadable pictures, "raise" stops at the first.
        channel_order: Order of the channels of arrays, which do not know it.

    Raises:
        GalleryError: The gallery is another model's.
        ImageError: With "raise".
    """
    model = identity(embedder)
    if gallery.model != model:
        raise GalleryError(f"This gallery is of {gallery.model}, not of {model}.")
    added = known = 0
    skipped: list[Skipped] = []
    read = partial(read_image, channel_order=channel_order)
    remaining = iter(images)
    while batch := list(islice(remaining, 4 * embedder.batch_size)):
        fresh: dict[str, _Read] = {}
        for new in batch:
            try:
                content = _content(new.image)
                digest = content_hash(content)
            except ImageError as error:
                _note(error, on_error, skipped)
                continue
            known += digest in fresh
            fresh.setdefault(digest, _Read(new, content))
        there = _known(gallery, fresh)
        known += len(there)
        fresh = {digest: read for digest, read in fresh.items() if digest not in there}
        done = gallery.add(_entries(fresh, embedder, read, thumbnails, on_error, skipped))
        added, known = added + done.added, known + done.known
    return Enrolled(added, known, tuple(skipped))


class _Read(NamedTuple):
    """A picture to enrol, and what was read of it: its name is not asked a second time."""

    new: NewImage
    content: ImageInput


def _content(image: ImageInput) -> ImageInput:
    """Read the file a path or an address names."""
    return read_encoded(image) if isinstance(image, (str, os.PathLike)) else image


def _known(gallery: Gallery, hashes: Iterable[str]) -> set[str]:
    """Return which pictures the gallery has, without reading their vectors and thumbnails."""
    ids = tuple(entry_id(digest) for digest in hashes)
    if not ids:
        return set()
    return {entry.content_hash for entry in gallery.page(Where(ids=ids), limit=len(ids)).entries}


def _entries(
    images: Mapping[str, _Read],
    embedder: Embedder,
    read: Callable[[ImageInput], Image.Image],
    thumbnails: bool,
    on_error: OnError,
    skipped: list[Skipped],
) -> list[Entry]:
    readable: list[tuple[str, NewImage, bytes | None]] = []

    def pictures() -> Iterator[Image.Image]:
        for digest, (new, content) in images.items():
            try:
                picture = read(content)
            except ImageError as error:
                _note(ImageError(describe(new.image), error.reason), on_error, skipped)
                continue
            readable.append((digest, new, draw_thumbnail(picture) if thumbnails else None))
            yield picture

    rows = embedder(pictures())
    return [
        Entry(
            content_hash=digest,
            embedding=row,
            source=new.source or describe(new.image),
            camera=new.camera,
            time=new.time,
            person=new.person,
            tracklet=new.tracklet,
            payload=new.payload,
            thumbnail=thumbnail,
        )
        for (digest, new, thumbnail), row in zip(readable, rows, strict=True)
    ]


def draw_thumbnail(picture: Image.Image) -> bytes:
    """Return a JPEG of at most `THUMBNAIL`."""
    small = picture.copy()
    small.thumbnail(THUMBNAIL, Image.Resampling.BILINEAR, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _note(error: ImageError, on_error: OnError, skipped: list[Skipped]) -> None:
    if on_error == "raise":
        raise error
    skipped.append(Skipped(error.source, error.reason))
