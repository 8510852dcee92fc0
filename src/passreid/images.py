"""Read one picture, whatever it is handed over as, into RGB; resize and normalise it for a network.

    path | URL | bytes | PIL | array ─ read_image ─▶ RGB ─ to_pixels ─▶ uint8 ─ normalise ─▶ float32

Only six formats are decoded, sizes are checked in the header before a pixel is allocated, and a
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
from dataclasses import dataclass
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

ImageInput: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]
ChannelOrder: TypeAlias = Literal["rgb", "bgr"]

_READABLE = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
IMAGE_SUFFIXES = (*_READABLE, ".heic", ".heif", ".avif")  # a phone's: named, not passed over

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
_FORMATS = "JPEG, PNG, WebP, BMP, GIF or TIFF"

# What Pillow's decoders raise on a damaged file.
_DAMAGE: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, TypeError, LookupError)
_DAMAGE += (EOFError, ArithmeticError, MemoryError, struct.error)
_DAMAGE += (UserWarning,)  # of odd metadata; an exception only where warnings are errors

# EXIF orientation -> what turns the stored picture upright (EXIF 2.3, tag 0x0112).
_T = Image.Transpose
_UPRIGHT = {2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM, 5: _T.TRANSPOSE}
_UPRIGHT |= {6: _T.ROTATE_270, 7: _T.TRANSVERSE, 8: _T.ROTATE_90}


@dataclass(frozen=True)
class ImageLimits:
    """What one picture may cost.

    Attributes:
        max_bytes: Encoded size of a file, a download or bytes.
        max_pixels: Width times height. Pillow's own limit (`PIL.Image.MAX_IMAGE_PIXELS`, about 89.5
            million unless changed) holds as well; the smaller one decides.
        timeout_s, max_redirects: Seconds a download may take altogether; redirects it may follow.
        allow_http: Whether URLs may be plain http; https is always allowed.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 89_000_000
    timeout_s: float = 20.0
    max_redirects: int = 3
    allow_http: bool = False

    def __post_init__(self) -> None:
        if min(self.max_bytes, self.max_pixels, self.timeout_s) <= 0 or self.max_redirects < 0:
            raise UsageError(f"image limits must be positive: {self}")


DEFAULT_LIMITS = ImageLimits()


def read_image(
    source: ImageInput,
    *,
    channel_order: ChannelOrder | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Image.Image:
    """Read `source` as an RGB picture of its own, fully decoded.

    The EXIF orientation of paths, URLs and bytes is applied, that of PIL images is not (both as the
    original pipeline does). Of an animation the first frame counts. Alpha is dropped, not blended;
    16-bit grey is scaled to 8 bits.

    Args:
        source: A path, an https URL, an encoded file, a PIL image, or a uint8 array (H, W),
            (H, W, 1), (H, W, 3) or (H, W, 4).
        channel_order: What the channels of a 3- or 4-channel array are; other inputs know theirs.
        limits: Bounds on size and time.

    Raises:
        ImageError: Names the input and says what is wrong with it.
    """
    name = describe(source)
    if isinstance(source, np.ndarray):
        return _from_array(source, channel_order, name, limits)
    if isinstance(source, Image.Image):
        _check_size(source.size, name, limits)
        with _damage_named(name, "picture"):
            return _to_rgb(source, name)
    return _decode(read_encoded(source, limits), name, limits)


def describe(source: object) -> str:
    """Name an input in one printable line: its path, URL (without secrets), or kind and size."""
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    if isinstance(source, Image.Image):
        return f"<PIL image, {source.width}x{source.height}, {source.mode}>"
    if isinstance(source, np.ndarray):
        return f"<array, shape {source.shape}, {source.dtype}>"
    if not isinstance(source, (str, os.PathLike)):
        return f"<{type(source).__name__}>"
    text = os.fsdecode(source)
    if _is_url(source):
        from passreid.fetch import describe_url  # only URLs pay for importing an HTTP client

        text = describe_url(text)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= 300 else f"{shown[:200]}…{shown[-90:]}"


def content_hash(source: ImageInput, *, limits: ImageLimits = DEFAULT_LIMITS) -> str:
    """SHA-256 in hex of the encoded bytes; of mode, size and pixels where there are none.

    Raises:
        ImageError: The bytes cannot be had.
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


def find_images(folder: str | os.PathLike[str], *, recursive: bool = True) -> list[Path]:
    """List the pictures of a folder by suffix (any case), sorted by path.

    Hidden files and folders are left out. Links to folders are followed, each folder once, so a
    loop of links ends.

    Raises:
        UsageError: The folder is missing, is a file, cannot be listed or holds no picture.
    """
    root, name = Path(folder), describe(folder)
    try:
        found = sorted(_walk(root, recursive))
    except FileNotFoundError:
        raise UsageError(f"{name}: there is no such folder") from None
    except NotADirectoryError:
        raise UsageError(f"{name}: is a file; a folder of pictures is expected") from None
    except OSError as error:
        where = describe(error.filename or root)
        raise UsageError(f"{where}: cannot be listed ({error.strerror})") from error
    if not found:
        hint = "" if recursive else "; its subfolders were not searched"
        raise UsageError(f"{name}: holds no {_FORMATS} file{hint}")
    return found


def to_pixels(image: Image.Image, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Resize an RGB picture as the original does: Pillow's bilinear filter, aspect not kept.

    Args:
        image: From `read_image`; another mode is converted as it would.
        size: Height and width in pixels.

    Returns:
        uint8 (height, width, 3), writable.
    """
    height, width = size
    rgb = image if image.mode == "RGB" else read_image(image)
    return np.array(rgb.resize((width, height), Image.Resampling.BILINEAR))


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


def _is_url(source: object) -> bool:
    return isinstance(source, str) and re.match(r"[a-z][a-z0-9+.-]+://", source, re.I) is not None


def read_encoded(source: object, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """Return the file behind a path, a URL or bytes; ImageError if it cannot be had."""
    name = describe(source)
    if isinstance(source, bytes):
        data = source
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
    else:
        raise ImageError(name, "is no path, URL, bytes, PIL image or NumPy array")
    if not data:
        raise ImageError(name, "is empty (0 bytes)")
    if len(data) > limits.max_bytes:
        raise ImageError(name, f"is larger than the {limits.max_bytes:,} bytes allowed")
    return data


def _read_file(path: Path, name: str, max_bytes: int) -> bytes:
    """At most `max_bytes` + 1 bytes of a regular file (a pipe or a device may never end)."""
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
        raise ImageError(name, f"is not a {_FORMATS} file, whatever its name says; convert it")
    kind, _, decoder = fits[0]
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
        raise ImageError(name, f"is a {kind} that is damaged or cut short ({error})") from error


def _check_size(size: tuple[int, int], name: str, limits: ImageLimits) -> None:
    most = min(limits.max_pixels, Image.MAX_IMAGE_PIXELS or limits.max_pixels)
    if size[0] * size[1] > most:
        shown = f"{size[0]} x {size[1]} pixels"
        raise ImageError(name, f"has {shown}, more than the {most:,} allowed; scale it down")


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Decode and convert to a new RGB picture without metadata; `image` keeps its own."""
    image.load()
    if image.mode.startswith("I;16"):  # convert() would clip at 255
        wide = np.asarray(image).astype(np.uint32) + 128
        image = Image.fromarray((wide // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ImageError(name, "has 32-bit pixels, whose range is unknown; save it with 8 bits")
    elif "transparency" in image.info:  # convert() would warn; the colours stay the same
        image = image.copy()
        del image.info["transparency"]
    rgb = image.convert("RGB")
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


def _walk(root: Path, recursive: bool) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error  # os.walk would skip a folder it cannot list

    seen: set[tuple[int, int]] = set()
    for here, folders, files in os.walk(root, followlinks=True, onerror=fail):
        status = Path(here).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        kept = [folder for folder in folders if recursive and not folder.startswith(".")]
        # A real folder comes before a link to it, so its pictures carry the real path.
        folders[:] = sorted(kept, key=lambda each: (Path(here, each).is_symlink(), each))
        for file in files:
            if not file.startswith(".") and Path(file).suffix.lower() in IMAGE_SUFFIXES:
                yield Path(here, file)
