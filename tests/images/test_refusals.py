"""What is too large, damaged or no picture is refused in one clear sentence."""

from __future__ import annotations

import io
import os
import pickle
import struct
import threading
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from passreid.errors import ImageError, MissingExtraError, UsageError
from passreid.images import ImageInput, ImageLimits, content_hash, describe, read_image
from tests import seeded
from tests.images.pictures import Array, encode, picture, png_header


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32>: pixels must be uint8, 0-255; multiply a 0-1"),
        (np.zeros((4, 4, 3), np.int64), "int64>: pixels must be uint8, 0-255$"),
        (np.zeros((4, 4), bool), "must be uint8"),
        (np.zeros((3, 8, 5), np.uint8), r"\(3, 8, 5\).*must be \(H, W\).*move the channels last"),
        (np.zeros((4, 4, 2), np.uint8), r"must be \(H, W\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"must be \(H, W\)"),
        (np.zeros(4, np.uint8), r"must be \(H, W\).*an encoded picture as array.tobytes\(\)"),
        (np.zeros((0, 4, 3), np.uint8), "holds no pixels"),
        (np.zeros((0, 4), np.uint8), "holds no pixels"),
    ],
)
def test_arrays_that_are_no_picture(array: Array, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_image(array, channel_order="rgb")


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (10_000, 10_000)])
def test_pixel_bombs_are_refused_by_their_header(width: int, height: int) -> None:
    """The second is in the range where Pillow would only warn."""
    bomb = png_header(width, height)
    read_image(picture())  # so that nothing is imported while memory is counted
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=f"has {width} x {height} pixels.*scale it down"):
            read_image(bomb)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_pixel_limits_hold_for_every_input_and_pillow_never_warns() -> None:
    limits = ImageLimits(max_pixels=53)
    sources: list[ImageInput] = [picture(), encode(picture(), "PNG"), np.asarray(picture())]
    for source in sources:
        with pytest.raises(ImageError, match="has 6 x 9 pixels, more than the 53 allowed"):
            read_image(source, channel_order="rgb", limits=limits)
        assert read_image(source, channel_order="rgb", limits=ImageLimits(max_pixels=54)).width == 6
    with pytest.raises(
        ImageError, match="10000 x 9000 pixels"
    ):  # asked for more than Pillow allows
        read_image(png_header(10_000, 9_000), limits=ImageLimits(max_pixels=10**9))


def test_a_gif_frame_larger_than_its_header_says() -> None:
    encoded = bytearray(encode(picture("P"), "GIF"))
    frame = encoded.index(b"\x2c\0\0\0\0\x06\0\x09\0")
    encoded[frame + 5 : frame + 9] = struct.pack("<HH", 65_000, 65_000)
    with pytest.raises(ImageError, match="more pixels than allowed"):
        read_image(bytes(encoded))


def test_byte_limits_hold_for_paths_and_bytes(tmp_path: Path) -> None:
    encoded = encode(picture(), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(encoded)
    for source in (path, encoded):
        assert read_image(source, limits=ImageLimits(max_bytes=len(encoded))).width == 6
        with pytest.raises(ImageError, match="larger than the 20 bytes allowed"):
            read_image(source, limits=ImageLimits(max_bytes=20))


def test_a_file_beyond_the_limit_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(64 * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="larger than the 20 bytes allowed"):
            read_image(path, limits=ImageLimits(max_bytes=20))
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "limits",
    [
        {"max_bytes": 0},
        {"max_pixels": -1},
        {"max_side": 0},
        {"timeout_s": 0.0},
        {"max_redirects": -1},
    ],
)
def test_limits_must_be_positive(limits: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be positive"):
        ImageLimits(**limits)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_files_cut_short_are_errors(kind: str, share: float, tmp_path: Path) -> None:
    encoded = encode(Image.fromarray(seeded.image("cut", 80, 40)), kind)
    path = tmp_path / "cut"
    path.write_bytes(encoded[: int(len(encoded) * share)])
    with pytest.raises(ImageError, match=rf"^{path}: is a {kind}.*damaged or cut short") as caught:
        read_image(path)
    assert "0x" not in str(caught.value)


def test_damaged_files_never_raise_anything_else() -> None:
    """Bytes overwritten at random: decoded or an ImageError, whatever Pillow thinks of it."""
    generator = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
    sources = [
        encode(picture(), kind, **({} if kind in ("BMP", "GIF") else {"exif": exif}))
        for kind in kinds
    ]
    refused = 0
    for turn in range(1200):
        damaged = bytearray(sources[turn % len(sources)])
        for place in generator.integers(0, len(damaged), int(generator.integers(1, 6))):
            damaged[place] = generator.integers(0, 256)
        try:
            assert read_image(bytes(damaged), limits=ImageLimits(max_pixels=10**6)).mode == "RGB"
        except ImageError:
            refused += 1
    assert 200 < refused < 1200


@pytest.mark.parametrize("exif", [b"II*\0", b"II*\0\x08\0\0\0", b"II", b"\0" * 20])
def test_an_orientation_that_cannot_be_read_is_not_guessed(exif: bytes) -> None:
    with pytest.raises(ImageError, match="is a PNG file that is damaged or cut short"):
        read_image(encode(picture(), "PNG", exif=b"Exif\0\0" + exif))


@pytest.mark.parametrize(
    "content",
    [b"hello, I am text\n", b"\0", b"%PDF-1.7", b"\0\0\0\x1cftypheic", b"<svg/>", b"8BPS"],
)
def test_what_is_no_picture_says_so_whatever_its_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(
        ImageError, match=r"a\.jpg: is not a JPEG, PNG, WebP, BMP, GIF or TIFF file"
    ):
        read_image(path)


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, message in {
        "missing.jpg": "there is no such file",
        "empty.jpg": r"is empty \(0 bytes\)",
        ".": "is a folder, not a picture",
        "loop.jpg": "cannot be opened",
        "pipe.jpg": "is not a regular file",
        "empty.jpg/a.jpg": "cannot be opened",
        "x" * 400 + ".jpg": "cannot be opened",
        "nul\0.jpg": "cannot be opened",
    }.items():
        with pytest.raises(ImageError, match=message) as caught:
            read_image(os.path.join(tmp_path, name))  # noqa: PTH118 (a Path would drop the dot)
        assert str(tmp_path) in caught.value.source


def test_permissions_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: whoever runs tests as root may read everything."""
    path = tmp_path / "secret.jpg"
    path.touch()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match="may not be read; check its permissions"):
        read_image(path)


@pytest.mark.parametrize("source", [None, 3, ["a.jpg"], {"a.jpg": 1}, object()])
def test_other_types_are_refused(source: Any) -> None:
    with pytest.raises(
        ImageError, match="is not a path, URL, bytes, file, PIL image or NumPy array"
    ) as caught:
        read_image(source)
    assert caught.value.source == f"<{type(source).__name__}>"


def test_pil_images_that_cannot_be_decoded() -> None:
    encoded = encode(Image.fromarray(seeded.image("cut", 80, 40)), "PNG")
    with Image.open(io.BytesIO(encoded[:300])) as image:
        with pytest.raises(ImageError, match=r"PIL image, 40x80, RGB>: .*damaged or cut short"):
            read_image(image)
        with pytest.raises(ImageError, match="damaged or cut short"):
            content_hash(image)
    closed = Image.open(io.BytesIO(encoded))
    closed.close()
    with pytest.raises(ImageError, match="closed"):
        read_image(closed)


def test_reading_from_many_threads_leaves_warnings_alone() -> None:
    encoded = encode(picture(), "PNG")
    filters = list(warnings.filters)
    threads = [threading.Thread(target=read_image, args=(encoded,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == filters


def test_urls_are_downloaded_within_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, dict[str, object]]] = []

    def download(url: str, name: str, **bounds: object) -> bytes:
        asked.append((url, name, bounds))
        return encode(picture(), "PNG")

    monkeypatch.setattr("passreid.fetch.download", download)
    limits = ImageLimits(max_bytes=999, timeout_s=3.0, max_redirects=1, allow_http=True)
    url = "https://me:word@pictures.example/a.png?key=secret"
    assert np.array_equal(np.asarray(read_image(url, limits=limits)), np.asarray(picture()))
    bounds = {"max_bytes": 999, "timeout_s": 3.0, "max_redirects": 1, "allow_http": True}
    assert asked == [(url, "https://pictures.example/a.png?…", bounds)]
    assert content_hash(url) == content_hash(encode(picture(), "PNG"))


@pytest.mark.parametrize("url", ["http://pictures.example/a.png", "FTP://pictures.example/a.png"])
def test_urls_of_other_kinds_are_refused_without_a_look_up(url: str) -> None:
    with pytest.raises(ImageError, match="https"):
        read_image(url)


def test_descriptions_are_short_printable_and_without_addresses() -> None:
    assert describe("crops/a.jpg") == describe(Path("crops/a.jpg")) == "crops/a.jpg"
    assert describe(b"123") == "<3 bytes>"
    assert describe(picture("L")) == "<PIL image, 6x9, L>"
    assert describe(np.zeros((2, 3), np.uint8)) == "<array, shape (2, 3), uint8>"
    assert describe(None) == "<NoneType>"
    assert describe("https://me:word@host/a?key=1") == "https://host/a?…"
    assert describe("a\x1b[31m\n.jpg") == r"a\x1b[31m\n.jpg"
    assert describe(os.fsdecode(b"caf\xe9.jpg")).isprintable()
    assert len(describe("data:image/png;base64," + "A" * 10_000)) < 300


def test_errors_survive_the_way_between_processes() -> None:
    with pytest.raises(ImageError) as caught:
        read_image("missing.jpg")
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 (our own bytes)
    assert str(copy) == str(caught.value) and copy.source == "missing.jpg"
    extra = MissingExtraError("Serving", "serve")
    copied = pickle.loads(pickle.dumps(extra))  # noqa: S301
    assert (str(copied), copied.extra) == (str(extra), "serve")
