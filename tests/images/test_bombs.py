"""Small files that ask for much work are refused before a decoder sees them; ordinary ones pass."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from passreid.errors import ImageError
from passreid.images import ImageInput, ImageLimits, read_image
from passreid.screening import MAX_CHUNKS, MAX_SCANS, MAX_SEGMENTS
from tests.images.pictures import encode, picture
from tests.images.tiffs import tiff


def with_scans(more: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    encoded = encode(picture(), "JPEG", progressive=True)
    last = encoded.rindex(b"\xff\xda")
    return encoded[:last] + encoded[last:-2] * (1 + more) + encoded[-2:]


def with_segments(more: int, segment: bytes) -> bytes:
    """A JPEG with metadata repeated in front."""
    encoded = encode(picture(), "JPEG")
    return encoded[:2] + segment * more + encoded[2:]


def segment(code: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(content) + 2) + content


def with_chunks(more: int, kind: bytes) -> bytes:
    """A PNG with empty chunks after its header."""
    encoded = encode(picture(), "PNG")
    chunk = struct.pack(">I", 0) + kind + struct.pack(">I", zlib.crc32(kind))
    return encoded[:33] + chunk * more + encoded[33:]


def run_length_bmp() -> bytes:
    runs = b"\x02\x05\0\0\x02\x07\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 8, 1, len(runs), 0, 0, 256, 0)
    start = 14 + len(header) + 1024
    return struct.pack("<2sI4xI", b"BM", start + len(runs), start) + header + bytes(1024) + runs


@pytest.mark.parametrize(
    ("bomb", "reason"),
    [
        (with_scans(5_000), f"has more than {MAX_SCANS} scans; save it again as"),
        (with_segments(5_000, segment(0xE1, b"Exif\0\0x")), f"more than {MAX_SEGMENTS:,} segments"),
        (with_segments(5_000, segment(0xFE, b"")), f"more than {MAX_SEGMENTS:,} segments"),
        (with_segments(5_000, b"\xff\x01"), f"more than {MAX_SEGMENTS:,} segments"),
        (with_chunks(70_000, b"teXt"), f"has more than {MAX_CHUNKS:,} chunks"),
        (with_chunks(70_000, b"IDAT"), f"has more than {MAX_CHUNKS:,} chunks"),
        (run_length_bmp(), "is run-length compressed, which is not read; save it as PNG"),
        (tiff(1, 70_000, bytes(70_000), rows_per_strip=1), "has 70,000 strips or tiles"),
        (tiff(300, 300, bytes(90_000), tile=1), "has 90,000 strips or tiles"),
        (tiff(1, 70_000, bytes(70_000), rows_per_strip=1, order=">"), "has 70,000 strips"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",
)
def test_files_that_ask_for_more_work_than_pictures_are_refused(bomb: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_image(bomb, limits=ImageLimits(max_side=10**6))


def test_a_12_bit_jpeg_is_called_what_it_is() -> None:
    encoded = bytearray(encode(picture(), "JPEG"))
    encoded[encoded.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(ImageError, match="has 12-bit samples, which are not read; save it with 8"):
        read_image(bytes(encoded))


def test_ordinary_files_pass() -> None:
    """Many scans and segments within the limits, an embedded progressive preview, a film behind."""
    preview = encode(picture(), "JPEG", progressive=True)
    film = b"ftypmp4" + bytes(range(256)) * 2_000 + b"\xff\xda" * 2_000
    plain = np.asarray(read_image(encode(picture(), "JPEG")))
    for file in (
        encode(picture(), "JPEG", progressive=True),
        with_scans(MAX_SCANS - 20),
        with_segments(MAX_SEGMENTS - 20, segment(0xFE, b"note")),
        with_segments(60, segment(0xE2, b"MPF\0" + preview * 40)),
        encode(picture(), "JPEG") + film,
    ):
        found = np.asarray(read_image(file)).astype(int)
        assert found.shape == plain.shape and np.abs(found - plain).max() <= 24
    for file in (
        with_chunks(MAX_CHUNKS - 20, b"teXt"),
        tiff(6, 9, np.asarray(picture("L")).tobytes(), rows_per_strip=1),
    ):
        assert np.asarray(read_image(file)).shape == (9, 6, 3)


@pytest.mark.parametrize("size", [(1, 70_000), (70_000, 1), (2, 65_536)])
def test_each_side_is_bounded_for_every_input(size: tuple[int, int]) -> None:
    image = Image.new("L", size)
    sources: list[ImageInput] = [image, np.asarray(image), encode(image, "PNG")]
    for source in [*sources, encode(image, "BMP"), encode(image, "TIFF")]:
        with pytest.raises(
            ImageError, match=rf"has {size[0]} x {size[1]} pixels, more than the 65,535 allowed on"
        ):
            read_image(source)
        assert read_image(source, limits=ImageLimits(max_side=70_000)).size == size


def test_the_screen_of_a_tiff_reads_both_byte_orders_and_big_files() -> None:
    grey = np.arange(54, dtype=np.uint8).reshape(9, 6)
    for options in ({"order": "<"}, {"order": ">"}, {"big": True}):
        encoded = tiff(6, 9, grey.tobytes(), **options)
        assert np.array_equal(np.asarray(read_image(encoded))[:, :, 0], grey), options
    bomb = tiff(1, 70_000, bytes(70_000), rows_per_strip=1, big=True)
    with pytest.raises(ImageError, match="has 70,000 strips or tiles"):
        read_image(bomb, limits=ImageLimits(max_side=10**6))
