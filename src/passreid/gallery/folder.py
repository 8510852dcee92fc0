"""What lies in a gallery's folder: its card, its lock, its shard, and what a kill left of them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import qdrant_edge as edge

from passreid.errors import GalleryError, OutputError, PassreidError
from passreid.gallery.base import FORMAT
from passreid.gallery.points import INDEXED

try:
    import fcntl
except ImportError:  # Windows: the engine's own files are all that guards them there
    fcntl = None  # type: ignore[assignment]

CARD, LOCK, SHARD, THUMBNAILS = "gallery.json", "lock", "shard", "thumbnails"
OLD = f"{SHARD}.old"
REMOVED = "removed"

LITTLE, MUCH = 32 * 2**20, 64 * 2**20
"""Bytes of disk that the engine may take to open a shard or to change what is in it, and to add a
batch beside the batch's own. Measured: 21 and 36 MB."""

_INDEX_FROM_KB = 10_000
"""Vectors of a segment that are compared one by one as fast as through an index."""


@contextlib.contextmanager
def told(kind: type[PassreidError], what: str) -> Iterator[None]:
    """Say in our words what the engine, which raises nothing finer than Exception, ran into."""
    try:
        yield
    except PassreidError:
        raise
    except Exception as error:  # noqa: BLE001
        raise kind(f"{what} ({error}).") from None


def need_room(folder: Path, room: int) -> None:
    """Refuse before the engine runs out of disk.

    It writes through maps of sparse files, where a full disk is no error but the end of the
    process (SIGBUS). Another program can still take the room a moment later.

    Raises:
        OutputError: Fewer than `room` bytes are free, or the folder is gone.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}).") from None
    if free < room:
        raise OutputError(
            f"{folder}: the disk is nearly full, {free // 2**20} MiB are free where "
            f"{-(-room // 2**20)} MiB may be needed; make room and try again."
        )


def read_card(folder: Path) -> dict[str, Any]:
    """Read `gallery.json`.

    Raises:
        GalleryError: There is none, or of another format.
    """
    path = folder / CARD
    try:
        card: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise GalleryError(
            f"{folder}: there is no gallery here; add pictures to make one."
        ) from None
    except (OSError, ValueError) as error:
        raise GalleryError(f"{path}: cannot be read ({error}).") from None
    if not isinstance(card, dict):
        raise GalleryError(f"{path}: is not what a gallery says of itself.")
    if card.get("format") != FORMAT:
        raise GalleryError(
            f"{folder}: is of format {card.get('format')}, this passreid reads {FORMAT}; export it "
            "with the passreid that made it, and import that here."
        )
    if not isinstance(card.get("model"), str) or not isinstance(card.get("dim"), int):
        raise GalleryError(f"{path}: does not say whose embeddings these are and how wide.")
    return card


def new_shard(path: Path, dim: int, *, int8: bool = False) -> Any:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    small = edge.ScalarQuantizationConfig(type=edge.ScalarType.Int8, quantile=0.99, always_ram=True)
    vectors = edge.EdgeVectorParams(
        size=dim,
        distance=edge.Distance.Dot,
        datatype=edge.VectorStorageDatatype.Float16,
        quantization_config=small if int8 else None,
    )
    optimizers = edge.EdgeOptimizersConfig(indexing_threshold=_INDEX_FROM_KB)
    shard = edge.EdgeShard.create(
        str(path), edge.EdgeConfig(vectors=vectors, optimizers=optimizers)
    )
    for name in INDEXED:
        shard.update(edge.UpdateOperation.create_field_index(name, edge.PayloadSchemaType.Keyword))
    shard.update(edge.UpdateOperation.create_field_index("time", edge.PayloadSchemaType.Float))
    return shard


def bytes_on_disk(folder: str | Path) -> int:
    """Return what a gallery takes, without a copy that is being made; files may come and go."""
    total = 0
    with os.scandir(folder) as held:
        for each in held:
            if each.name.startswith(f"{SHARD}."):
                continue
            with contextlib.suppress(FileNotFoundError):
                inside = each.is_dir(follow_symlinks=False)
                total += bytes_on_disk(each.path) if inside else each.stat().st_blocks * 512
    return total


def settle(folder: Path) -> None:
    """Undo an exchange of the shard that was killed, and remove copies left over.

    Raises:
        GalleryError: There is no shard.
    """
    shard, old = folder / SHARD, folder / OLD
    if not shard.exists():
        if not old.exists():
            raise GalleryError(f"{folder}: the gallery's shard is gone; restore it from a copy.")
        old.rename(shard)
    for left in folder.glob(f"{SHARD}.*"):
        shutil.rmtree(left, ignore_errors=True)


def locked(folder: Path) -> IO[str]:
    """Take the gallery for this process; the system gives it back when the process ends."""
    try:
        lock = (folder / LOCK).open("a")
    except OSError as error:
        raise GalleryError(
            f"{folder}: cannot be opened ({error.strerror}); the engine writes there even to "
            "search: copy the folder to a disk of yours that can be written."
        ) from None
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise GalleryError(
            f"{folder}: another process has this gallery open; let it finish, or share the gallery "
            "with `passreid serve`."
        ) from None
    return lock
