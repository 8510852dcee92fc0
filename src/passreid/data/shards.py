"""WebDataset shards: plain tar files of pictures, written once, read anywhere inside by offset.

A member's place is known from the tar's headers, so any picture of any shard is one range read,
from a disk or, through fsspec, from object storage. That keeps the order of an epoch a free choice.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from passreid.errors import DatasetError, ImageError, UsageError
from passreid.images import read_image
from passreid.listing import find_images, is_image
from passreid.storage import filesystem, is_address, open_binary, replacing, write

INDEX = "index.tsv"
"""What `pack` writes beside its shards: a line for each picture, tab-separated `Member` fields."""

UTF8 = ("utf-8", "surrogateescape")
"""How lists are spelled; file names that are not UTF-8 keep their bytes."""

_EXTRA = "shards"
_IN_KEYS = str.maketrans({".": "_", "\t": "_", "\n": "_"})


class Member(NamedTuple):
    """A picture inside a shard: bytes [offset, offset + size) of the tar, and its name there."""

    shard: str
    offset: int
    size: int
    name: str


class Packed(NamedTuple):
    """What `pack` did: shards and pictures written, and path -> reason for what was left out."""

    shards: int
    images: int
    unreadable: dict[str, str]


_FOLDED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/([^/].*)")


def unfolded(data: Path | str) -> str:
    """Give a URL back the slash that `Path` folds away: ``s3:/b/c`` is ``s3://b/c``."""
    folded = _FOLDED.fullmatch(str(data))
    return f"{folded[1]}://{folded[2]}" if folded else str(data)


def read_whole(location: str) -> bytes:
    """Read a file or object.

    Raises:
        DatasetError: It cannot be read.
    """
    try:
        with open_binary(location, extra=_EXTRA) as stream:
            return bytes(stream.read())
    except OSError as error:
        raise DatasetError(f"{location}: cannot be read ({error}).") from None


def scan(shard: str) -> Iterator[Member]:
    """List the pictures of a tar, reading its headers only.

    Raises:
        DatasetError: It is no uncompressed tar, or cut short.
    """
    try:
        with (
            open_binary(shard, extra=_EXTRA) as stream,
            tarfile.open(fileobj=stream, mode="r:") as tar,
        ):
            for member in tar:
                if member.isreg() and is_image(member.name):
                    yield Member(shard, member.offset_data, member.size, member.name)
                # It would keep every header of the shard.
                tar.members = []  # type: ignore[attr-defined]
    except tarfile.TarError as error:
        raise DatasetError(
            f"{shard}: is no plain tar file ({error}); unpack .tar.gz shards first."
        ) from None
    except OSError as error:
        raise DatasetError(f"{shard}: cannot be read ({error}).") from None


def read_range(location: str, offset: int, size: int) -> bytes:
    """Return bytes [offset, offset + size) of a file or object.

    Raises:
        OSError: It is not there, cannot be read or ends before.
    """
    if is_address(location):
        # fsspec keeps its connections, and opens others in a forked worker.
        system, path = filesystem(location, extra=_EXTRA)
        data = bytes(system.cat_file(path, start=offset, end=offset + size))
    else:
        with Path(location).open("rb") as file:
            file.seek(offset)
            data = file.read(size)
    if len(data) < size:
        raise OSError(f"ends after {offset + len(data)} bytes")
    return data


def pack(folder: Path, output: Path, *, per_shard: int = 10_000) -> Packed:
    """Write a folder's pictures, byte for byte, into tar files that WebDataset readers understand.

    Pictures that cannot be decoded are left out. Each keeps its path as its name, but for dots in
    it: WebDataset ends a sample's key at the first. The index, which comes last, makes the output
    complete: packing that was stopped is started again from nothing.

    Args:
        folder: A tree of pictures, packed in the order of their paths.
        output: Folder for `shard-000000.tar` …, `index.tsv` and, if need be, `unreadable.txt`.
        per_shard: Pictures in a shard.

    Raises:
        UsageError: No picture, `output` is packed already, or `per_shard` is below 1.
        DatasetError: None of the pictures can be read.
        OutputError: A shard cannot be written.
    """
    if per_shard < 1:
        raise UsageError(f"per_shard is {per_shard}; a shard holds at least one picture.")
    if (output / INDEX).exists():
        raise UsageError(f"{output} already holds packed shards; name another folder.")
    images = find_images(folder)
    for left in output.glob("shard-*.tar"):  # of a packing that was stopped
        left.unlink()
    unreadable: dict[str, str] = {}
    lines: list[str] = []
    shards = 0
    readable = _readable(images, unreadable)
    while batch := list(islice(readable, per_shard)):
        name = f"shard-{shards:06d}.tar"
        with replacing(output / name) as temporary:
            lines += _write_shard(temporary, name, folder, batch)
        shards += 1
    if not lines:
        raise DatasetError(f"{folder}: none of its {len(images)} pictures can be read.")
    if unreadable:
        listed = "".join(f"{path}\t{reason}\n" for path, reason in unreadable.items())
        write(output / "unreadable.txt", listed.encode(*UTF8))
    write(output / INDEX, "".join(lines).encode(*UTF8))
    return Packed(shards, len(lines), unreadable)


def _write_shard(target: Path, shard: str, folder: Path, batch: Sequence[Path]) -> list[str]:
    """Write one tar; return the index lines of its members."""
    lines = []
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in batch:
            inside = path.relative_to(folder)
            stem = inside.with_suffix("").as_posix().translate(_IN_KEYS)
            header = tarfile.TarInfo(stem + path.suffix.lower())
            data = path.read_bytes()
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
            begin = tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            lines.append(f"{shard}\t{begin}\t{len(data)}\t{header.name}\n")
    return lines


def _readable(images: Sequence[Path], unreadable: dict[str, str]) -> Iterator[Path]:
    """Yield what can be decoded; note the others."""
    for path in images:
        try:
            read_image(path)
        except ImageError as error:
            unreadable[str(path)] = error.reason
        else:
            yield path
