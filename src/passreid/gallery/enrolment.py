"""Pictures into a gallery: read, embed, add; unreadable ones are listed, known ones are skipped."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from passreid.embed import Embedder, OnError, Skipped, resize_crop
from passreid.errors import GalleryError, ImageError
from passreid.gallery.base import Entry, Where, entry_id
from passreid.gallery.engine import Gallery
from passreid.gallery.identity import identity
from passreid.images import (
    ChannelOrder,
    ImageInput,
    content_hash,
    describe,
    read_encoded,
    read_image,
)
from passreid.similarity import F32

_T = TypeVar("_T")
_R = TypeVar("_R")

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
    """What became of pictures.

    Attributes:
        added, known: New entries, and pictures that were there before.
        skipped: Pictures that could not be read.
        differing: Known pictures that have other labels there than were given, which stay.
    """

    added: int
    known: int
    skipped: tuple[Skipped, ...]
    differing: int = 0


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
    Pictures are read, decoded and cut down in the embedder's threads ahead of the network.

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
    with ThreadPoolExecutor(embedder.workers, thread_name_prefix="passreid-enrol") as pool:
        return _Enrolment(
            gallery, embedder, pool, thumbnails, on_error == "raise", channel_order
        ).run(iter(images))


class _Read(NamedTuple):
    """A picture to enrol, what was read of it, and that content's hash."""

    new: NewImage
    content: ImageInput
    digest: str


class _Decoded(NamedTuple):
    """A picture cut down to the network's input, (H, W, 3) uint8 RGB, and its thumbnail."""

    read: _Read
    pixels: NDArray[np.uint8]
    thumbnail: bytes | None


class _Enrolment:
    """One call of `enrol`: its threads and its counts."""

    def __init__(
        self,
        gallery: Gallery,
        embedder: Embedder,
        pool: ThreadPoolExecutor,
        thumbnails: bool,
        strict: bool,
        channel_order: ChannelOrder | None,
    ) -> None:
        self._gallery, self._embedder, self._pool = gallery, embedder, pool
        self._thumbnails, self._strict, self._order = thumbnails, strict, channel_order
        self._added = self._known = self._differing = 0
        self._skipped: list[Skipped] = []
        self._size = 4 * embedder.batch_size

    def run(self, images: Iterator[NewImage]) -> Enrolled:
        entries: list[Entry] = []
        decoded = self._ahead(self._fresh(images), self._decode)
        while batch := list(islice(decoded, self._embedder.batch_size)):
            rows = self._embedder.embed_pixels(np.stack([each.pixels for each in batch]))
            entries += map(_entry, batch, rows)
            if len(entries) >= self._size:
                self._add(entries)
                entries = []
        self._add(entries)
        return Enrolled(self._added, self._known, tuple(self._skipped), self._differing)

    def _add(self, entries: list[Entry]) -> None:
        done = self._gallery.add(entries)
        self._added, self._known = self._added + done.added, self._known + done.known

    def _fresh(self, images: Iterator[NewImage]) -> Iterator[_Read]:
        """Yield the pictures that the gallery does not know, each once."""
        while batch := list(islice(images, self._size)):
            reads: dict[str, _Read] = {}
            for read in self._ahead(iter(batch), _read):
                self._known += read.digest in reads
                reads.setdefault(read.digest, read)
            named = {entry_id(digest): read for digest, read in reads.items()}
            where = Where(ids=tuple(named))
            there = self._gallery.page(where, limit=len(named)).entries if named else []
            for entry in there:
                self._known += 1
                self._differing += differs(entry, _labels(named.pop(entry.id).new))
            yield from named.values()

    def _ahead(self, given: Iterator[_T], work: Callable[[_T], _R]) -> Iterator[_R]:
        """Do work in threads, some items ahead, and give what comes of it in order."""
        begun: deque[Future[_R]] = deque()
        while True:
            for each in islice(given, 2 * self._embedder.batch_size - len(begun)):
                begun.append(self._pool.submit(work, each))
            if not begun:
                return
            try:
                yield begun.popleft().result()
            except ImageError as error:
                if self._strict:
                    raise
                self._skipped.append(Skipped(error.source, error.reason))

    def _decode(self, read: _Read) -> _Decoded:
        try:
            picture = read_image(read.content, channel_order=self._order)
        except ImageError as error:
            raise ImageError(describe(read.new.image), error.reason) from None
        thumbnail = draw_thumbnail(picture) if self._thumbnails else None
        return _Decoded(read, resize_crop(picture, self._embedder.card), thumbnail)


def _read(new: NewImage) -> _Read:
    """Read the file a path or an address names, once: a moment later it may be another."""
    image = new.image
    content = read_encoded(image) if isinstance(image, (str, os.PathLike)) else image
    return _Read(new, content, content_hash(content))


def _labels(new: NewImage) -> dict[str, Any]:
    names = ("camera", "time", "person", "tracklet", "payload")
    return {name: getattr(new, name) for name in names}


def differs(entry: Entry, labels: Mapping[str, Any]) -> bool:
    """Whether labels that are given for a known picture are not those its entry has."""
    given = Entry(content_hash=entry.content_hash, **labels)
    said = {name: getattr(given, name) for name in labels}
    return any(v not in (None, {}) and v != getattr(entry, name) for name, v in said.items())


def _entry(decoded: _Decoded, row: F32) -> Entry:
    (new, _, digest), _, thumbnail = decoded
    return Entry(
        content_hash=digest,
        embedding=row,
        source=new.source or describe(new.image),
        thumbnail=thumbnail,
        **_labels(new),
    )


def draw_thumbnail(picture: Image.Image) -> bytes:
    """Return a JPEG of at most `THUMBNAIL`."""
    small = picture.copy()
    small.thumbnail(THUMBNAIL, Image.Resampling.BILINEAR, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
