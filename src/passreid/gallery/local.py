"""A gallery in one SQLite file: any number of processes that read beside one that writes.

Every change is one transaction, on disk before its call returns, and leaves the write-ahead log
empty: the file alone is the whole gallery, and holds no byte of what was forgotten.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from passreid.centring import CameraMeans
from passreid.errors import GalleryError
from passreid.gallery.base import Entry, Hit, Info, Layout, Where
from passreid.gallery.damage import WAIT_S, DamagedError, damaged, sqlite_errors
from passreid.gallery.database import (
    INSERT,
    SELECT_WHOLE,
    SELECT_WORDS,
    WORDS,
    back_up,
    checksum,
    connect,
    connect_to_read,
    entry_of,
    filled,
    log_of,
    read_settings,
    transaction,
    vector_checksum,
    words_of,
)
from passreid.gallery.engine import Ask, Gallery
from passreid.gallery.memory import Memory, chunks, select_in
from passreid.gallery.validation import LABELS, changes, check_ids
from passreid.gallery.vectors import Mask, Nearest, to_bits
from passreid.similarity import F32

_BATCH = 2048
_SOON_S = 0.5
"""How long an enrolment waits for readers to let the log be emptied; a forgetting waits longer."""
_CHECKED = 2**28
"""Size of files whose every page is checked before they are first written to."""
_FOLLOWED = 2**16
"""Changes that are kept for other processes to follow; who missed more reads everything again."""
_SOUGHT = 4096
_CHANGED = (*LABELS, "time", "payload")
log = logging.getLogger("passreid.gallery")


class SqliteGallery(Gallery):
    """One file; `open_gallery` makes it.

    Args:
        place: Of a gallery that exists, see `database.create`.
        read_only: Refuse every change; the file and its disk may be read-only.

    Raises:
        GalleryError: No gallery, one of another format, or damaged.
        OutputError: It cannot be read.
    """

    batch = _BATCH
    layout = Layout()

    def __init__(self, place: Path, *, read_only: bool = False) -> None:
        self.place, self.name, self.read_only = place, str(place), read_only
        self._writer: sqlite3.Connection | None = None
        self._closed = False
        # Always taken in this order.
        self._writing = threading.RLock()
        self._lock = threading.RLock()  # of the reader and the memory
        with sqlite_errors(place):
            self._reader = connect_to_read(place)
            try:
                self.model, self.dim, _ = read_settings(self._reader, place)
                self._memory = Memory(self.dim)
                with self._reading():
                    pass
            except BaseException:
                self._reader.close()
                raise

    @property
    def centred(self) -> bool:
        """Whether searches subtract each camera's mean embedding (`passreid.centring`)."""
        with self._lock, sqlite_errors(self.place):
            self._check_open()
            return read_settings(self._reader, self.place).centred

    def set_centred(self, centred: bool) -> None:
        """Choose whether searches subtract camera means; the stored vectors stay as they are."""
        self._check_writable()
        with self._changing() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO settings VALUES ('centred', ?)", (int(centred),)
            )

    def _means(self) -> CameraMeans | None:
        with self._reading() as connection:
            centred = read_settings(connection, self.place).centred
            return self._memory.centred().means if centred else None

    def info(self) -> Info:
        """Describe the gallery."""
        files = [file for file in (self.place, log_of(self.place)) if file.exists()]
        return Info(
            name=self.name,
            engine="sqlite",
            model=self.model,
            dim=self.dim,
            count=self.count(),
            centred=self.centred,
            bytes_on_disk=sum(file.stat().st_blocks * 512 for file in files),
        )

    def get(self, ids: Sequence[str]) -> list[Entry]:
        """Return the entries among `ids` that exist, in their order, whole."""
        check_ids(ids)
        wanted = list(dict.fromkeys(ids))
        with self._reading() as connection:
            found = [entry_of(row) for row in select_in(connection, SELECT_WHOLE, "id", wanted)]
        entries = {entry.id: entry for entry in found}
        return [entries[id] for id in wanted if id in entries]

    def count(self, where: Where | None = None) -> int:
        """Count entries."""
        with self._selecting(where and where.check()) as (_, mask):
            return len(self._memory.index) if mask is None else int(mask.sum())

    def tally(self, name: str, where: Where | None = None) -> dict[str, int]:
        """Count entries by their camera, person, tracklet or source, the commonest first."""
        with self._selecting(where and where.check()) as (connection, mask):
            rows, counts = self._memory.tally(name, mask)
            query = f"SELECT row, {name} FROM entries"
            names = dict(select_in(connection, query, "row", rows))
        return {names[row]: count for row, count in zip(rows, counts, strict=True)}

    def update(self, ids: Sequence[str], **values: Any) -> int:
        """Set camera, time, person, tracklet or payload of entries."""
        self._check_writable()
        check_ids(ids)
        values = changes(values)
        with self._changing() as connection:
            rows = select_in(connection, SELECT_WORDS, "id", list(dict.fromkeys(ids)))
            if values:
                connection.executemany(
                    f"UPDATE entries SET {', '.join(f'{name} = ?' for name in _CHANGED)}, crc = ? "
                    "WHERE row = ?",
                    [_changed(row, values) for row in rows],
                )
                _note(connection, [row[0] for row in rows])
        return len(rows)

    def remove(self, where: Where, *, everything: bool = False) -> int:
        """Forget entries and their thumbnails."""
        self._check_removable(where, everything)
        with self._changing() as connection:
            # Nobody else changes anything now, so what fits is what will go.
            with self._selecting(where) as (_, mask):
                rows = self._memory.rows if mask is None else self._memory.rows[mask]
                gone = [(row,) for row in rows.tolist()]
            for table in ("entries", "thumbnails"):
                connection.executemany(f"DELETE FROM {table} WHERE row = ?", gone)
            _note(connection, [row for (row,) in gone])
        return len(gone)

    def to_compact(self) -> bool:
        """Whether the log holds something: other processes kept it from being emptied."""
        return filled(log_of(self.place))

    def compact(self) -> None:
        """Empty the log, and give the space of forgotten entries back to the disk."""
        self._check_writable()
        with self._writing, sqlite_errors(self.place):
            connection = self._connected()
            connection.executescript("PRAGMA incremental_vacuum")  # steps until it is done
            self._empty_log(connection, WAIT_S)

    def back_up(self, target: Path) -> None:
        """Copy the gallery, as it is between two changes, into an empty file, and check the copy.

        Raises:
            GalleryError, OutputError: The copy cannot be made.
        """
        with sqlite_errors(self.place), closing(connect_to_read(self.place)) as connection:
            back_up(connection, target)
        with sqlite_errors(target), closing(connect(target, write=False)) as connection:
            Memory(read_settings(connection, target).dim).refresh(connection)

    def close(self) -> None:
        """Let go; everything is written already."""
        with self._writing, self._lock:
            self._closed = True
            self._reader.close()
            if self._writer is not None:
                self._writer.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Give the reader in a transaction, with the memory as that transaction sees the file."""
        with self._lock, sqlite_errors(self.place):
            self._check_open()
            self._reader.execute("BEGIN")
            try:
                self._memory.refresh(self._reader)
                yield self._reader
            finally:
                self._reader.execute("ROLLBACK")

    @contextmanager
    def _selecting(self, where: Where | None) -> Iterator[tuple[sqlite3.Connection, Mask | None]]:
        """Give the reader and which positions fit a filter; None is all."""
        with self._reading() as connection:
            yield connection, self._memory.select(connection, where)

    @contextmanager
    def _changing(self, wait_s: float = WAIT_S) -> Iterator[sqlite3.Connection]:
        """Give the writer in a transaction; it is on disk, and the log empty, when this ends."""
        with self._writing, sqlite_errors(self.place):
            self._check_open()
            connection = self._connected()
            with transaction(connection):
                yield connection
            self._empty_log(connection, wait_s)

    def _connected(self) -> sqlite3.Connection:
        if self._writer is None:
            writer = connect(self.place, write=True)
            if self.place.stat().st_size <= _CHECKED:
                (said,) = writer.execute("PRAGMA quick_check(1)").fetchone()
                if said != "ok":
                    writer.close()
                    raise GalleryError(damaged(self.place, said.splitlines()[-1]))
            self._writer = writer
        return self._writer

    def _empty_log(self, connection: sqlite3.Connection, wait_s: float) -> None:
        """Write the log into the file and truncate it, unless readers do not let go of it.

        What is in the log is committed already: a failure here loses nothing.
        """
        connection.execute(f"PRAGMA busy_timeout = {1000 * wait_s:.0f}")
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            log.warning("%s: the log could not be emptied (%s).", self.place, error)
        finally:
            connection.execute(f"PRAGMA busy_timeout = {1000 * WAIT_S:.0f}")

    def _store(self, entries: list[Entry], rows: F32) -> int:
        vectors = rows.astype(np.float16)
        bits = to_bits(vectors.astype(np.float32))
        with self._changing(_SOON_S) as connection:
            known = {
                value
                for column, values in (
                    ("id", [entry.id for entry in entries]),
                    ("content_hash", [entry.content_hash for entry in entries]),
                )
                for (value,) in select_in(
                    connection, f"SELECT {column} FROM entries", column, values
                )
            }
            query = "SELECT max(seq) FROM sqlite_sequence WHERE name = 'entries'"
            row = last = connection.execute(query).fetchone()[0] or 0
            records, jpegs = [], []
            for entry, vector, bit in zip(entries, vectors, bits, strict=True):
                if entry.id in known or entry.content_hash in known:
                    continue
                known.add(entry.content_hash)
                row += 1
                packed = vector.tobytes(), bit.tobytes()
                words = words_of(entry, vector_checksum(*packed))
                records.append((row, *words, checksum(words), *packed))
                if entry.thumbnail is not None:
                    jpegs.append((row, entry.thumbnail))
            connection.executemany(INSERT, records)
            connection.executemany("INSERT INTO thumbnails VALUES (?, ?)", jpegs)
        return row - last

    def _asking(self, where: Where | None, exact: bool | None, camera: str | None) -> Ask:
        # A filter leaves fewer near ones than the bits can tell from the rest.
        every = bool(exact) or where not in (None, Where())

        def ask(queries: F32, limit: int) -> list[list[Hit]]:
            with self._selecting(where) as (connection, mask):
                memory = self._memory
                if read_settings(connection, self.place).centred:
                    index = memory.centred()
                    asked = index.centre(queries, None if camera is None else hash(camera))
                    found = index.search(asked, limit, kept=mask)
                else:
                    found = memory.index.search(queries, limit, kept=mask, exact=every)
                rows = memory.rows[np.unique(np.concatenate([each.positions for each in found]))]
                read = select_in(connection, SELECT_WORDS, "row", rows.tolist())
                entries = {row[0]: entry_of(row) for row in read}
                return [_hits(memory, each, entries) for each in found]

        return ask

    def _vectors(self, ids: list[str]) -> dict[str, F32]:
        query = "SELECT id, vector, bits, vector_crc FROM entries"
        with self._reading() as connection:
            found = select_in(connection, query, "id", ids)
            if wrong := [row[0] for row in found if vector_checksum(row[1], row[2]) != row[3]]:
                raise DamagedError(*wrong)
        return {row[0]: np.frombuffer(row[1], np.float16).astype(np.float32) for row in found}

    def _list(self, where: Where | None, limit: int, first: str | None, whole: bool) -> list[Entry]:
        with self._selecting(where) as (connection, mask):
            if mask is not None and mask.sum() <= _SOUGHT:
                rows = self._memory.rows[mask].tolist()
                named = select_in(connection, "SELECT id, row FROM entries", "row", rows)
                rows = [row for id, row in sorted(named) if id >= (first or "")][:limit]
            else:
                rows = self._in_order(connection, mask, limit, first or "")
            query = SELECT_WHOLE if whole else SELECT_WORDS
            found = [entry_of(row) for row in select_in(connection, query, "row", rows)]
        return sorted(found, key=lambda entry: entry.id)

    def _in_order(
        self, connection: sqlite3.Connection, mask: Mask | None, limit: int, first: str
    ) -> list[int]:
        """Return the rows of the first entries from an id on that a mask lets through."""
        rows: list[int] = []
        query = "SELECT row FROM entries WHERE id >= ? ORDER BY id"
        for chunk in chunks(connection.execute(query, (first,))):
            at = self._memory.positions([row for (row,) in chunk])
            rows += self._memory.rows[at if mask is None else at[mask[at]]].tolist()
            if len(rows) >= limit:
                break
        return rows[:limit]

    def _check_open(self) -> None:
        if self._closed:
            raise GalleryError(f"{self.name} is closed; open it again.")


def _note(connection: sqlite3.Connection, rows: Sequence[int]) -> None:
    """Tell other processes which rows changed."""
    connection.executemany("INSERT INTO changes (row) VALUES (?)", [(row,) for row in rows])
    connection.execute(
        "DELETE FROM changes WHERE change <= (SELECT max(change) FROM changes) - ?", (_FOLLOWED,)
    )


def _changed(row: Sequence[Any], values: dict[str, Any]) -> tuple[Any, ...]:
    """Return the new columns of a row, its checksum and its number.

    Raises:
        DamagedError: Its checksum does not hold.
    """
    entry = entry_of(row)
    words = dict(zip(WORDS, row[1:-1], strict=True))
    fresh = Entry(**{name: getattr(entry, name) for name in ("id", "content_hash")} | values)
    written = dict(zip(WORDS, words_of(fresh, 0), strict=True))
    words |= {name: written[name] for name in values}
    return (*(words[name] for name in _CHANGED), checksum([*words.values()]), row[0])


def _hits(memory: Memory, nearest: Nearest, entries: dict[int, Entry]) -> list[Hit]:
    rows = memory.rows[nearest.positions].tolist()
    return [
        Hit(entries[row], score) for row, score in zip(rows, nearest.scores.tolist(), strict=True)
    ]
