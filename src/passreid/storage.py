"""Files: written completely or not at all; read from this machine or, through fsspec, others."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from passreid.errors import MissingExtraError, OutputError, PassreidError, UsageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` that becomes `path` when the block ends well.

    The data is on disk before it gets the name; when the block fails, nothing is left behind and
    what stood at `path` still stands. Missing folders are made.

    Raises:
        OutputError: The file cannot be written.
    """
    temporary = path.parent / f".{uuid.uuid4().hex}{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        # Some writers make a file of their own that only its owner may read.
        temporary.chmod(mode)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}).") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write(path: Path, data: bytes) -> None:
    """Write a small file.

    Raises:
        OutputError: The file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def copy(source: Path, path: Path) -> None:
    """Copy a file, unless it is the same one.

    Raises:
        OutputError: The file cannot be written.
    """
    if source.resolve() == path.resolve():
        return
    with replacing(path) as temporary:
        shutil.copyfile(source, temporary)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_zip(path: Path) -> None:
    """Compare every member of a zip file with its CRC, which `torch.load` does not.

    Files that torch was told to write without CRCs pass.

    Raises:
        ValueError: A member does not match, or the file's directory is damaged.
        OSError: The file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            counted = any(member.CRC for member in archive.infolist())
            damaged = archive.testzip() if counted else None
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - a flipped bit may name any method or offset
        raise ValueError(f"its zip directory is damaged: {error}") from None
    if damaged is not None:
        raise ValueError(f"'{damaged}' in it does not match its CRC")


def is_address(place: str) -> bool:
    """Whether a place is read through fsspec rather than from a disk of this machine."""
    return "://" in place


def may_name(source: str, row: str) -> bool:
    """Whether a row of a list or table is a path, or on the list's own storage.

    Whoever wrote a list must not choose which hosts of this network are contacted: fsspec knows
    dozens of protocols, and chains of them (``filecache::ftp://…``).

    Args:
        source: Path or address of the list.
        row: What the list names; web addresses are up to the caller.
    """
    if not is_address(row):
        return not (is_address(source) and "::" in row)
    return "::" not in row and _storage(row) == _storage(source)


def _storage(place: str) -> str:
    """Return protocol and host or bucket: ``s3://bucket``."""
    protocol, there, rest = place.partition("://")
    return f"{protocol.lower()}://{rest.partition('/')[0]}" if there else "file://"


def filesystem(place: str, *, extra: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the path on it.

    Args:
        place: Such as ``s3://bucket/crops``.
        extra: The extra of passreid to install where fsspec is missing.

    Raises:
        MissingExtraError: fsspec is not installed.
        UsageError: The storage is unknown, its package is not installed, or it does not answer.
    """
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError as error:
        raise MissingExtraError("Reading from object storage", extra) from error
    try:
        system, path = url_to_fs(place)
    except Exception as error:  # noqa: BLE001 - each of dozens of back ends has its own
        raise UsageError(f"{place}: cannot be reached ({error})") from None
    return system, str(path)


def open_binary(place: str, *, extra: str) -> IO[bytes]:
    """Open a path or address for reading.

    Raises:
        OSError: It is not there or cannot be read.
        MissingExtraError, UsageError: As `filesystem`.
    """
    if not is_address(place):
        return Path(place).open("rb")
    system, path = filesystem(place, extra=extra)
    stream: IO[bytes] = system.open(path, "rb")
    return stream


@contextmanager
def open_parquet(place: str, kind: Callable[[str], PassreidError]) -> Iterator[Any]:
    """Open a Parquet file; re-raise what goes wrong, also inside the block, as one error.

    Args:
        place: Path or address.
        kind: Makes the error from a sentence; its cause is the original exception.

    Raises:
        MissingExtraError: pyarrow is not installed.
        UsageError: As `filesystem`.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise MissingExtraError("Reading Parquet", "bulk") from error
    try:
        with open_binary(place, extra="bulk") as stream, ParquetFile(stream) as file:
            yield file
    except (ArrowException, OSError, ValueError) as error:
        raise kind(f"{place}: cannot be read as Parquet ({error}).") from error
