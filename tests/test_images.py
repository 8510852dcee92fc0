"""Reading pictures: every input gives RGB or one clear sentence; pixels match the original's."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFile

from passreid.errors import ImageError, UsageError
from passreid.images import (
    ImageInput,
    ImageLimits,
    content_hash,
    describe,
    find_images,
    normalise,
    read_image,
    to_pixels,
)
from tests import seeded

GOLDEN = Path(__file__).parent / "golden"
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


@pytest.mark.parametrize("size", [(256, 128), (384, 128)])
@pytest.mark.parametrize("row", range(len(GOLDEN_NAMES)), ids=GOLDEN_NAMES)
def test_decoding_and_resizing_match_the_original(row: int, size: tuple[int, int]) -> None:
    with np.load(GOLDEN / "images_resized.npz") as stored:
        crc, grid = stored[f"crc32_{size[0]}"][row], stored[f"grid_{size[0]}"][row]
    image = read_image(golden_input(GOLDEN_NAMES[row]), channel_order="bgr")
    pixels = to_pixels(image, size)
    assert pixels.shape == (*size, 3) and pixels.dtype == np.uint8
    # JPEG leaves the last bits of its arithmetic to the library that decodes it.
    bound = 4 if ".jpg" in GOLDEN_NAMES[row] else 0
    assert np.abs(pixels[::32, ::16].astype(int) - grid).max() <= bound
    if bound == 0:
        assert zlib.crc32(np.ascontiguousarray(pixels).tobytes()) == crc


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_formats_give_their_pixels(kind: str, options: dict[str, Any]) -> None:
    image = read_image(encode(picture(), kind, **options))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(picture()))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("1", "PNG"),
        ("L", "PNG"),
        ("L", "JPEG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("RGB", "JPEG"),
        ("RGB", "GIF"),
        ("RGBA", "PNG"),
        ("RGBA", "WEBP"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("YCbCr", "JPEG"),
        ("LAB", "TIFF"),
    ],
)
def test_every_mode_becomes_rgb(mode: str, kind: str) -> None:
    source = picture(mode) if mode != "LAB" else Image.new("LAB", (6, 9))
    encoded = encode(source, kind, **({"lossless": True} if kind == "WEBP" else {}))
    image = read_image(encoded)
    assert (image.mode, image.size) == ("RGB", (6, 9))
    with Image.open(io.BytesIO(encoded)) as plain:
        expected = plain.convert("RGB")
    assert np.array_equal(np.asarray(image), np.asarray(expected))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "HSV"])
def test_pil_images_of_every_mode_and_left_as_they_were(mode: str) -> None:
    source = picture("L").convert(mode) if mode in ("LA", "PA") else picture().convert(mode)
    before = source.tobytes()
    image = read_image(source)
    assert image.mode == "RGB" and type(image) is Image.Image
    image.paste((1, 2, 3), (0, 0, 6, 9))
    assert source.mode == mode and source.tobytes() == before


def test_alpha_is_dropped_not_blended() -> None:
    pixels = np.dstack([seeded.image("small", 9, 6), np.arange(54, dtype=np.uint8).reshape(9, 6)])
    for image in (
        read_image(Image.fromarray(pixels)),
        read_image(encode(Image.fromarray(pixels), "PNG")),
        read_image(pixels, channel_order="rgb"),
        read_image(pixels[:, :, [2, 1, 0, 3]], channel_order="bgr"),
    ):
        assert np.array_equal(np.asarray(image), pixels[:, :, :3])


def test_transparent_palettes_keep_their_colours_without_a_warning() -> None:
    drawn = Image.fromarray(seeded.image("palette", 80, 40))
    palette = drawn.convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    expected = np.asarray(palette.convert("RGB"))
    for transparency in (3, bytes(range(0, 160, 10))):
        with Image.open(io.BytesIO(encode(palette, "PNG", transparency=transparency))) as source:
            assert np.array_equal(np.asarray(read_image(source)), expected)
            assert source.info["transparency"] == transparency
        encoded = encode(palette, "PNG", transparency=transparency)
        assert np.array_equal(np.asarray(read_image(encoded)), expected)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 128, 129, 257, 300, 32896, 65535]], dtype=np.uint16)
    expected = np.array([0, 0, 1, 1, 1, 128, 255])  # round(v / 257)
    source = Image.fromarray(values)
    for image in (
        read_image(source),
        read_image(encode(source, "PNG")),
        read_image(encode(source, "TIFF")),
    ):
        assert np.array_equal(np.asarray(image)[0, :, 0], expected)
    swapped = Image.frombytes("I;16B", (7, 1), values.astype(">u2").tobytes())
    assert np.array_equal(np.asarray(read_image(swapped))[0, :, 1], expected)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_refused(mode: str) -> None:
    for source in (Image.new(mode, (2, 2)), encode(Image.new(mode, (2, 2)), "TIFF")):
        with pytest.raises(ImageError, match=r"32-bit pixels.*8 bits"):
            read_image(source)


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        encoded = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        red, _, blue = read_image(encoded).getpixel((0, 0))  # type: ignore[misc]
        assert red > 250 and blue < 5, kind


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_of_files_is_applied_once(
    kind: str, orientation: int, tmp_path: Path
) -> None:
    upright = picture("L", 24, 40)  # grey and by 8: little JPEG noise, and no chroma to smear
    turns: list[Callable[[Array], Array]] = [
        *(lambda a: a, np.fliplr, lambda a: np.rot90(a, 2), np.flipud, np.transpose),
        *(np.rot90, lambda a: np.rot90(a, 2).T, lambda a: np.rot90(a, 3)),
    ]
    stored = turns[orientation - 1](np.asarray(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}
    encoded = encode(Image.fromarray(stored), kind, exif=exif, **options.get(kind, {}))
    path = tmp_path / "turned"
    path.write_bytes(encoded)
    for source in (encoded, path, str(path)):
        image = read_image(source)
        assert image.size == upright.size
        assert np.abs(np.asarray(image)[:, :, 0].astype(int) - np.asarray(upright)).max() <= 3
        assert np.array_equal(np.asarray(read_image(image)), np.asarray(image))
        assert image.info == {} and image.getexif().get(0x0112) is None
    if kind != "TIFF":  # Pillow itself turns those
        with Image.open(path) as opened:
            assert read_image(opened).size == opened.size


def test_one_pixel_is_a_picture() -> None:
    assert read_image(encode(Image.new("RGB", (1, 1), "red"), "PNG")).getpixel((0, 0)) == (
        255,
        0,
        0,
    )
    assert to_pixels(read_image(np.zeros((1, 1), np.uint8)), (4, 2)).shape == (4, 2, 3)


def test_arrays_say_their_channel_order() -> None:
    pixels = seeded.image("small", 9, 6)
    assert np.array_equal(np.asarray(read_image(pixels, channel_order="rgb")), pixels)
    assert np.array_equal(np.asarray(read_image(pixels, channel_order="bgr")), pixels[:, :, ::-1])
    for channels in (3, 4):
        with pytest.raises(ImageError, match='channel_order="rgb" or "bgr"'):
            read_image(np.zeros((4, 4, channels), np.uint8))
    with pytest.raises(ImageError, match="channel_order"):
        read_image(pixels, channel_order="BGR")  # type: ignore[arg-type]


def test_grey_arrays_need_no_channel_order_and_views_are_copied() -> None:
    grey = seeded.image("small", 9, 6)[::2, ::-1, 0]
    for source in (grey, grey[:, :, None]):
        image = read_image(source)
        assert np.array_equal(np.asarray(image), np.dstack([grey] * 3))
    pixels = seeded.image("small", 9, 6)
    image = read_image(pixels, channel_order="rgb")
    pixels[:] = 0
    assert np.asarray(image).any()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32>: pixels must be uint8, 0-255; multiply a 0-1"),
        (np.zeros((4, 4, 3), np.int64), "int64>: pixels must be uint8, 0-255$"),
        (np.zeros((4, 4), bool), "must be uint8"),
        (np.zeros((3, 8, 5), np.uint8), r"\(3, 8, 5\).*must be \(H, W\).*move the channels last"),
        (np.zeros((4, 4, 2), np.uint8), r"must be \(H, W\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"must be \(H, W\)"),
        (np.zeros(4, np.uint8), r"must be \(H, W\)"),
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


@pytest.mark.parametrize(
    "limits", [{"max_bytes": 0}, {"max_pixels": -1}, {"timeout_s": 0.0}, {"max_redirects": -1}]
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
        ".": "is a folder; list its pictures with find_images",
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


@pytest.mark.parametrize("source", [None, 3, ["a.jpg"], bytearray(b"x"), object()])
def test_other_types_are_refused(source: Any) -> None:
    with pytest.raises(
        ImageError, match="is no path, URL, bytes, PIL image or NumPy array"
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


def test_content_hashes(tmp_path: Path) -> None:
    encoded = encode(picture(), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(encoded)
    assert content_hash(path) == content_hash(str(path)) == content_hash(encoded)
    assert content_hash(b"abc").startswith("ba7816bf8f01cfea")  # FIPS 180-2, appendix B.1
    pixels = np.asarray(picture())
    palette = picture("L").convert("P")
    other = palette.copy()
    other.putpalette([255 - value for value in palette.getpalette() or []])
    variants: list[ImageInput] = [
        *(picture(), picture("L"), picture().rotate(180), palette, other),
        *(pixels, pixels.reshape(6, 9, 3), pixels[::-1], pixels.view(np.int8)),
    ]
    assert len({content_hash(each) for each in variants}) == len(variants)
    assert content_hash(picture()) == content_hash(picture())
    assert content_hash(np.asfortranarray(pixels)) == content_hash(pixels)
    with pytest.raises(ImageError, match="no such file"):
        content_hash(tmp_path / "missing.png")


def test_resizing_is_pillows_bilinear_and_the_result_is_its_own() -> None:
    image = read_image(seeded.image("resize", 77, 31), channel_order="rgb")
    pixels = to_pixels(image, (64, 32))
    expected = np.asarray(image.resize((32, 64), Image.Resampling.BILINEAR))
    assert np.array_equal(pixels, expected)
    pixels[:] = 0  # writable
    same = to_pixels(image, (77, 31))
    same[:] = 0
    assert np.asarray(image).any()
    grey = to_pixels(Image.new("L", (3, 3), 7), (2, 2))
    assert grey.shape == (2, 2, 3) and (grey == 7).all()


def test_normalising_matches_the_formula_bit_for_bit() -> None:
    generator = np.random.default_rng(3)
    batch = generator.integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    batch[0, :2, :2] = [[[0] * 3, [255] * 3]] * 2
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    out = normalise(batch, mean, std)
    assert out.shape == (2, 3, 5, 4) and out.dtype == np.float32 and out.flags.c_contiguous
    for index, value in np.ndenumerate(batch):
        b, row, column, channel = index
        scaled = np.float32(value) / np.float32(255) - np.float32(mean[channel])
        assert out[b, channel, row, column] == scaled / np.float32(std[channel])
    halves = normalise(batch, (0.5,) * 3, (0.5,) * 3)
    assert halves.min() == -1 and halves.max() == 1
    assert normalise(batch[:0], mean, std).shape == (0, 3, 5, 4)


@pytest.mark.parametrize(
    "batch",
    [np.zeros((5, 4, 3), np.uint8), np.zeros((1, 3, 5, 4), np.uint8), np.zeros((1, 5, 4, 3))],
)
def test_normalising_takes_only_pixels(batch: Array) -> None:
    with pytest.raises(UsageError, match=r"uint8 \(B, H, W, 3\)"):
        normalise(batch, (0.5,) * 3, (0.5,) * 3)


def touch(root: Path, *names: str) -> list[Path]:
    paths = [root / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_images_are_found_sorted_by_suffix_of_any_case(tmp_path: Path) -> None:
    wanted = touch(
        tmp_path, "b/2.JPG", "a.png", "b/1.jpeg", "c.Tiff", "b/c/d.webp", "e.gif", "f.bmp"
    )
    touch(tmp_path, "notes.txt", "Thumbs.db", "jpg", "a.jpg.part", "._a.jpg", ".cache/x.jpg")
    assert find_images(tmp_path) == sorted(wanted)
    assert find_images(str(tmp_path), recursive=False) == sorted(
        path for path in wanted if path.parent == tmp_path
    )
    hidden = tmp_path / ".cache"  # a hidden folder asked for by name is no secret
    assert find_images(hidden) == [hidden / "x.jpg"]


def test_loops_of_links_end_and_each_folder_counts_once(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (real,) = touch(root, "sub/a.jpg")
    touch(outside, "b.jpg")
    (root / "sub" / "up").symlink_to(root)
    (root / "aaa").symlink_to(root / "sub")
    (root / "link").symlink_to(outside)
    (root / "later").symlink_to(root / "link")
    (root / "zlink").symlink_to(outside)
    (outside / "back").symlink_to(root)
    (root / "c.jpg").symlink_to(outside / "b.jpg")
    assert find_images(root) == [root / "c.jpg", root / "later" / "b.jpg", real]
    entrance = tmp_path / "entrance"
    entrance.symlink_to(outside)
    assert entrance / "b.jpg" in find_images(entrance)


def test_folders_without_pictures_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "deep/a.jpg", "empty/notes.txt")
    for folder, options, message in (
        (tmp_path / "missing", {}, "missing: there is no such folder"),
        (tmp_path / "deep/a.jpg", {}, r"a\.jpg: is a file; a folder of pictures is expected"),
        (tmp_path / "empty", {}, "empty: holds no JPEG, PNG, WebP, BMP, GIF or TIFF file$"),
        (tmp_path, {"recursive": False}, "holds no .* file; its subfolders were not searched"),
    ):
        with pytest.raises(UsageError, match=message):
            find_images(folder, **options)

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match=r"cannot be listed \(Permission denied\)"):
        find_images(tmp_path)


def test_importing_brings_neither_torch_nor_an_http_client() -> None:
    code = "import sys, passreid.images; print({'torch', 'httpx', 'httpcore'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_pillow_is_left_as_it_was() -> None:
    assert Image.MAX_IMAGE_PIXELS == 89_478_485 and not ImageFile.LOAD_TRUNCATED_IMAGES
