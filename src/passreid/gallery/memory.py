"""What searches and filters need of a gallery, in memory and checked: labels, times, vectors.

It is read from the database when the gallery is opened, which checks every checksum, and follows
each change after that, whichever process made it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from passreid.gallery.base import Where
from passreid.gallery.centred import CentredIndex
from passreid.gallery.damage import DamagedError
from passreid.gallery.database import (
    SELECT_WORDS,
    WORDS,
    checksum,
    vector_checksum,
)
from passreid.gallery.vectors import Mask, VectorIndex
from passreid.similarity import I64

_NAMES = ("source", "camera", "person", "tracklet")
_AT = {name: WORDS.index(name) + 1 for name in WORDS}  # in a row of SELECT_WORDS
_UNKNOWN = 1
_CHUNK = 4096
_LOAD = SELECT_WORDS.replace("crc FROM", "crc, vector, bits FROM") + " WHERE row > ? ORDER BY row"
_FEWEST_DEAD = 4096
_TALLIED = 10_000


class Memory:
    """The entries of a gallery by their position, in the order of their rows.

    Labels are kept as their hashes: enough to compare, and a few bytes each.

    Args:
        dim: Numbers in a vector.

    Attributes:
        index: Their vectors.
        rows: (N,) their rows in the database, rising.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._version: int | None = None
        self._dead = self._change = 0
        self._centred: CentredIndex | None = None
        self._clear()

    @property
    def rows(self) -> I64:
        return self._column("row")

    def refresh(self, connection: sqlite3.Connection) -> None:
        """Follow what changed since; the connection is in the transaction that will be answered.

        Raises:
            DamagedError: Checksums do not hold.
            sqlite3.Error: The database cannot be read.
        """
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if version == self._version:
            return
        self._centred = None
        first = self._version is None
        oldest, newest = connection.execute(
            "SELECT min(change), max(change) FROM changes"
        ).fetchone()
        if not first and oldest is not None and oldest > self._change + 1:
            self._clear()  # too much was missed to follow it
            first = True
        if first:
            self._open(connection)
        else:
            self._follow(connection)
            self._load(connection)
        self._change = newest or self._change
        self._version = version

    def select(self, connection: sqlite3.Connection, where: Where | None) -> Mask | None:
        """Return which positions fit a filter, as a mask (N,); None is all of them."""
        if where is None or where == Where():
            return self._column("alive") if self._dead else None
        mask: Mask = self._column("alive").copy()
        for name, values in (
            *(("camera", where.cameras), ("person", where.people)),
            *(("tracklet", where.tracklets), ("source", where.sources)),
        ):
            if values:
                mask &= np.isin(self._column(name), [hash(value) for value in values])
        if where.not_cameras:
            barred = [hash(value) for value in where.not_cameras]
            mask &= ~np.isin(self._column("camera"), barred)
        if where.since is not None:
            mask &= self._column("time") >= where.since
        if where.until is not None:
            mask &= self._column("time") < where.until
        if where.ids:
            named = np.zeros_like(mask)
            named[self._positions_of(connection, where.ids)] = True
            mask &= named
        mask[self._positions_of(connection, where.not_ids)] = False
        return mask

    def centred(self) -> CentredIndex:
        """Return the camera means as the entries are now; made once for each change."""
        if self._centred is None:
            cameras = self._column("camera")
            self._centred = CentredIndex(
                self.index.rows, cameras, cameras != _UNKNOWN, self._column("alive")
            )
        return self._centred

    def positions(self, rows: Sequence[int]) -> I64:
        """Return the positions of rows; those of rows that are not here are left out."""
        wanted = np.asarray(rows, np.int64)
        if not len(self.rows):
            return np.empty(0, np.int64)
        found = np.minimum(np.searchsorted(self.rows, wanted), len(self.rows) - 1)
        there: I64 = found[self.rows[found] == wanted]
        return there

    def tally(self, name: str, mask: Mask | None) -> tuple[list[int], list[int]]:
        """Count entries by a label: a row of each, and how often it is there, commonest first."""
        at = np.arange(len(self.index)) if mask is None else np.flatnonzero(mask)
        labels = self._column(name)[at]
        _, first, counts = np.unique(labels, return_index=True, return_counts=True)
        known = labels[first] != _UNKNOWN
        first, counts = first[known], counts[known]
        order = np.lexsort((first, -counts))[:_TALLIED]
        return self.rows[at[first[order]]].tolist(), counts[order].tolist()

    def _clear(self) -> None:
        self.index = VectorIndex(self._dim)
        self._columns: dict[str, NDArray[Any]] = {
            "row": np.empty(0, np.int64),
            "alive": np.empty(0, np.bool_),
            "time": np.empty(0, np.float64),
            **{name: np.empty(0, np.int64) for name in _NAMES},
        }
        self._dead = self._change = 0
        self._version = None

    def _column(self, name: str) -> NDArray[Any]:
        return self._columns[name][: len(self.index)]

    def _positions_of(self, connection: sqlite3.Connection, ids: Sequence[str]) -> I64:
        rows = [row for row, *_ in select_in(connection, "SELECT row FROM entries", "id", ids)]
        return self.positions(rows)

    def _reserve(self, count: int) -> None:
        self.index.reserve(count)
        for name, column in self._columns.items():
            fresh = np.zeros(count, column.dtype)
            fresh[: len(self.index)] = column[: len(self.index)]
            self._columns[name] = fresh

    def _open(self, connection: sqlite3.Connection) -> None:
        """Read everything, and compare the table with its indexes: they check each other."""
        self._reserve(connection.execute("SELECT count(*) FROM entries").fetchone()[0])
        ids, hashes = self._load(connection)
        for number, (name, known) in enumerate((("id", ids), ("content_hash", hashes)), start=1):
            self._check_index(connection, number, name, known)

    def _load(self, connection: sqlite3.Connection) -> tuple[I64, I64]:
        """Read new rows and check them; return hashes of their ids and of their content hashes."""
        wrong: list[str] = []
        ids, hashes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        last = int(self.rows[-1]) if len(self.index) else 0
        for chunk in chunks(connection.execute(_LOAD, (last,))):
            wrong += [row[1] for row in chunk if not _holds(row)]
            if wrong:
                continue
            columns = list(zip(*chunk, strict=True))
            self._append(columns)
            ids.append(_hashes(columns[_AT["id"]]))
            hashes.append(_hashes(columns[_AT["content_hash"]]))
        if wrong:
            raise DamagedError(*wrong)
        return np.concatenate(ids), np.concatenate(hashes)

    def _append(self, columns: Sequence[Sequence[Any]]) -> None:
        rows = np.array(columns[0], np.int64)
        start, end = len(self.index), len(self.index) + len(rows)
        if (np.diff(rows, prepend=self.rows[-1:]) <= 0).any():
            raise ValueError("its rows are out of order")
        if end > len(self._columns["row"]):
            self._reserve(max(end, start + start // 4, 1024))
        vectors, bits = (b"".join(column) for column in columns[-2:])
        self.index.append(
            np.frombuffer(vectors, np.float16).reshape(len(rows), self._dim),
            np.frombuffer(bits, np.uint8).reshape(len(rows), -1),
        )
        values: dict[str, Any] = {"row": rows, "alive": True}
        values["time"] = np.array(columns[_AT["time"]], np.float64)  # None becomes NaN
        values |= {name: _hashes(columns[_AT[name]]) for name in _NAMES}
        for name, value in values.items():
            self._columns[name][start:end] = value

    def _check_index(
        self, connection: sqlite3.Connection, number: int, name: str, known: I64
    ) -> None:
        index = f"sqlite_autoindex_entries_{number}"
        query = f"SELECT row, {name} FROM entries INDEXED BY {index} ORDER BY {name}"
        seen, last = 0, ""
        for chunk in chunks(connection.execute(query)):
            rows, values = zip(*chunk, strict=True)
            at = self.positions(rows)
            rising = list(values) == sorted(values) and (values[0] > last or not seen)
            if len(at) < len(rows) or not rising or (known[at] != _hashes(values)).any():
                raise ValueError(f"the index of {name} differs from the entries")
            seen, last = seen + len(rows), values[-1]
        if seen != len(known):
            raise ValueError(f"the index of {name} has {seen:,} of {len(known):,} entries")

    def _follow(self, connection: sqlite3.Connection) -> None:
        """Read again the rows that were labelled or forgotten."""
        query = "SELECT DISTINCT row FROM changes WHERE change > ?"
        changed = [row for (row,) in connection.execute(query, (self._change,))]
        there = {row[0]: row for row in select_in(connection, SELECT_WORDS, "row", changed)}
        at = self.positions(changed)
        for row, position in zip(self.rows[at].tolist(), at.tolist(), strict=True):
            if row not in there:
                self._dead += bool(self._columns["alive"][position])
                self._columns["alive"][position] = False
                continue
            words = there[row]
            if checksum(words[1:-1]) != words[-1]:
                raise DamagedError(words[1])
            time = words[_AT["time"]]
            self._columns["time"][position] = np.nan if time is None else time
            for name in _NAMES:
                self._columns[name][position] = _hashes([words[_AT[name]]])[0]
        if self._dead > max(_FEWEST_DEAD, len(self.index) // 8):
            self._compact()

    def _compact(self) -> None:
        """Drop the positions of forgotten entries."""
        kept = self._column("alive").copy()
        columns = {name: self._column(name)[kept] for name in self._columns}
        self.index.keep(kept)
        self._columns, self._dead = columns, 0


def chunks(cursor: sqlite3.Cursor) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of a query, some thousand at a time."""
    while chunk := cursor.fetchmany(_CHUNK):
        yield chunk


def select_in(
    connection: sqlite3.Connection, query: str, column: str, values: Sequence[Any]
) -> list[tuple[Any, ...]]:
    """Return the rows of a query whose column has one of any number of values."""
    found: list[tuple[Any, ...]] = []
    for start in range(0, len(values), 900):  # SQLite before 3.32 takes 999 parameters
        some = values[start : start + 900]
        where = f"WHERE {column} IN ({', '.join('?' * len(some))})"
        found += connection.execute(f"{query} {where}", tuple(some)).fetchall()
    return found


def _holds(row: Sequence[Any]) -> bool:
    """Whether the checksums of a row of `_LOAD` hold."""
    words, crc = row[1 : 1 + len(WORDS)], row[1 + len(WORDS)]
    vector_crc = vector_checksum(row[-2], row[-1])
    return checksum(words) == crc and vector_crc == int(row[_AT["vector_crc"]])


def _hashes(values: Sequence[Any]) -> I64:
    return np.array([_UNKNOWN if each is None else hash(each) for each in values], np.int64)
