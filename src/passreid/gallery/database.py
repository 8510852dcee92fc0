"""The SQLite file of a gallery: its tables, its connections, what a row holds.

    settings     what the gallery is: the model's identity, the width of its embeddings
    entries      labels, time, payload, float16 vector, its bits, and checksums (CRC-32) of it all
    thumbnails   small JPEGs, by their entry's row
    changes      rows that were labelled again or forgotten, for other processes to follow

Rows are numbered in the order they come and a number is never used twice.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from passreid.errors import GalleryError, OutputError, UsageError
from passreid.gallery.base import Entry
from passreid.gallery.damage import WAIT_S, DamagedError, damaged, sqlite_errors
from passreid.gallery.validation import check_values

APPLICATION = 0x70726964
"""Of the file's header ("prid"); `file` and SQLite's tools show it."""
VERSION = 1
_PAGE = 4096
_CACHE_KIB = 2**15

SCHEMA = (
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    "CREATE TABLE entries (row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, "
    "content_hash TEXT NOT NULL UNIQUE, source TEXT NOT NULL, camera TEXT, person TEXT, "
    "tracklet TEXT, time REAL, payload TEXT NOT NULL, vector BLOB NOT NULL, bits BLOB NOT NULL, "
    "vector_crc INTEGER NOT NULL, thumbnail_crc INTEGER, crc INTEGER NOT NULL)",
    "CREATE TABLE thumbnails (row INTEGER PRIMARY KEY, jpeg BLOB NOT NULL)",
    "CREATE TABLE changes (change INTEGER PRIMARY KEY AUTOINCREMENT, row INTEGER NOT NULL)",
)
WORDS = (
    *("id", "content_hash", "source", "camera", "person", "tracklet", "time", "payload"),
    *("vector_crc", "thumbnail_crc"),
)
"""Columns that `crc` covers, in its order."""
SELECT_WORDS = f"SELECT row, {', '.join(WORDS)}, crc FROM entries"
SELECT_WHOLE = (
    f"SELECT row, {', '.join(WORDS)}, crc, vector, bits, jpeg FROM entries "
    "LEFT JOIN thumbnails USING (row)"
)

INSERT = (
    f"INSERT INTO entries (row, {', '.join(WORDS)}, crc, vector, bits) "
    f"VALUES ({', '.join('?' * (len(WORDS) + 4))})"
)


def connect(place: Path, *, write: bool) -> sqlite3.Connection:
    """Connect to a file; transactions are begun by hand, and threads may share the connection.

    Raises:
        sqlite3.Error: It cannot be opened; the first statement may raise the same.
    """
    connection = _connect(place, "rw")
    pragmas = ("synchronous = FULL", "secure_delete = ON") if write else ("query_only = ON",)
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}")
    return connection


def connect_to_read(place: Path) -> sqlite3.Connection:
    """Connect to a gallery's file; on a read-only disk it is taken for one that nobody changes.

    Raises:
        GalleryError: There is no file, or a log beside it that can only be read with it elsewhere.
        sqlite3.Error: As `connect`.
    """
    if not place.is_file():
        raise GalleryError(f"{place}: there is no gallery here; add pictures to make one.")
    if os.access(place, os.W_OK) and os.access(place.absolute().parent, os.W_OK):
        return connect(place, write=False)
    if not filled(log_of(place)):
        fixed = os.access(place.absolute().parent, os.W_OK)
        return _connect(place, "ro" if fixed else "ro&immutable=1")
    if not log_of(place, "-shm").exists():
        raise GalleryError(
            f"{place}: a process that was writing to it was killed, and here nothing can be "
            f"written: copy it with {log_of(place).name} to a disk that can be."
        )
    return _connect(place, "ro")


def _connect(place: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(place.absolute()))}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=WAIT_S,
    )
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "temp_store = MEMORY"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return connection


def log_of(place: Path, end: str = "-wal") -> Path:
    """Return the write-ahead log, which SQLite keeps beside the file a link leads to."""
    file = place.resolve()
    return file.with_name(f"{file.name}{end}")


def filled(file: Path) -> bool:
    """Whether a file is there and holds something."""
    return file.exists() and file.stat().st_size > 0


def create(place: Path, *, model: str, dim: int, centred: bool = False) -> None:
    """Make an empty gallery, or finish one whose making was killed; one that is there stays.

    Raises:
        OutputError: It cannot be written.
        GalleryError: The file is something else.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            place.touch(exist_ok=False)
        begun = place.stat().st_size > 0
    except OSError as error:
        raise OutputError(f"{place}: no gallery can be made here ({error.strerror}).") from None
    with sqlite_errors(place):
        if begun:
            with closing(connect_to_read(place)) as connection:
                if not _is_blank(connection):
                    return
        with closing(connect(place, write=True)) as connection:
            if not begun:
                connection.execute(f"PRAGMA page_size = {_PAGE}")
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("PRAGMA journal_mode = WAL")
            with transaction(connection):
                if not _is_blank(connection):  # another process was sooner
                    return
                for statement in SCHEMA:
                    connection.execute(statement)
                settings: list[tuple[str, Any]] = [("model", model), ("dim", dim)]
                settings += [("centred", 1)] if centred else []
                connection.executemany("INSERT INTO settings VALUES (?, ?)", settings)
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {VERSION}")


def _is_blank(connection: sqlite3.Connection) -> bool:
    return not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


class Settings(NamedTuple):
    """What a gallery says it is, and whether its searches subtract camera means."""

    model: str
    dim: int
    centred: bool


def read_settings(connection: sqlite3.Connection, place: Path) -> Settings:
    """Check that a file is a gallery this version reads, and say what it holds.

    Raises:
        GalleryError: It is something else, newer, or does not name its model.
    """
    if _is_blank(connection):
        raise GalleryError(f"{place}: there is no gallery here; add pictures to make one.")
    application, version = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("application_id", "user_version")
    )
    if application != APPLICATION:
        raise GalleryError(f"{place}: is a database of another program, not a gallery.")
    if version != VERSION:
        raise GalleryError(
            f"{place}: is of format {version}, this passreid reads {VERSION}; export it with the "
            "passreid that made it, and import that here."
        )
    tables = connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL").fetchall()
    if {sql for (sql,) in tables} != {*SCHEMA, "CREATE TABLE sqlite_sequence(name,seq)"}:
        raise GalleryError(damaged(place, "its tables are not those of a gallery"))
    settings = dict(connection.execute("SELECT name, value FROM settings"))
    model, dim = settings.get("model"), settings.get("dim")
    if not isinstance(model, str) or not model or not isinstance(dim, int) or dim < 1:
        raise GalleryError(damaged(place, "it does not say whose embeddings it holds"))
    return Settings(model, dim, bool(settings.get("centred", 0)))


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what the block did, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def checksum(words: Sequence[Any]) -> int:
    """Return the CRC-32 of the values of the columns `WORDS`."""
    return zlib.crc32("\0".join(map(str, words)).encode("utf-8", "surrogatepass"))


def vector_checksum(vector: bytes, bits: bytes) -> int:
    """Return the CRC-32 of a stored vector and its bits."""
    return zlib.crc32(bits, zlib.crc32(vector))


def words_of(entry: Entry, vector_crc: int) -> tuple[Any, ...]:
    """Return the values of the columns `WORDS`."""
    time = None if entry.time is None else float(entry.time)
    payload = json.dumps(dict(entry.payload or {}), ensure_ascii=False)
    thumbnail_crc = None if entry.thumbnail is None else zlib.crc32(entry.thumbnail)
    known = (entry.id, entry.content_hash, entry.source, entry.camera, entry.person)
    return (*known, entry.tracklet, time, payload, vector_crc, thumbnail_crc)


def faults(row: Sequence[Any]) -> list[str]:
    """Name what does not fit its checksum in a row of `SELECT_WHOLE`, or in one of `SELECT_WORDS`.

    Returns:
        Some of "labels", "vector" and "thumbnail".
    """
    words, crc, held = row[1 : 1 + len(WORDS)], row[1 + len(WORDS)], row[2 + len(WORDS) :]
    wrong = [] if checksum(words) == crc else ["labels"]
    if held:
        vector, bits, jpeg = held
        vector_crc, jpeg_crc = words[-2:]
        if vector_checksum(vector, bits) != vector_crc:
            wrong.append("vector")
        if jpeg_crc != (None if jpeg is None else zlib.crc32(jpeg)):
            wrong.append("thumbnail")
    return wrong


def entry_of(row: Sequence[Any]) -> Entry:
    """Make an entry of a row of `SELECT_WORDS`, or a whole one of a row of `SELECT_WHOLE`.

    Raises:
        DamagedError: A checksum does not hold.
    """
    id, content_hash, source, camera, person, tracklet, time, payload = row[1 : len(WORDS) - 1]
    vector, _, jpeg = row[2 + len(WORDS) :] or (None, None, None)
    if faults(row):
        raise DamagedError(id)
    entry = Entry(
        id=id,
        content_hash=content_hash,
        source=source,
        camera=camera,
        person=person,
        tracklet=tracklet,
        time=time,
        payload=json.loads(payload),
        embedding=None if vector is None else np.frombuffer(vector, np.float16).astype(np.float32),
        thumbnail=jpeg,
    )
    try:
        check_values(vars(entry))  # a file made by others can have checksums that hold
    except UsageError as error:
        raise DamagedError(id) from error
    return entry


def back_up(source: sqlite3.Connection, target: Path) -> None:
    """Copy a database, as it is between two changes, into an empty file.

    Raises:
        GalleryError, OutputError: The copy cannot be made.
    """
    with sqlite_errors(target), closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
