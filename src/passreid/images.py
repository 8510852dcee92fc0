"""Read one picture into RGB, whatever it is passed as; resize and normalise it for a network.

    path | URL | bytes | file | PIL | array ─ read_image ─▶ RGB ─ to_pixels ─▶ uint8
                                                              uint8 ─ normalise ─▶ float32

Only six formats are decoded. Size and decoding work are bounded before a pixel is allocated, and a
picture that cannot be read whole is an `ImageError`, never a grey patch.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from passreid.errors import ImageError, UsageError
from passreid.inputs import (
    DEFAULT_LIMITS,
    ImageInput,
    ImageLimits,
    as_buffer,
    describe,
    is_pixels,
    is_url,
)
from passreid.listing import FORMATS
from passreid.screening import excess

__all__ = [
    "DEFAULT_LIMITS",
    "ChannelOrder",
    "ImageInput",
    "ImageLimits",
    "content_hash",
    "describe",
    "normalise",
    "read_encoded",
    "read_image",
    "to_pixels",
]

ChannelOrder: TypeAlias = Literal["rgb", "bgr"]

# First bytes -> decoder. Not `Image.open`: it warns about large pictures before it can be asked
# their size, and silencing a warning is not safe while other threads run.
_DECODERS: tuple[tuple[str, bytes, type[ImageFile.ImageFile]], ...] = (
    ("JPEG", rb"\xff\xd8\xff", JpegImageFile),
    ("PNG", rb"\x89PNG\r\n\x1a\n", PngImageFile),
    ("WebP", rb"RIFF....WEBP", WebPImageFile),
    ("BMP", rb"BM", BmpImageFile),
    ("GIF", rb"GIF8[79]a", GifImageFile),
    ("TIFF", rb"II[*+]\0|MM\0[*+]", TiffImageFile),
)

_DARKEST_16_BIT = 2**14
"""A 16-bit picture whose values all lie below holds fewer bits, and would come out nearly black."""

_PHOTOMETRIC = 262  # a TIFF tag

# What Pillow's decoders raise on a damaged file.
_DAMAGE: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, TypeError, LookupError)
_DAMAGE += (EOFError, ArithmeticError, MemoryError, struct.error)
_DAMAGE += (UserWarning,)  # of odd metadata; an exception only where warnings are errors

# EXIF orientation -> what turns the stored picture upright (EXIF 2.3, tag 0x0112).
_T = Image.Transpose
_UPRIGHT = {2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM, 5: _T.TRANSPOSE}
_UPRIGHT |= {6: _T.ROTATE_270, 7: _T.TRANSVERSE, 8: _T.ROTATE_90}


def read_image(
    source: ImageInput,
    *,
    channel_order: ChannelOrder | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Image.Image:
    """Read `source` as a new RGB picture, fully decoded.

    The EXIF orientation of encoded pictures is applied, that of PIL images is not (both as the
    original pipeline does). Of an animation the first frame is read. Alpha is dropped, not blended.
    16-bit pictures are scaled from 0-65535 to 8 bits, 12-bit TIFFs from 0-4095; a 16-bit picture
    without any value from 16384 up is refused, as it holds unscaled 10-, 12- or 14-bit values.

    Args:
        source: A path, an https URL, an encoded picture as bytes or any other buffer, a file opened
            in binary mode (read from its beginning where it can seek), a PIL image, or a uint8
            array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
        channel_order: Channel order of a 3- or 4-channel array; other inputs know theirs.
        limits: Bounds on size and time.

    Raises:
        ImageError: Names the input and what is wrong with it.
    """
    name = describe(source)
    if isinstance(source, np.ndarray):
        return _from_array(source, channel_order, name, limits)
    if isinstance(source, Image.Image):
        _check_size(source.size, name, limits)
        with _damage_named(name, "picture"):
            return _to_rgb(source, name)
    if is_pixels(source):
        raise ImageError(
            name,
            "its layout is not known; pass a uint8 NumPy array (H, W, 3) with channel_order, "
            "as x.permute(1, 2, 0).numpy() is for a torch tensor (3, H, W)",
        )
    return _decode(read_encoded(source, limits), name, limits)


def content_hash(source: ImageInput, *, limits: ImageLimits = DEFAULT_LIMITS) -> str:
    """Return the SHA-256 in hex of the encoded bytes, or of mode, size and pixels without any.

    Raises:
        ImageError: The bytes cannot be read.
    """
    if isinstance(source, np.ndarray):
        data = f"array {source.dtype.str} {source.shape}".encode() + source.tobytes()
    elif isinstance(source, Image.Image):
        with _damage_named(describe(source), "picture"):
            data = f"image {source.mode} {source.size}".encode() + source.tobytes()
            data += bytes(source.getpalette() or ())
    else:
        data = read_encoded(source, limits)
    return hashlib.sha256(data).hexdigest()


def to_pixels(
    image: Image.Image,
    size: tuple[int, int],
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> npt.NDArray[np.uint8]:
    """Resize a picture with Pillow's antialiasing filters, ignoring its aspect ratio.

    Args:
        image: From `read_image`; other modes are converted as it would.
        size: Height and width in pixels.
        interpolation: The filter; the original pipeline is bilinear.

    Returns:
        uint8 RGB (height, width, 3), writable.
    """
    height, width = size
    rgb = image if image.mode == "RGB" else read_image(image)
    return np.array(rgb.resize((width, height), Image.Resampling[interpolation.upper()]))


def normalise(
    batch: npt.NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]
) -> npt.NDArray[np.float32]:
    """Turn pixels into network input: (u / 255 - mean) / std per channel, all in float32.

    Args:
        batch: uint8 (B, H, W, 3).
        mean, std: Three numbers each, on the scale 0 to 1.

    Returns:
        float32 (B, 3, H, W), contiguous.
    """
    if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != 3:
        raise UsageError(f"uint8 (B, H, W, 3) pixels are expected, not {describe(batch)}")
    planes = batch.transpose(0, 3, 1, 2)
    out: npt.NDArray[np.float32] = np.divide(planes, np.float32(255), dtype=np.float32, order="C")
    out -= np.asarray(mean, np.float32).reshape(3, 1, 1)
    out /= np.asarray(std, np.float32).reshape(3, 1, 1)
    return out


def read_encoded(source: object, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """Return the encoded picture behind a path, a URL, a buffer or an open file.

    Raises:
        ImageError: It cannot be read, is empty or too large.
    """
    name = describe(source)
    buffer = None if isinstance(source, str) else as_buffer(source)
    if buffer is not None:
        if buffer.ndim != 1 or buffer.itemsize != 1:
            raise ImageError(name, "is not an encoded picture; pass pixels as numpy.asarray(…)")
        data = source if isinstance(source, bytes) else bytes(buffer[: limits.max_bytes + 1])
    elif is_url(source):
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


def _decode(data: bytes, name: str, limits: ImageLimits) -> Image.Image:
    fits = [entry for entry in _DECODERS if re.match(entry[1], data, re.DOTALL)]
    if not fits:
        raise ImageError(name, f"is not a {FORMATS} file, whatever its name says; convert it")
    kind, _, decoder = fits[0]
    if reason := excess(kind, data):
        raise ImageError(name, reason)
    with _damage_named(name, f"{kind} file"), decoder(io.BytesIO(data)) as image:
        _check_size(image.size, name, limits)
        rgb = _to_rgb(image, name)
        # After decoding: a PNG may hold its EXIF at the end, a TIFF has turned itself by now.
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return rgb if turn is None else rgb.transpose(turn)


@contextlib.contextmanager
def _damage_named(name: str, kind: str) -> Iterator[None]:
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(name, "has more pixels than allowed; scale it down") from error
    except _DAMAGE as error:
        if str(error) == "unknown pixel mode":
            reason = f"is a {kind} whose pixels are of a kind that is not read; save it with 8 bits"
            raise ImageError(name, reason) from error
        raise ImageError(name, f"is a {kind} that is damaged or cut short ({error})") from error


def _check_size(size: tuple[int, int], name: str, limits: ImageLimits) -> None:
    most = min(limits.max_pixels, Image.MAX_IMAGE_PIXELS or limits.max_pixels)
    shown = f"has {size[0]} x {size[1]} pixels, more than the"
    if size[0] * size[1] > most:
        raise ImageError(name, f"{shown} {most:,} allowed; scale it down")
    if max(size) > limits.max_side:
        raise ImageError(name, f"{shown} {limits.max_side:,} allowed on a side; cut or scale it")


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Decode and convert to a new RGB picture without metadata; `image` keeps its own."""
    tiles = getattr(image, "tile", None)
    coding = f"{image.mode} {tiles[0].args}" if tiles else image.mode
    image.load()
    brightest = 0xFFFF
    if image.mode.startswith("I;16"):  # convert() would clip at 255
        full = 4095 if ";12" in coding else 65535
        values = np.asarray(image).astype(np.uint32)
        if full == 65535:
            brightest = int(values.max())
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:  # white is 0, which Pillow ignores
            values = full - values
        image = Image.fromarray(((values * 255 + full // 2) // full).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ImageError(
            name, "has signed or 32-bit pixels, whose range is unknown; save it with 8 bits"
        )
    elif "transparency" in image.info:  # convert() would warn; the colours stay the same
        image = image.copy()
        del image.info["transparency"]
    rgb = image.convert("RGB")
    if ";16" in coding and image.mode in ("LA", "RGB", "RGBA"):  # Pillow keeps the upper byte
        brightest = 256 * int(np.asarray(rgb).max())
    if brightest < _DARKEST_16_BIT:
        raise ImageError(
            name,
            f"has 16-bit pixels, but none reaches {_DARKEST_16_BIT:,} of 65,535: unscaled 10-, 12- "
            "or 14-bit values; multiply them up to the full range",
        )
    rgb.info.clear()  # the EXIF would turn the picture a second time in the next hands
    return rgb


def _from_array(
    array: npt.NDArray[Any], channel_order: ChannelOrder | None, name: str, limits: ImageLimits
) -> Image.Image:
    if array.dtype != np.uint8:
        hint = "; multiply a 0-1 picture by 255 first" if array.dtype.kind == "f" else ""
        raise ImageError(name, f"pixels must be uint8, 0-255{hint}")
    channels = array.shape[2] if array.ndim == 3 else 1 if array.ndim == 2 else 0
    if channels not in (1, 3, 4):
        hint = "; move the channels last" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        hint = "; pass an encoded picture as array.tobytes()" if array.ndim == 1 else hint
        raise ImageError(name, f"must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4){hint}")
    if not array.size:
        raise ImageError(name, "holds no pixels")
    _check_size((array.shape[1], array.shape[0]), name, limits)
    if channels == 1:
        array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
        channel_order = "rgb"
    if channel_order not in ("rgb", "bgr"):
        raise ImageError(name, 'does not say its order; pass channel_order="rgb" or "bgr" (OpenCV)')
    rgb = array[:, :, :3] if channel_order == "rgb" else array[:, :, 2::-1]
    return Image.fromarray(rgb)  # a copy: Pillow keeps RGB in rows of its own
