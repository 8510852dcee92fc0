"""Find images in folders, lists and tar shards, on this machine or in storage, and read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from passreid.data.shards import EXTRA, INDEX, TAR, UTF8, read_range, read_whole, scan
from passreid.errors import DatasetError, ImageError, UsageError
from passreid.images import DEFAULT_LIMITS, read_encoded, read_image
from passreid.inputs import describe
from passreid.listing import IMAGE_SUFFIXES, find_files, has_suffix, printable
from passreid.storage import filesystem, is_address, may_name

TABLE = ".parquet"
_FETCHED_AT_ONCE = 64
_OTHER_STORAGE = (
    "is on another storage than the list that names it; a row may name a path, an https address or "
    "something on the list's own storage"
)
_NOT_A_LINE = "contains a tab or a line break; rename the file"
_INVALID_LINE = re.compile(rb"^[^\t\n]*\t(?!\d+\t\d+\t).*", re.MULTILINE)
# `Path` turns s3://b/c into s3:/b/c.
_PATH_OF_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/([^/].*)")


class FileList:
    """Images as one block of bytes, which worker processes share: 4 million take 300 MB.

    A line is a path, or a shard's path with offset, size and member name, separated by tabs. Paths
    are relative to `root` unless they are absolute or URLs.

    Args:
        root: Folder or URL the paths are relative to; "" if they are complete.
        text: One image per line, UTF-8; names in other encodings keep their bytes.
    """

    def __init__(self, root: str, text: bytes) -> None:
        self.root = root
        self.text = text if not text or text.endswith(b"\n") else text + b"\n"
        self._ends = np.flatnonzero(np.frombuffer(self.text, np.uint8) == ord("\n"))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        """Return an image's line."""
        return self.lines(index, index + 1)[:-1].decode(*UTF8)

    def lines(self, start: int, stop: int) -> bytes:
        """Return the lines of images `start` to `stop` (exclusive)."""
        begin = self._ends[start - 1] + 1 if start else 0
        return self.text[begin : self._ends[stop - 1] + 1]

    def name(self, index: int) -> str:
        """Return an image's path; inside a shard, the shard's path and the member's name."""
        location, *member = self[index].split("\t")
        return "/".join([_join(self.root, location), *member[2:]])

    def read(self, index: int) -> Image.Image:
        """Decode an image; raises `ImageError` if it is missing or damaged."""
        ((name, data),) = self.read_bytes([index])
        if isinstance(data, ImageError):
            raise data
        try:
            return read_image(data)
        except ImageError as error:
            raise ImageError(describe(name), error.reason) from None

    def read_bytes(
        self, indices: Iterable[int] | None = None
    ) -> Iterator[tuple[str, bytes | ImageError]]:
        """Yield the name and encoded bytes of images, or the reason why they cannot be read.

        Objects in storage are fetched some at a time.

        Raises:
            DatasetError: Storage fails in the middle of a shard.
        """
        chosen = list(range(len(self)) if indices is None else indices)
        for start in range(0, len(chosen), _FETCHED_AT_ONCE):
            chunk = chosen[start : start + _FETCHED_AT_ONCE]
            fetched = self._fetch_objects(chunk)
            for index in chunk:
                name = self.name(index)
                yield name, fetched[index] if index in fetched else self._read_here(index, name)

    def _read_here(self, index: int, name: str) -> bytes | ImageError:
        """Read an image from a disk of this machine or from the web."""
        location, *member = self[index].split("\t")
        try:
            if not member:
                return read_encoded(_join(self.root, location))
            offset, size = _parse_range(name, member)
            return read_range(_join(self.root, location), offset, size)
        except ImageError as error:
            return error
        except (OSError, ValueError) as error:
            return ImageError(describe(name), f"its shard cannot be read ({error})")

    def _fetch_objects(self, indices: Sequence[int]) -> dict[int, bytes | ImageError]:
        """Fetch the images that are in storage, those of each storage at once."""
        found: dict[int, bytes | ImageError] = {}
        requests: dict[Any, list[tuple[int, str, int, int, bool]]] = {}
        for index in indices:
            location, *member = self[index].split("\t")
            place = _join(self.root, location)
            if not is_address(place) or (_is_web(place) and not member):
                continue
            try:
                start, size = _parse_range(place, member) if member else (0, None)
            except (ImageError, ValueError) as error:
                found[index] = ImageError(self.name(index), str(error))
                continue
            stop = start + (DEFAULT_LIMITS.max_bytes + 1 if size is None else size)
            system, path = filesystem(place, extra=EXTRA)
            requests.setdefault(system, []).append((index, path, start, stop, bool(member)))
        for system, group in requests.items():
            chosen, paths, starts, stops, members = zip(*group, strict=True)
            contents = system.cat_ranges([*paths], [*starts], [*stops], on_error="return")
            for index, data, size, in_shard in zip(
                chosen, contents, np.subtract(stops, starts), members, strict=True
            ):
                missing = isinstance(data, FileNotFoundError)
                if in_shard and isinstance(data, OSError) and not missing:
                    raise DatasetError(f"{self.name(index)}: cannot be read ({data}).")
                if not isinstance(data, bytes):
                    data = ImageError(self.name(index), f"cannot be fetched ({data!r})")
                elif in_shard and len(data) < size:
                    data = ImageError(
                        self.name(index), "its shard cannot be read (it is cut short)"
                    )
                found[index] = data
        return found

    @staticmethod
    def find(data: Path | Sequence[Path]) -> FileList:
        """List the images of folder trees, lists and tar shards, as `find_sources` does.

        Raises:
            UsageError: A folder is missing or holds neither images nor shards.
            DatasetError: A list or shard cannot be read, is invalid or empty, or a name contains a
                tab or a line break.
        """
        found = find_sources([str(path) for path in ([data] if isinstance(data, Path) else data)])
        for name, reason in found.failed:
            raise DatasetError(f"{printable(name)}: {reason}.")
        if not len(found.files):
            raise DatasetError(f"{data}: lists no image; its shards or lists are empty.")
        return found.files

    @staticmethod
    def of(paths: Sequence[Path]) -> FileList:
        """List single images.

        Raises:
            DatasetError: A name contains a tab or a line break.
        """
        names = [str(path) for path in paths]
        for name in names:
            if not _is_line(name):
                raise DatasetError(f"{name!r}: the name {_NOT_A_LINE}.")
        return FileList("", _encode(names))

    @staticmethod
    def again(data: Path | Sequence[Path], text: bytes) -> FileList:
        """Return the list that `find` made earlier, whatever is in `data` now."""
        single = isinstance(data, Path)
        return FileList(_split_source(str(data))[0] if single else "", text)


class Sources(NamedTuple):
    """What `find_sources` found: images, Parquet tables, and (name, reason) of what failed."""

    files: FileList
    tables: list[str]
    failed: list[tuple[str, str]]


def find_sources(sources: Sequence[str], *, tables: bool = False) -> Sources:
    """List the images of folders, text files, tar shards and single files.

    A folder or URL written by `pack` is read from its index. In a text file each line is an image,
    a shard (`….tar`) or a line of such an index, relative to the file, or a URL.

    Args:
        sources: Paths, or addresses of any storage fsspec knows.
        tables: Also list the Parquet files in folders and lists, and take web addresses for images.

    Raises:
        UsageError: A source is missing or holds no images.
        DatasetError: A list or a storage cannot be read, or a name contains a tab or a line break.
    """
    found = [_find_source(source, tables) for source in sources]
    if len(found) == 1:
        return found[0]
    texts = [
        each.files.text
        if not each.files.root
        else b"".join(
            f"{_join(each.files.root, each.files[i])}\n".encode(*UTF8)
            for i in range(len(each.files))
        )
        for each in found
    ]
    return Sources(
        FileList("", b"".join(texts)),
        [table for each in found for table in each.tables],
        [failure for each in found for failure in each.failed],
    )


def _find_source(source: str, tables: bool) -> Sources:
    root, name = _split_source(source)
    place = _join(root, name) if name else root
    if tables and _is_web(source):
        return Sources(FileList("", source.encode(*UTF8)), [], [])
    if tables and place.lower().endswith(TABLE):
        return Sources(FileList("", b""), [place], [])
    if not name or has_suffix(name, (TAR, *IMAGE_SUFFIXES)):
        names = [name] if name else _list_folder(root, tables)
        found = _expand(root, _encode(filter(_is_line, names)), tables)
        odd = [(_join(root, name), _NOT_A_LINE) for name in names if not _is_line(name)]
        return found._replace(failed=odd + found.failed)
    text = re.sub(rb"\s*\n\s*", b"\n", read_whole(place)).strip()
    invalid = _INVALID_LINE.search(text)
    if b"\0" in text or invalid:
        shown = invalid is not None and b"\0" not in text
        line = f"; '{invalid[0].decode(*UTF8)}' is not one" if invalid and shown else ""
        raise DatasetError(
            f"{place}: expected a text file with an image, a shard or a line of an index in "
            f"each line{line}."
        )
    return _expand(root, text, tables)


def _expand(root: str, text: bytes, tables: bool) -> Sources:
    """Replace shards by their members, and take out tables and rows on other storages."""
    found = Sources(FileList(root, b""), [], [])
    if not any(part in text for part in (TAR.encode(), b"://", b"::", TABLE.encode())):
        return found._replace(files=FileList(root, text))
    lines: list[bytes] = []
    allowed: dict[str, bool] = {}  # an index names each shard thousands of times
    for line in text.decode(*UTF8).split("\n"):
        location, _, member = line.partition("\t")
        if location not in allowed:
            on_web = _is_web(location) and not member
            allowed[location] = on_web or may_name(f"{root}/", location)
        if not allowed[location]:
            found.failed.append((location, _OTHER_STORAGE))
        elif member or not location.lower().endswith((TAR, TABLE)) or _is_web(location):
            lines += [f"{line}\n".encode(*UTF8)] if line else []
        elif location.lower().endswith(TAR):
            place = _join(root, location)
            try:
                for offset, size, name in scan(place):
                    if _is_line(name):
                        lines.append(f"{location}\t{offset}\t{size}\t{name}\n".encode(*UTF8))
                    else:
                        found.failed.append((f"{place}/{name}", _NOT_A_LINE))
            except ImageError as error:
                found.failed.append((place, error.reason))
        elif tables:
            found.tables.append(_join(root, location))
        else:
            found.failed.append((location, "is a table, and images are expected"))
    return found._replace(files=FileList(root, b"".join(lines)))


def _list_folder(root: str, tables: bool) -> list[str]:
    """List images, shards and tables of a folder, in this order, relative to it."""
    shards = (TAR, TABLE) if tables else (TAR,)
    suffixes = (*IMAGE_SUFFIXES, *shards)
    if is_address(root):
        system, path = filesystem(root, extra=EXTRA)
        try:
            if not system.isdir(path):
                raise UsageError(f"{root}: there is no such object or folder")
            paths = [name for name in system.find(path) if has_suffix(name, suffixes)]
        except OSError as error:
            reason = error.strerror or error
            raise DatasetError(f"{root}: cannot be reached ({reason}).") from None
        names = [name.removeprefix(path).lstrip("/") for name in sorted(paths)]
    else:
        found = find_files(root, lambda name: has_suffix(name, suffixes))
        names = [str(path.relative_to(root)) for path in found]
    if not names:
        raise UsageError(f"{root}: holds no images or {' or '.join(shards)} files")
    return sorted(names, key=lambda name: has_suffix(name, shards))


def _split_source(source: str) -> tuple[str, str]:
    """Return what paths are relative to, and the name of the file there or ""."""
    folded = _PATH_OF_URL.fullmatch(source)
    place = f"{folded[1]}://{folded[2]}" if folded else source
    if not is_address(place):
        path = Path(place)
        if (path / INDEX).is_file():
            return str(path), INDEX
        return (str(path.parent), path.name) if path.is_file() else (str(path), "")
    place = place.rstrip("/")
    root, _, name = place.rpartition("/")
    if has_suffix(name, (".txt", ".tsv", TAR, TABLE, *IMAGE_SUFFIXES)):
        return root, name
    if _is_web(place):  # cannot be listed
        return place, INDEX
    system, there = filesystem(place, extra=EXTRA)
    try:
        return place, INDEX if system.exists(f"{there}/{INDEX}") else ""
    except OSError as error:
        reason = error.strerror or error
        raise DatasetError(f"{place}: cannot be reached ({reason}).") from None


def _parse_range(name: str, member: Sequence[str]) -> tuple[int, int]:
    offset, size = int(member[0]), int(member[1])
    if size > DEFAULT_LIMITS.max_bytes:
        limit = f"{DEFAULT_LIMITS.max_bytes:,} bytes"
        raise ImageError(describe(name), f"is larger than the {limit} allowed")
    return offset, size


def _encode(names: Iterable[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode(*UTF8)


def _is_line(name: str) -> bool:
    return "\n" not in name and "\t" not in name


def _join(root: str, location: str) -> str:
    whole = not root or is_address(location) or Path(location).is_absolute()
    return location if whole else f"{root}/{location}".removeprefix("./")


def _is_web(place: str) -> bool:
    """Whether an image is fetched by `passreid.fetch`, which refuses private addresses."""
    return place.startswith(("https://", "http://"))
