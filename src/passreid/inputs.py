"""Image inputs: their types, their limits, and their names in messages."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from passreid.errors import UsageError
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
    """Limits on the size and the download of one image.

    Attributes:
        max_bytes: Encoded size of a file, a download or bytes.
        max_pixels: Width times height. Pillow's own limit (`PIL.Image.MAX_IMAGE_PIXELS`, 89.5
            million by default) applies too.
        max_side: Width and height each; Pillow spends many bytes on each line.
        timeout_s: Seconds that a whole download may take.
        max_redirects: Redirects that a download may follow.
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
    """Describe an input in one printable line: path, URL without secrets, or type and size."""
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
    if is_url(source):
        from passreid.fetch import describe_url  # only URLs pay for importing an HTTP client

        text = describe_url(text)
    return printable(text)


def is_pixels(source: object) -> bool:
    """Whether `source` is an array or tensor of numbers, of any library."""
    dtype = getattr(source, "dtype", None)
    # Arrays and columns of paths have a shape too.
    return hasattr(source, "shape") and not re.match(r"None|object|str|[<>|]?[US]\d", str(dtype))


def is_one_image(source: object) -> bool:
    """Whether `source` is a single image, even if it is iterable (text, bytes, pixels)."""
    if isinstance(source, np.ndarray):
        return is_pixels(source) and source.ndim != 4
    known = isinstance(source, (str, os.PathLike, Image.Image)) or is_pixels(source)
    return known or as_buffer(source) is not None or hasattr(source, "read")


def is_url(source: object) -> bool:
    """Whether `source` is text that starts with a URL scheme."""
    return isinstance(source, str) and re.match(r"[a-z][a-z0-9+.-]+://", source, re.I) is not None


def as_buffer(source: object) -> memoryview | None:
    """Return a view of bytes and similar objects; None for objects without a buffer."""
    try:
        return memoryview(source)  # type: ignore[arg-type]  # it may be anything
    except TypeError:
        return None
