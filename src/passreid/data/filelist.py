"""Millions of pictures as one list: files of a tree, or members of tar shards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from passreid.data.shards import INDEX, UTF8, read_range, read_whole, scan, unfolded
from passreid.errors import DatasetError, ImageError, UsageError
from passreid.images import read_image
from passreid.listing import find_images
from passreid.storage import is_address, may_name

_SHARD = ".tar"
_REFUSED = "is on another storage than the list that names it; put the list there"
_ODD_LINE = re.compile(rb"^[^\t\n]*\t(?!\d+\t\d+\t).*", re.MULTILINE)


class FileList:
    """Pictures in one block of bytes: 4 million take 300 MB, and worker processes share them.

    A line is a path, or a shard's path with offset, size and member name, separated by tabs. Paths
    are relative to `root` unless they are absolute or URLs.

    Args:
        root: Folder or URL the paths are relative to.
        text: One picture a line, UTF-8; names that are not keep their bytes.
    """

    def __init__(self, root: str, text: bytes) -> None:
        self.root = root
        self.text = text if not text or text.endswith(b"\n") else text + b"\n"
        self._ends = np.flatnonzero(np.frombuffer(self.text, np.uint8) == ord("\n"))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        """Return a picture's line."""
        begin = self._ends[index - 1] + 1 if index else 0
        return self.text[begin : self._ends[index]].decode(*UTF8)

    def name(self, index: int) -> str:
        """Return what messages call a picture: its path, or its shard's and its own name there."""
        location, *member = self[index].split("\t")
        return " ".join([_joined(self.root, location), *member[2:]])

    def read(self, index: int) -> Image.Image:
        """Read a picture.

        Raises:
            ImageError: It is missing or damaged.
        """
        location, *member = self[index].split("\t")
        if not member:
            return read_image(_joined(self.root, location))
        if not may_name(f"{self.root}/", location):
            raise ImageError(self.name(index), _REFUSED)
        try:
            offset, size = int(member[0]), int(member[1])
            data = read_range(_joined(self.root, location), offset, size)
            return read_image(data)
        except (OSError, ValueError) as error:
            raise ImageError(self.name(index), f"its shard cannot be read ({error})") from None
        except ImageError as error:
            raise ImageError(self.name(index), error.reason) from None

    @staticmethod
    def find(data: Path | tuple[Path, ...]) -> FileList:
        """List the pictures of a folder tree and of the tar shards in it, or read a list of both.

        Of several folders or lists the pictures follow each other.

        A folder or URL that `pack` made is read from its index. In a text file each line is a
        picture, a shard (`….tar`) or a line of such an index, relative to the file or a URL.

        Raises:
            UsageError: The folder is missing or holds neither pictures nor shards.
            DatasetError: A list or shard cannot be read, is none or empty, or a name holds a tab or
                a line break.
        """
        if isinstance(data, tuple):
            found = [FileList.find(each) for each in data]
            lines = [_joined(part.root, part[i]) for part in found for i in range(len(part))]
            return FileList(_place(data)[0], _text(lines))
        root, name = _place(data)
        if name:
            return _listed(root, name)
        shards = sorted(data.rglob(f"*{_SHARD}"))
        try:
            names = [str(path.relative_to(data)) for path in find_images(data)]
        except UsageError:
            if not shards:
                raise
            names = []
        _check_names(root, names)
        names += [m for path in shards for m in _members(root, str(path.relative_to(data)))]
        if not names:
            raise DatasetError(f"{data}: its shards hold no picture.")
        return FileList(root, _text(names))

    @staticmethod
    def of(paths: Sequence[Path]) -> FileList:
        """List pictures one by one, as they are named.

        Raises:
            DatasetError: A name holds a tab or a line break.
        """
        names = [str(path) for path in paths]
        _check_names("the list of crops", names)
        return FileList(".", _text(names))

    @staticmethod
    def again(data: Path | tuple[Path, ...], text: bytes) -> FileList:
        """Return the list of an earlier `find`, whatever lies in `data` now."""
        return FileList(_place(data)[0], text)


def _place(data: Path | tuple[Path, ...]) -> tuple[str, str]:
    """Return what paths are relative to, and the name of the list there or ""."""
    if isinstance(data, tuple):  # each path of the list begins with its own root
        return ".", ""
    location = unfolded(data)
    if is_address(location):
        root, name = location.rsplit("/", 1)
        listed = name.endswith((".txt", ".tsv", _SHARD))
        return (root, name) if listed else (location, INDEX)
    if (data / INDEX).is_file():
        return str(data), INDEX
    return (str(data.parent), data.name) if data.is_file() else (str(data), "")


def _listed(root: str, name: str) -> FileList:
    """Read a list; name the members of the shards in it."""
    text = _text([name])
    if not name.endswith(_SHARD):
        whole = read_whole(f"{root}/{name}").replace(b"\r\n", b"\n")
        text = re.sub(rb"\n{2,}", b"\n", whole).lstrip(b"\n")
    odd = _ODD_LINE.search(text)
    if b"\0" in text or odd:
        line = f"; '{odd[0].decode(*UTF8)}' is none" if odd and b"\0" not in text else ""
        raise DatasetError(
            f"{root}/{name}: expected a text file with a picture, a shard or a line of an index "
            f"in each line{line}."
        )
    if _SHARD.encode() in text:
        lines: list[str] = []
        for line in text.decode(*UTF8).rstrip("\n").split("\n"):
            lines += _members(root, line) if line.endswith(_SHARD) else [line]
        text = _text(lines)
    found = FileList(root, text)
    if not len(found):
        raise DatasetError(f"{root}/{name}: lists no image.")
    return found


def _members(root: str, shard: str) -> list[str]:
    """Return a shard's pictures as lines."""
    if not may_name(f"{root}/", shard):
        raise DatasetError(f"{shard}: {_REFUSED}.")
    members = list(scan(_joined(root, shard)))
    _check_names(shard, [member.name for member in members])
    return [f"{shard}\t{m.offset}\t{m.size}\t{m.name}" for m in members]


def _text(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode(*UTF8)


def _check_names(where: str, names: list[str]) -> None:
    odd = [name for name in names if "\n" in name or "\t" in name]
    if odd:
        raise DatasetError(
            f"{where}: the name {odd[0]!r} holds a tab or a line break; rename the file."
        )


def _joined(root: str, location: str) -> str:
    whole = is_address(location) or Path(location).is_absolute()
    return location if whole else f"{root}/{location}"
