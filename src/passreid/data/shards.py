"""WebDataset shards: uncompressed tar files of images, which are read by offset."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from passreid.data.check import find_unreadable
from passreid.errors import DatasetError, ImageError, UsageError
from passreid.listing import find_images, is_image
from passreid.storage import open_binary, replacing, write

INDEX = "index.tsv"
"""Index that `pack` writes: shard, offset, size and name of each image, separated by tabs."""
TAR = ".tar"
EXTRA = "shards"
"""The extra that brings fsspec."""
UTF8 = ("utf-8", "surrogateescape")
"""Encoding of lists; file names that are not UTF-8 keep their bytes."""

# WebDataset ends the key of a sample at the first dot.
_KEY = str.maketrans({".": "_", "\t": "_", "\n": "_"})


class Packed(NamedTuple):
    """Result of `pack`: number of shards and images, and path -> reason of what was left out."""

    shards: int
    images: int
    unreadable: dict[str, str]


def read_whole(location: str) -> bytes:
    """Read a file or object; raises `DatasetError` if it cannot be read."""
    try:
        with open_binary(location, extra=EXTRA) as stream:
            return bytes(stream.read())
    except OSError as error:
        reason = error.strerror or error
        raise DatasetError(f"{location}: cannot be read as a list ({reason}).") from None


def scan(shard: str) -> Iterator[tuple[int, int, str]]:
    """Yield offset, size and name of the images in a tar file, reading its headers only.

    Raises:
        ImageError: The file is missing, compressed, cut short or no tar file.
        DatasetError: Its storage fails.
    """
    try:
        with (
            open_binary(shard, extra=EXTRA) as stream,
            tarfile.open(fileobj=stream, mode="r:") as tar,
        ):
            for member in tar:
                if member.isreg() and not member.issparse() and is_image(member.name):
                    yield member.offset_data, member.size, member.name
                tar.members = []  # type: ignore[attr-defined]  # it would keep every header
    except FileNotFoundError:
        raise ImageError(shard, "there is no such file") from None
    except tarfile.TarError as error:
        reason = f"is not an uncompressed tar file, or is cut short or damaged ({error})"
        raise ImageError(shard, reason) from None
    except OSError as error:
        raise DatasetError(f"{shard}: cannot be read ({error}).") from None


def read_range(path: str, offset: int, size: int) -> bytes:
    """Return bytes [offset, offset + size) of a file; raises `OSError` if it ends before."""
    with Path(path).open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) < size:
        raise OSError(f"ends after {offset + len(data)} bytes")
    return data


def pack(folder: Path, output: Path, *, per_shard: int = 10_000) -> Packed:
    """Write a folder's images, byte for byte, into tar files that WebDataset readers understand.

    Images that cannot be decoded are left out. Members are named after their path, without dots.
    The index is written last: if it is missing, packing was interrupted and starts again.

    Args:
        folder: A tree of images, packed in the order of their paths.
        output: Folder for `shard-000000.tar` …, `index.tsv` and, if needed, `unreadable.txt`.
        per_shard: Images in a shard.

    Raises:
        UsageError: No image, `output` is packed already, or `per_shard` is below 1.
        DatasetError: None of the images can be read.
        OutputError: A shard cannot be written.
    """
    if per_shard < 1:
        raise UsageError(f"per_shard is {per_shard}; a shard holds at least one image.")
    if (output / INDEX).exists():
        raise UsageError(f"{output} already holds packed shards; name another folder.")
    images = find_images(folder)
    unreadable = {str(path): reason for path, reason in find_unreadable(images).items()}
    readable = [path for path in images if str(path) not in unreadable]
    if not readable:
        raise DatasetError(f"{folder}: none of its {len(images)} images can be read.")
    for left in output.glob("shard-*.tar"):  # of an interrupted packing
        left.unlink()
    lines: list[str] = []
    starts = range(0, len(readable), per_shard)
    for number, start in enumerate(starts):
        name = f"shard-{number:06d}.tar"
        with replacing(output / name) as temporary:
            lines += _write_shard(temporary, name, folder, readable[start : start + per_shard])
    if unreadable:
        listed = "".join(f"{path}\t{reason}\n" for path, reason in unreadable.items())
        write(output / "unreadable.txt", listed.encode(*UTF8))
    write(output / INDEX, "".join(lines).encode(*UTF8))
    return Packed(len(starts), len(lines), unreadable)


def _write_shard(target: Path, shard: str, folder: Path, paths: Sequence[Path]) -> list[str]:
    """Write one tar file and return the index lines of its members."""
    lines = []
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in paths:
            key = path.relative_to(folder).with_suffix("").as_posix().translate(_KEY)
            header = tarfile.TarInfo(key + path.suffix.lower())
            data = path.read_bytes()
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
            begin = tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            lines.append(f"{shard}\t{begin}\t{len(data)}\t{header.name}\n")
    return lines
