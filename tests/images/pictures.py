"""Small pictures in every format, and those of the original's run."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests import seeded

GOLDEN = Path(__file__).parents[1] / "golden"
Array = npt.NDArray[Any]


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(mode: str = "RGB", width: int = 6, height: int = 9) -> Image.Image:
    return Image.fromarray(seeded.image("small", height, width)).convert(mode)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


def golden_input(name: str) -> Any:
    """An input of the original's run and the channel order it was handed over in."""
    kind, _, what = name.partition(":")
    file = GOLDEN / f"images_{what}"
    if kind == "path":
        return file
    if kind == "pil" and file.exists():
        with Image.open(file) as image:
            image.load()
        return image
    height, width = what.rpartition("_")[2].split("x")
    pixels = seeded.image(what, int(height), int(width))
    return pixels[:, :, ::-1] if kind == "bgr" else Image.fromarray(pixels)


GOLDEN_NAMES = [str(name) for name in np.load(GOLDEN / "images_resized.npz")["names"]]


def touch(root: Path, *names: str) -> list[Path]:
    paths = [root / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths
