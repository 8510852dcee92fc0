"""Picture inputs: what they are, what messages call them, and the encoded bytes behind them."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from passreid.errors import ImageError, UsageError
from passreid.listing import printable

ImageInput: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | IO[bytes]
    | Image.Image
    | npt.NDArray[Any]
)


@dataclass(frozen=True)
class ImageLimits:
    """Bounds on the size and the download of one picture.

    Attributes:
        max_bytes: Encoded size of a file, a download or bytes.
        max_pixels: Width times height. Pillow's own limit (`PIL.Image.MAX_IMAGE_PIXELS`, about 89.5
            million unless changed) holds as well; the smaller one decides.
        max_side: Width and height each; lines of one pixel cost Pillow many bytes apiece.
        timeout_s, max_redirects: Seconds a download may take altogether; redirects it may follow.
        allow_http: Whether URLs may be plain http; https is always allowed.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 89_000_000
    max_side: int = 65_535
    timeout_s: float = 20.0
    max_redirects: int = 3
    allow_http: bool = False

    def __post_init__(self) -> None:
        bounds = (self.max_bytes, self.max_pixels, self.max_side, self.timeout_s)
        if min(bounds) <= 0 or self.max_redirects < 0:
            raise UsageError(f"image limits must be positive: {self}")


DEFAULT_LIMITS = ImageLimits()


def describe(source: object) -> str:
    """Name an input in one printable line: its path, URL (without secrets), or kind and size."""
    if isinstance(source, (bytes, bytearray)):
        return f"<{len(source)} bytes>"
    if isinstance(source, Image.Image):
        return f"<PIL image, {source.width}x{source.height}, {source.mode}>"
    if isinstance(source, np.ndarray):
        return f"<array, shape {source.shape}, {source.dtype}>"
    if is_pixels(source):
        shape, dtype = (getattr(source, each) for each in ("shape", "dtype"))
        return printable(f"<{type(source).__name__}, shape {tuple(shape)}, {dtype}>")
    if not isinstance(source, (str, os.PathLike)):
        named = getattr(source, "name", "")
        return printable(
            f"<{type(source).__name__} {named}>"
            if named and isinstance(named, str)
            else f"<{type(source).__name__}>"
        )
    text = os.fsdecode(source)
    if _is_url(source):
        from passreid.fetch import describe_url  # only URLs pay for importing an HTTP client

        text = describe_url(text)
    return printable(text)


def is_pixels(source: object) -> bool:
    """Whether `source` is an array or tensor of numbers, of any library."""
    dtype = getattr(source, "dtype", None)
    # A column or array of paths is not.
    return hasattr(source, "shape") and not re.match(r"None|object|str|[<>|]?[US]\d", str(dtype))


def is_one_image(source: object) -> bool:
    """Whether `source` is a single picture, though it may be iterable (text, bytes, pixels)."""
    if isinstance(source, np.ndarray):
        return is_pixels(source) and source.ndim != 4
    known = isinstance(source, (str, os.PathLike, Image.Image)) or is_pixels(source)
    return known or _buffer(source) is not None or hasattr(source, "read")


def _is_url(source: object) -> bool:
    return isinstance(source, str) and re.match(r"[a-z][a-z0-9+.-]+://", source, re.I) is not None


def read_encoded(source: object, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """Return the encoded picture behind a path, a URL, a buffer or an open file.

    Raises:
        ImageError: It cannot be read, is empty or too large.
    """
    name = describe(source)
    buffer = None if isinstance(source, str) else _buffer(source)
    if buffer is not None:
        if buffer.ndim != 1 or buffer.itemsize != 1:
            raise ImageError(name, "is not an encoded picture; pass pixels as numpy.asarray(…)")
        data = source if isinstance(source, bytes) else bytes(buffer[: limits.max_bytes + 1])
    elif _is_url(source):
        from passreid.fetch import download

        data = download(
            str(source),
            name,
            max_bytes=limits.max_bytes,
            timeout_s=limits.timeout_s,
            max_redirects=limits.max_redirects,
            allow_http=limits.allow_http,
        )
    elif isinstance(source, (str, os.PathLike)):
        data = _read_file(Path(os.fsdecode(source)), name, limits.max_bytes)
    elif hasattr(source, "read"):
        data = _read_open(source, name, limits.max_bytes)
    else:
        raise ImageError(name, "is not a path, URL, bytes, file, PIL image or NumPy array")
    if not data:
        raise ImageError(name, "is empty (0 bytes)")
    if len(data) > limits.max_bytes:
        raise ImageError(name, f"is larger than the {limits.max_bytes:,} bytes allowed")
    return data


def _buffer(source: object) -> memoryview | None:
    """View bytes, a bytearray, a mapped file or the like; None for objects without a buffer."""
    try:
        return memoryview(source)  # type: ignore[arg-type]  # what it accepts is asked here
    except TypeError:
        return None


def _read_open(file: Any, name: str, max_bytes: int) -> bytes:
    """Read at most `max_bytes` + 1 bytes of an open file, from its beginning where it can seek."""
    data = bytearray()
    try:
        if hasattr(file, "seekable") and file.seekable():
            file.seek(0)
        while len(data) <= max_bytes and (block := file.read(max_bytes + 1 - len(data))):
            data += block
    except TypeError:
        raise ImageError(name, "does not give bytes; open it in binary mode ('rb')") from None
    except (OSError, ValueError) as error:  # closed, or text of another encoding
        raise ImageError(name, f"cannot be read ({error}); open it in binary mode") from error
    return bytes(data)


def _read_file(path: Path, name: str, max_bytes: int) -> bytes:
    """Read at most `max_bytes` + 1 bytes of a regular file (a pipe or a device may never end)."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                return file.read(max_bytes + 1)
        kind = "is a folder, not a picture" if stat.S_ISDIR(mode) else "is not a regular file"
        raise ImageError(name, kind)
    except FileNotFoundError:
        raise ImageError(name, "there is no such file") from None
    except PermissionError:
        raise ImageError(name, "may not be read; check its permissions") from None
    except (OSError, ValueError) as error:  # a name too long, a loop of links, a NUL in the name
        raise ImageError(name, f"cannot be opened ({getattr(error, 'strerror', error)})") from error
