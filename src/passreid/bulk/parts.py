"""Cut sources into parts, and read the images of a part.

A part is a worker's unit of work: some thousand images, or one row group of a Parquet file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from passreid.data.filelist import FileList, find_sources
from passreid.errors import DatasetError, ImageError, UsageError
from passreid.images import describe
from passreid.storage import may_name, open_parquet

COLUMNS = ("image", "bytes", "jpg", "png", "path", "file_name", "source", "url")
"""Columns of a Parquet file that may hold images, in order of preference."""

_ROWS_AT_ONCE = 64
# Of JPEG, PNG, GIF, WebP, BMP and TIFF; a path would have a suffix.
_BASE64 = re.compile(r"(data:|/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk|SUkq|TU0A)[\w+/=,;:\s-]{60,}")

Found: TypeAlias = tuple[str, bytes | ImageError]
"""An image's name, and its encoded bytes or why it cannot be read."""


class Images(NamedTuple):
    """Images of a `FileList`."""

    root: str
    text: bytes

    def read(self) -> Iterator[Found]:
        return FileList(self.root, self.text).read_bytes()


class Failed(NamedTuple):
    """Rows and shards that cannot be read: (name, reason)."""

    rows: tuple[tuple[str, str], ...]

    def read(self) -> Iterator[Found]:
        return ((name, ImageError(describe(name), reason)) for name, reason in self.rows)


class RowGroup(NamedTuple):
    """One row group of a Parquet file, whose column holds bytes, paths or Hugging Face images."""

    place: str
    number: int
    column: str

    def read(self) -> Iterator[Found]:
        row = -1
        try:
            with open_parquet(self.place, DatasetError) as file:
                for batch in file.iter_batches(
                    _ROWS_AT_ONCE,
                    row_groups=[self.number],
                    columns=[self.column],
                    use_threads=False,
                ):
                    for value in batch.column(0).to_pylist():
                        row += 1
                        yield _read_value(self.place, f"{self.place}#{self.number}.{row}", value)
        except DatasetError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno:  # of the storage; pyarrow sets none
                raise
            yield self.place, ImageError(self.place, f"cannot be read as Parquet ({cause})")


Part: TypeAlias = Images | RowGroup | Failed


def plan(sources: Sequence[str], *, per_part: int, column: str | None = None) -> list[Part]:
    """Cut sources into parts; the same sources always give the same parts.

    Args:
        sources: Images, folders, .txt lists (one path per line), .tar, .parquet; paths, fsspec or
            https addresses.
        per_part: Images in a part.
        column: Column of Parquet files; None chooses one of `COLUMNS`.

    Raises:
        UsageError: A source is missing or holds nothing to embed.
        DatasetError: A storage, list or Parquet file cannot be read, or has no such column.
        MissingExtraError: A source needs a package that is not installed.
    """
    if per_part < 1:
        raise UsageError(f"per_part is {per_part}; it must be at least 1.")
    files, tables, failed = find_sources(sources, tables=True)
    parts: list[Part] = [
        Images(files.root, files.lines(start, min(start + per_part, len(files))))
        for start in range(0, len(files), per_part)
    ]
    parts += [group for table in tables for group in _row_groups(table, column)]
    parts += [Failed(tuple(failed))] if failed else []
    if not parts:
        raise UsageError("No image was given; name files, folders, lists or shards.")
    return parts


def _row_groups(place: str, column: str | None) -> list[RowGroup]:
    with open_parquet(place, DatasetError) as file:
        names = file.schema_arrow.names
        chosen = [column] if column else [name for name in COLUMNS if name in names]
        if not chosen or chosen[0] not in names:
            raise DatasetError(
                f"{place}: has no column {column or ' or '.join(COLUMNS)}; name the one with bytes "
                f"or paths by --column: {', '.join(names)}."
            )
        return [RowGroup(place, number, chosen[0]) for number in range(file.num_row_groups)]


def _read_value(place: str, name: str, value: Any) -> Found:
    if isinstance(value, dict):  # Hugging Face stores an image as bytes and path
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and _BASE64.fullmatch(value):
        return name, ImageError(name, "is an image as base64 text; store its bytes instead")
    if isinstance(value, str) and value:
        if not (value.startswith("https://") or may_name(place, value)):
            return value, ImageError(describe(value), "is on another storage than its table")
        (found,) = FileList(place.rpartition("/")[0], value.encode()).read_bytes()
        return found
    if isinstance(value, bytes) and value:
        return name, value
    return name, ImageError(name, "holds neither bytes nor a path")
