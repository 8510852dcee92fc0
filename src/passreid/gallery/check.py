"""Check a gallery's file from end to end, and keep what is whole of a damaged one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from passreid.errors import EmbeddingError, GalleryError
from passreid.gallery.base import Entry
from passreid.gallery.damage import sqlite_errors
from passreid.gallery.database import (
    INSERT,
    SELECT_WHOLE,
    checksum,
    connect,
    connect_to_read,
    create,
    entry_of,
    faults,
    read_settings,
    transaction,
    vector_checksum,
)
from passreid.gallery.engine import unit_vectors
from passreid.gallery.vectors import to_bits
from passreid.similarity import F32
from passreid.storage import replacing

Embed = Callable[[Entry, str], "F32 | None"]
"""(an entry whose vector is lost, the gallery's model) -> its embedding (D,), or None where its
picture is gone."""


@dataclass
class Report:
    """What a check found, or what a repair did.

    Attributes:
        entries: Whole ones.
        damaged: What does not fit its checksum, by the entry's id as far as it can be read:
            "labels", "vector" or "thumbnail".
        structure: What SQLite says of the file; empty where it is sound.
        dropped: Ids of entries a repair could not keep.
        embedded: Ids of entries a repair embedded again.
    """

    entries: int = 0
    damaged: dict[str, list[str]] = field(default_factory=dict)
    structure: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    embedded: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damaged and not self.structure


def check(place: Path) -> Report:
    """Read every byte of a gallery: SQLite's integrity check, every checksum, counts.

    Raises:
        GalleryError: There is no gallery, or nothing of it can be read.
    """
    with sqlite_errors(place), closing(connect_to_read(place)) as connection:
        read_settings(connection, place)
        return _examine(connection)


def repair(place: Path, embed: Embed) -> Report:
    """Write what is whole of a gallery into a new file, which then takes its place.

    A damaged thumbnail is left out, a damaged vector is made again where its picture is still
    there, an entry whose labels are damaged is dropped.

    Raises:
        GalleryError: Another process has the gallery open, or nothing of it can be read.
        OutputError: The new file cannot be written; the old one is as it was.
    """
    place = place.resolve()  # not a link, but what it leads to, is replaced
    with sqlite_errors(place), closing(connect(place, write=True)) as connection:
        _take(connection, place)
        model, dim, centred = read_settings(connection, place)
        report = _examine(connection)
        if report.sound:
            return report
        mode = place.stat().st_mode
        with replacing(place) as temporary:
            create(temporary, model=model, dim=dim, centred=centred)
            with sqlite_errors(temporary), closing(connect(temporary, write=True)) as fresh:
                _rescue(connection, fresh, report, lambda entry: embed(entry, model), dim)
                fresh.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            for end in ("-wal", "-shm"):  # of the old file; the new one must not be read with it
                place.with_name(f"{place.name}{end}").unlink(missing_ok=True)
        place.chmod(mode)
    return report


def _take(connection: sqlite3.Connection, place: Path) -> None:
    """Keep every other process out until the connection is closed."""
    connection.execute("PRAGMA busy_timeout = 0")
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    try:
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise GalleryError(
                f"{place}: another process has it open; end that, then repair it."
            ) from None
        raise


def _examine(connection: sqlite3.Connection) -> Report:
    report = Report()
    try:
        said = [line for (line,) in connection.execute("PRAGMA integrity_check(20)")]
        report.structure = [] if said == ["ok"] else said
    except sqlite3.Error as error:
        report.structure = [str(error)]
    for row, wrong in _rows(connection, report):
        if wrong:
            report.damaged[str(row[1])] = wrong
        else:
            report.entries += 1
    return report


def _rows(
    connection: sqlite3.Connection, report: Report
) -> Iterator[tuple[tuple[Any, ...], list[str]]]:
    """Yield each row that can be read and what is wrong with it; count those that cannot."""
    used = "SELECT seq FROM sqlite_sequence WHERE name = 'entries'"  # a row's number may be wrong
    (last,) = connection.execute(f"SELECT min(max(row), ({used})) FROM entries").fetchone()
    lost = 0
    for number in range(1, (last or 0) + 1):
        try:
            row = connection.execute(f"{SELECT_WHOLE} WHERE row = ?", (number,)).fetchone()
            if row is not None:
                yield row, faults(row)
        except (sqlite3.Error, TypeError):
            lost += 1
    if lost:
        report.structure.append(f"{lost:,} rows cannot be read")


def _rescue(
    connection: sqlite3.Connection,
    fresh: sqlite3.Connection,
    report: Report,
    embed: Callable[[Entry], F32 | None],
    dim: int,
) -> None:
    report.entries = 0
    with transaction(fresh):
        for row, wrong in _rows(connection, Report()):
            kept = _mended(row, wrong, embed, dim)
            if kept is None:
                report.dropped.append(str(row[1]))
                continue
            if "vector" in wrong:
                report.embedded.append(str(row[1]))
            number, *words, crc, vector, bits, jpeg = kept
            try:
                fresh.execute(INSERT, (number, *words, crc, vector, bits))
            except sqlite3.IntegrityError:  # it is there already
                report.dropped.append(str(row[1]))
                continue
            if jpeg is not None:
                fresh.execute("INSERT INTO thumbnails VALUES (?, ?)", (number, jpeg))
            report.entries += 1


def _mended(
    row: tuple[Any, ...], wrong: list[str], embed: Callable[[Entry], F32 | None], dim: int
) -> tuple[Any, ...] | None:
    """Return a row of `SELECT_WHOLE` with all its checksums right; None where that cannot be."""
    if not wrong:
        return row
    if "labels" in wrong:
        return None
    number, *words, _, vector, bits, jpeg = row
    if "thumbnail" in wrong:
        jpeg, words[-1] = None, None
    if "vector" in wrong:
        entry = entry_of((number, *words, checksum(words)))
        made = embed(entry)
        if made is None:
            return None
        try:
            half = unit_vectors(made[None], dim, f"entry {entry.id}").astype(np.float16)
        except EmbeddingError:
            return None
        vector, bits = half.tobytes(), to_bits(half.astype(np.float32)).tobytes()
        words[-2] = vector_checksum(vector, bits)
    return (number, *words, checksum(words), vector, bits, jpeg)
