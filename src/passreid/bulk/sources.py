"""Cut the pictures of folders, lists, tar shards and Parquet files into parts, and read a part.

A place is a path or an address of any storage fsspec knows (``s3://bucket/crops``). A part is one
worker's unit of work: some thousand files, one tar shard, or one row group of a Parquet file.
Rows of lists and tables may name paths, https addresses and objects on the list's own storage.
"""

from __future__ import annotations

import re
import stat
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from passreid.errors import DatasetError, ImageError, UsageError
from passreid.fetch import download
from passreid.images import DEFAULT_LIMITS, describe
from passreid.listing import IMAGE_SUFFIXES, find_files, has_suffix, is_image
from passreid.storage import filesystem, is_address, may_name, open_binary, open_parquet

COLUMNS = ("image", "bytes", "jpg", "png", "path", "file_name", "source", "url")
"""Columns of a Parquet file that are taken for pictures, in this order, unless one is named."""

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_SHARDS = (*_TARS, ".parquet")
_EXTRA = "bulk"
_MANY = 64  # files fetched at once, and rows decoded at once
_PLAIN = -1  # row group of a part that has none
_REFUSED = (
    "names another storage than the one its list is on; a row may name a path, an https address or "
    "something on the list's own storage"
)
# Of JPEG, PNG, GIF, WebP, BMP and TIFF; a path would have an ending.
_BASE64 = re.compile(r"(data:|/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk|SUkq|TU0A)[\w+/=,;:\s-]{60,}")

Found: TypeAlias = tuple[str, bytes | ImageError]
"""A picture's name, and its encoded bytes or why there are none."""


@dataclass(frozen=True)
class Part:
    """A share of the work that is done, kept or done again as a whole.

    Attributes:
        kind: What `places` are: picture files, one tar shard, one Parquet file, or rows of a list
            that must not be followed.
        places: Paths or addresses.
        row_group: Which one of the Parquet file.
        column: Its column with bytes or paths.
    """

    kind: Literal["files", "tar", "parquet", "refused"]
    places: tuple[str, ...]
    row_group: int = _PLAIN
    column: str = ""


class _Listed(NamedTuple):
    """The places that sources hold, by kind."""

    files: list[str]
    tars: list[str]
    parquets: list[str]
    refused: list[str]


def plan(sources: Sequence[str], *, per_part: int, column: str | None = None) -> list[Part]:
    """Cut sources into parts: the same sources always give the same parts.

    Args:
        sources: Pictures, folders, .txt lists (one place a line), .tar, .parquet; paths, fsspec
            or https addresses.
        per_part: Files in a part.
        column: Column of Parquet files; None looks for one of `COLUMNS`.

    Raises:
        UsageError: A source is missing or holds nothing to embed.
        DatasetError: A storage cannot be reached, or a list or Parquet file cannot be read, or has
            no such column.
        MissingExtraError: A source needs a package that is not installed.
    """
    if per_part < 1:
        raise UsageError(f"per_part is {per_part}; it must be at least 1.")
    found = _Listed([], [], [], [])
    for source in sources:
        _list(source, found)
    if not any(found):
        raise UsageError("No picture was given; name files, folders, lists or shards.")
    files = [
        Part("files", tuple(found.files[start : start + per_part]))
        for start in range(0, len(found.files), per_part)
    ]
    tars = [Part("tar", (tar,)) for tar in found.tars]
    groups = [part for place in found.parquets for part in _row_groups(place, column)]
    refused = [Part("refused", tuple(found.refused))] if found.refused else []
    return [*files, *tars, *groups, *refused]


def read_part(part: Part) -> Iterator[Found]:
    """Yield the pictures of a part, a few in memory at a time.

    Raises:
        DatasetError: Storage fails in the middle of a tar or Parquet file.
    """
    if part.kind == "files":
        return _files(part.places)
    if part.kind == "refused":
        return ((row, ImageError(describe(row), _REFUSED)) for row in part.places)
    return (_tar if part.kind == "tar" else _rows)(part)


def _list(source: str, found: _Listed) -> None:
    """Sort one source, or what is in it, by kind."""
    if _is_web(source):
        found.files.append(source)
    elif source.endswith(".txt"):
        for line in _lines(source):
            if _is_web(line):  # never a shard: those are read without `passreid.fetch`
                found.files.append(line)
            elif may_name(source, line):
                _sort(_beside(source, line), found)
            else:
                found.refused.append(line)
    elif is_address(source):
        _list_stored(source, found)
    elif Path(source).is_dir():
        _sort_all([*map(str, find_files(source, _wanted))], source, found)
    elif not Path(source).exists():
        raise UsageError(f"{source}: there is no such file or folder")
    else:
        _sort(source, found)


def _list_stored(source: str, found: _Listed) -> None:
    system, path = filesystem(source, extra=_EXTRA)
    try:
        names = system.find(path) if system.isdir(path) else None
        there = names is not None or system.exists(path)
    except OSError as error:
        raise DatasetError(f"{source}: cannot be reached ({error.strerror or error}).") from None
    if names is not None:
        kept = [system.unstrip_protocol(name) for name in names if _wanted(name)]
        _sort_all(kept, source, found)
    elif there:
        _sort(source, found)
    else:
        raise UsageError(f"{source}: there is no such object")


def _wanted(name: str) -> bool:
    return has_suffix(name, (*IMAGE_SUFFIXES, *_SHARDS))


def _sort_all(names: Sequence[str], source: str, found: _Listed) -> None:
    if not names:
        raise UsageError(f"{source}: holds no pictures, .tar or .parquet files")
    for name in sorted(names):
        _sort(name, found)


def _sort(place: str, found: _Listed) -> None:
    name = place.lower()
    kind = found.tars if name.endswith(_TARS) else found.files
    (found.parquets if name.endswith(".parquet") else kind).append(place)


def _lines(source: str) -> list[str]:
    try:
        with open_binary(source, extra=_EXTRA) as stream:
            lines = stream.read().decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"{source}: cannot be read as a list ({reason}).") from None
    return [line.strip() for line in lines if line.strip()]


def _row_groups(place: str, column: str | None) -> list[Part]:
    with open_parquet(place, DatasetError) as file:
        names = file.schema_arrow.names
        chosen = [column] if column else [name for name in COLUMNS if name in names]
        if not chosen or chosen[0] not in names:
            raise DatasetError(
                f"{place}: has no column {column or ' or '.join(COLUMNS)}; name the one with bytes "
                f"or paths by --column: {', '.join(names)}."
            )
        count = file.num_row_groups
    return [Part("parquet", (place,), group, chosen[0]) for group in range(count)]


def _files(places: Sequence[str]) -> Iterator[Found]:
    """Read files one by one; objects in storage are fetched some at a time."""
    remaining = iter(places)
    while some := list(islice(remaining, _MANY)):
        stored = [place for place in some if is_address(place) and not _is_web(place)]
        fetched = dict(_objects(stored))
        for place in some:
            yield place, fetched[place] if place in fetched else _file(place)


def _file(place: str) -> bytes | ImageError:
    name, limits = describe(place), DEFAULT_LIMITS
    try:
        if _is_web(place):
            return download(
                place,
                name,
                max_bytes=limits.max_bytes,
                timeout_s=limits.timeout_s,
                max_redirects=limits.max_redirects,
            )
        path = Path(place)
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device may never end
            return ImageError(name, "is not a regular file")
        with path.open("rb") as stream:
            return stream.read(limits.max_bytes + 1)
    except ImageError as error:
        return error
    except (OSError, ValueError) as error:
        return ImageError(name, f"cannot be opened ({getattr(error, 'strerror', error)})")


def _objects(places: Sequence[str]) -> Iterator[Found]:
    """Fetch the objects of each storage at once, up to the limit of bytes and one more."""
    storages: dict[Any, dict[str, str]] = {}
    for place in places:
        system, path = filesystem(place, extra=_EXTRA)
        storages.setdefault(system, {})[place] = path
    for system, paths in storages.items():
        ends = [DEFAULT_LIMITS.max_bytes + 1] * len(paths)
        found = system.cat_ranges([*paths.values()], [0] * len(paths), ends, on_error="return")
        for place, raw in zip(paths, found, strict=True):
            fine = isinstance(raw, bytes)
            yield place, raw if fine else ImageError(place, f"cannot be fetched ({raw!r})")


def _tar(part: Part) -> Iterator[Found]:
    """Stream a shard from its beginning; members are read as bytes, nothing is unpacked."""
    (place,) = part.places
    try:
        with (
            open_binary(place, extra=_EXTRA) as stream,
            tarfile.open(fileobj=stream, mode="r|*") as tar,
        ):
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would keep every header
                if not member.isreg() or member.issparse() or not is_image(member.name):
                    continue
                name = f"{place}/{member.name}"
                if member.size > DEFAULT_LIMITS.max_bytes:
                    limit = f"{DEFAULT_LIMITS.max_bytes:,} bytes"
                    yield name, ImageError(name, f"is larger than the {limit} allowed")
                elif (content := tar.extractfile(member)) is not None:
                    yield name, content.read()
    except FileNotFoundError:
        yield place, ImageError(place, "there is no such file")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        yield place, ImageError(place, f"is no tar, or is cut short or damaged ({error})")
    except OSError as error:
        raise DatasetError(f"{place}: cannot be read ({error.strerror or error}).") from None


def _rows(part: Part) -> Iterator[Found]:
    """Read one row group, some rows in memory at a time."""
    (place,) = part.places
    row = -1
    try:
        with open_parquet(place, DatasetError) as file:
            for batch in file.iter_batches(
                _MANY, row_groups=[part.row_group], columns=[part.column], use_threads=False
            ):
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield _row(place, f"{place}#{part.row_group}.{row}", value)
    except DatasetError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno:  # of the storage; pyarrow's own has none
            raise
        yield place, ImageError(place, f"cannot be read as Parquet ({cause})")


def _row(place: str, name: str, value: Any) -> Found:
    if isinstance(value, dict):  # Hugging Face keeps a picture as a struct of bytes and path
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and _BASE64.fullmatch(value):
        return name, ImageError(name, "holds a picture as base64 text; store its bytes instead")
    if isinstance(value, str):
        if not (_is_web(value) or may_name(place, value)):
            return value, ImageError(describe(value), _REFUSED)
        (found,) = _files([_beside(place, value)])
        return found
    if isinstance(value, bytes) and value:
        return name, value
    return name, ImageError(name, "holds neither bytes nor a path")


def _beside(source: str, name: str) -> str:
    """Resolve a name in a list or table against the folder the list lies in."""
    if is_address(name) or Path(name).is_absolute():
        return name
    folder = source.rpartition("/")[0]
    return f"{folder}/{name}" if folder else name


def _is_web(place: str) -> bool:
    """Whether a picture is fetched by `passreid.fetch`, which refuses private addresses."""
    return place.startswith(("https://", "http://"))
