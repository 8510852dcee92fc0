"""Every input gives RGB pixels, those of the original's run."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from passreid.errors import ImageError
from passreid.images import read_image, to_pixels
from tests import seeded
from tests.images.pictures import GOLDEN, GOLDEN_NAMES, Array, encode, golden_input, picture
from tests.images.tiffs import tiff


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


def png16(values: Array, colour: int) -> bytes:
    """A 16-bit PNG of (H, W, channels), of colour type 0 (grey), 2, 4 (grey, alpha) or 6."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_fewer_bits_in_a_16_bit_file_are_refused_not_embedded_black(
    bits: int, channels: int
) -> None:
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    values = np.full((2, 3, channels), 65_535)
    values[:, :, : 3 if channels > 2 else 1] = 2**bits - 1
    with pytest.raises(ImageError, match=r"has 16-bit pixels, but none reaches 16,384 of 65,535"):
        read_image(png16(values, colour))
    values[0, 0, 0] = 65_535
    assert read_image(png16(values, colour)).getpixel((0, 0))[0] == 255  # type: ignore[index]


def test_fewer_bits_in_other_16_bit_pictures_are_refused_too() -> None:
    twelve = np.array([[0, 4095], [17, 2048]], np.uint16)
    colour = np.repeat(twelve, 3).tobytes()
    for source in (
        Image.fromarray(twelve),
        tiff(2, 2, twelve.tobytes(), bits=16),
        tiff(2, 2, twelve.tobytes(), bits=16, photometric=0),
        tiff(2, 2, twelve.astype(">u2").tobytes(), bits=16, order=">"),
        tiff(2, 2, colour, bits=16, samples=3, photometric=2),
    ):
        with pytest.raises(ImageError, match="unscaled 10-, 12- or 14-bit values"):
            read_image(source)


def test_a_tiff_that_declares_12_bits_is_scaled_by_them() -> None:
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x00])  # 0, 4095, 2048, 0
    image = np.asarray(read_image(tiff(4, 1, packed, bits=12)))
    assert image[0, :, 0].tolist() == [0, 255, 128, 0]


def test_a_16_bit_tiff_whose_white_is_zero_is_turned_positive() -> None:
    values = np.array([[0, 65535, 32768]], np.uint16).tobytes()
    negative, positive = (
        np.asarray(read_image(tiff(3, 1, values, bits=16, photometric=each)))[0, :, 0].tolist()
        for each in (0, 1)
    )
    assert (negative, positive) == ([255, 0, 127], [0, 255, 128])


@pytest.mark.parametrize(
    ("bits", "sample_format", "samples", "reason"),
    [
        (16, 2, 1, "signed or 32-bit pixels, whose range is unknown"),
        (32, 1, 1, "signed or 32-bit pixels, whose range is unknown"),
        (16, 3, 1, "pixels are of a kind that is not read"),
        (64, 3, 1, "pixels are of a kind that is not read"),
        (32, 3, 3, "pixels are of a kind that is not read"),
    ],
)
def test_pixels_of_other_kinds_are_not_called_damaged(
    bits: int, sample_format: int, samples: int, reason: str
) -> None:
    encoded = tiff(
        2,
        2,
        bytes(4 * samples * bits // 8),
        bits=bits,
        samples=samples,
        sample_format=sample_format,
        photometric=2 if samples == 3 else 1,
    )
    with pytest.raises(ImageError, match=rf"{reason}; save it with 8 bits"):
        read_image(encoded)
