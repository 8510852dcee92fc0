"""TIFF files of any kind, drawn by hand: Pillow writes few of those that it reads."""

from __future__ import annotations

import struct

SHORT, LONG = 3, 4


def tiff(
    width: int,
    height: int,
    pixels: bytes,
    *,
    bits: int = 8,
    samples: int = 1,
    photometric: int = 1,
    sample_format: int = 1,
    rows_per_strip: int | None = None,
    tile: int | None = None,
    order: str = "<",
    big: bool = False,
) -> bytes:
    """An uncompressed TIFF; strips or tiles all begin where the pixels do when there are many."""
    pieces = 1 if rows_per_strip is None else -(-height // rows_per_strip)
    if tile:
        pieces = -(-width // tile) * -(-height // tile)
    length = len(pixels) // pieces
    offsets = [16 + n * length for n in range(pieces)]
    tags: list[tuple[int, int, list[int]]] = [
        (256, LONG, [width]),
        (257, LONG, [height]),
        (258, SHORT, [bits] * samples),
        (259, SHORT, [1]),
        (262, SHORT, [photometric]),
        (277, SHORT, [samples]),
        (339, SHORT, [sample_format] * samples),
    ]
    if tile:
        tags += [(322, LONG, [tile]), (323, LONG, [tile]), (324, LONG, offsets)]
        tags += [(325, LONG, [length] * pieces)]
    else:
        tags += [(273, LONG, offsets), (278, LONG, [rows_per_strip or height])]
        tags += [(279, LONG, [length] * pieces)]
    count, wide, field = ("Q", "Q", 8) if big else ("H", "I", 4)
    body = pixels + bytes(-len(pixels) % 8)
    entries = b""
    for tag, kind, values in sorted(tags):
        content = struct.pack(f"{order}{len(values)}{'H' if kind == SHORT else 'I'}", *values)
        if len(content) <= field:
            inline = content.ljust(field, b"\0")
        else:
            inline = struct.pack(order + wide, 16 + len(body))
            body += content + bytes(-len(content) % 8)
        entries += struct.pack(f"{order}HH{wide}", tag, kind, len(values)) + inline
    start = 16 + len(body)
    mark = b"II" if order == "<" else b"MM"
    head = (
        struct.pack(order + "HHHQ", 43, 8, 0, start)
        if big
        else struct.pack(order + "HI8x", 42, start)
    )
    directory = struct.pack(order + count, len(tags)) + entries + bytes(field)
    return (mark + head).ljust(16, b"\0") + body + directory
