"""Write files completely or not at all; read them from disk or, through fsspec, elsewhere."""

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
    """Yield a temporary path that replaces `path` atomically when the block succeeds.

    The data is synced to disk before the rename. If the block fails, the temporary file is removed
    and `path` is unchanged. Missing folders are created.

    Raises:
        OutputError: The file cannot be written.
    """
    temporary = path.parent / f".{uuid.uuid4().hex}{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        # Some writers create a new file with owner-only permissions.
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
    """Write a small file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def copy(source: Path, path: Path) -> None:
    """Copy a file atomically, unless source and target are the same."""
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
    """Verify the CRC of every member of a zip file, which `torch.load` does not.

    Files that torch was told to write without CRCs pass.

    Raises:
        ValueError: A member does not match, or the file's directory is damaged.
        OSError: The file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            has_crcs = any(member.CRC for member in archive.infolist())
            damaged = archive.testzip() if has_crcs else None
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - a flipped bit may name any method or offset
        raise ValueError(f"its zip directory is damaged: {error}") from None
    if damaged is not None:
        raise ValueError(f"its member '{damaged}' does not match its CRC")


def is_address(place: str) -> bool:
    """Return whether a place is read through fsspec, as it is no path on this machine."""
    return "://" in place


def may_name(source: str, row: str) -> bool:
    """Return whether the list or table `source` may refer to `row`: a path, or the same storage.

    The author of a list must not choose which hosts of this network are contacted: fsspec supports
    dozens of protocols, and chains of them (``filecache::ftp://…``). Callers check web addresses
    themselves.
    """
    if not is_address(row):
        return not (is_address(source) and "::" in row)
    return "::" not in row and _storage(row) == _storage(source)


def _storage(place: str) -> str:
    """Return protocol and host or bucket: ``s3://bucket``."""
    protocol, separator, rest = place.partition("://")
    return f"{protocol.lower()}://{rest.partition('/')[0]}" if separator else "file://"


def filesystem(place: str, *, extra: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address such as ``s3://bucket/crops``, and the path on it.

    Raises:
        MissingExtraError: fsspec is not installed; `extra` is the part of passreid that needs it.
        UsageError: The storage is unknown, its package is not installed, or it does not respond.
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
    """Open a path or address for reading; raise OSError when it cannot be read."""
    if not is_address(place):
        return Path(place).open("rb")
    system, path = filesystem(place, extra=extra)
    stream: IO[bytes] = system.open(path, "rb")
    return stream


@contextmanager
def open_parquet(place: str, kind: Callable[[str], PassreidError]) -> Iterator[Any]:
    """Open a Parquet file; re-raise failures, also those inside the block, as `kind`.

    Raises:
        MissingExtraError: pyarrow is not installed.
        UsageError: The storage of an address cannot be reached.
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
