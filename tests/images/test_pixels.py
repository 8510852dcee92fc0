"""Hashes, resizing, normalising, and finding pictures in folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from passreid.errors import ImageError, UsageError
from passreid.images import ImageInput, content_hash, normalise, read_image, to_pixels
from passreid.listing import find_images
from tests import seeded
from tests.images.pictures import Array, encode, picture, touch


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
        *(
            Image.frombytes(*each, picture().tobytes())
            for each in (("HSV", (6, 9)), ("RGB", (9, 6)))
        ),
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


def test_images_are_found_sorted_by_suffix_of_any_case(tmp_path: Path) -> None:
    wanted = touch(
        tmp_path, "b/2.JPG", "a.png", "b/1.jpeg", "c.Tiff", "b/c/d.webp", "e.gif", "f.bmp", "g.HEIC"
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
        (tmp_path / "deep/a.jpg", {}, r"a\.jpg: is a file; a folder of images is expected"),
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
