"""Files: written whole or not at all; read from this machine or, through fsspec, from elsewhere."""

from __future__ import annotations

import os
import shutil
import uuid
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


def is_address(place: str) -> bool:
    """Whether something lies behind fsspec rather than on a disk of this machine."""
    return "://" in place


def filesystem(place: str, *, extra: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and the path there.

    Args:
        place: Such as ``s3://bucket/crops``.
        extra: Of passreid, to name where fsspec is missing.

    Raises:
        MissingExtraError: fsspec is not installed.
        UsageError: fsspec knows no such storage, its own package is not installed, or it does not
            answer.
    """
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError as error:
        raise MissingExtraError("Reading from object storage", extra) from error
    try:
        system, path = url_to_fs(place)
    except (ImportError, ValueError, OSError) as error:  # some connect here already
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
    """Open a Parquet file; what is wrong with it, then or in the block, becomes a sentence.

    Args:
        place: Path or address.
        kind: The error to make of the sentence; its cause is what went wrong.

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
