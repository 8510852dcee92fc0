"""Screen an encoded picture before a decoder sees it: small files that ask for hours of work.

A decoder's work is bounded by pixels only where a file visits each of them once. These limits are
far above what cameras and editors write, and together keep any file that passes to a few seconds.
"""

from __future__ import annotations

import re
import struct

MAX_SCANS = 64
"""Scans of a JPEG, each of which passes over all pixels; encoders write at most about 20."""
MAX_SEGMENTS = 1_000
"""Marker segments of a JPEG; Pillow joins metadata segments in quadratic time."""
MAX_CHUNKS = 65_536
"""Chunks of a PNG; 64 MiB in the 8 kB chunks of libpng are 8,192."""
MAX_PIECES = 65_536
"""Strips or tiles of a TIFF, for each of which Pillow starts a decoder."""

# 0xFF00 and restart markers stand inside a scan's data; any other marker ends it.
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
_WITHOUT_LENGTH = (0x01, 0xD8)
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_STRIP_OFFSETS, _TILE_OFFSETS = 273, 324


def excess(kind: str, data: bytes) -> str | None:
    """Say why a file asks for more work than a picture of its size may, or None.

    Args:
        kind: Format by its first bytes: "JPEG", "PNG", "BMP" or "TIFF"; others have no such limits.
        data: The whole file. Damage is left for the decoder to find.
    """
    try:
        return _CHECKS[kind](data) if kind in _CHECKS else None
    except (struct.error, IndexError):
        return None


def _jpeg(data: bytes) -> str | None:
    scans = segments = 0
    position = 2
    while marker := _MARKER.search(data, position):
        code, position = marker[1][0], marker.end()
        if code == _END_OF_IMAGE and scans:
            break  # what follows is another picture or a film, which is not decoded
        segments += 1
        scans += code == _START_OF_SCAN
        if scans > MAX_SCANS:
            return f"has more than {MAX_SCANS} scans; save it again as an ordinary JPEG"
        if segments > MAX_SEGMENTS:
            return f"has more than {MAX_SEGMENTS:,} segments; save it again without metadata"
        if code in _FRAMES and data[position + 2] != 8:
            return f"has {data[position + 2]}-bit samples, which are not read; save it with 8 bits"
        if code not in _WITHOUT_LENGTH and code != _END_OF_IMAGE:
            position += max(2, struct.unpack_from(">H", data, position)[0])
    return None


def _png(data: bytes) -> str | None:
    position = 8
    for _ in range(MAX_CHUNKS):
        if position >= len(data):
            return None
        position += 12 + int(struct.unpack_from(">I", data, position)[0])
    return f"has more than {MAX_CHUNKS:,} chunks; save it again"


def _bmp(data: bytes) -> str | None:
    header, compression = struct.unpack_from("<I12xI", data, 14)
    if header >= 40 and compression in (1, 2):  # decoded in Python, pixel by pixel
        return "is run-length compressed, which is not read; save it as PNG"
    return None


def _tiff(data: bytes) -> str | None:
    order = "<" if data.startswith(b"II") else ">"
    big = 43 in (data[2], data[3])
    start, count, entry = ("8xQ", "Q", "HHQQ") if big else ("4xI", "H", "HHII")
    (position,) = struct.unpack_from(order + start, data)
    (entries,) = struct.unpack_from(order + count, data, position)
    position += struct.calcsize(order + count)
    for _ in range(min(entries, MAX_PIECES)):
        tag, _, pieces, _ = struct.unpack_from(order + entry, data, position)
        if tag in (_STRIP_OFFSETS, _TILE_OFFSETS) and pieces > MAX_PIECES:
            return f"has {pieces:,} strips or tiles, more than {MAX_PIECES:,}; save it again"
        position += struct.calcsize(order + entry)
    return None


_CHECKS = {"JPEG": _jpeg, "PNG": _png, "BMP": _bmp, "TIFF": _tiff}
