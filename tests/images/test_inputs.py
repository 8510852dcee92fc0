"""Files, buffers and tensors: a picture, or one sentence on how to pass it."""

from __future__ import annotations

import array
import io
import mmap
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from passreid.errors import ImageError
from passreid.images import content_hash, describe, read_image
from tests.images.pictures import encode, picture
from tests.small import colours

ENCODED = encode(picture(), "PNG")


class Dripping(io.RawIOBase):
    """A stream that cannot seek and gives a few bytes at a time, as a socket does."""

    def __init__(self) -> None:
        self._left = io.BytesIO(ENCODED)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._left.read(min(7, len(buffer)))
        buffer[: len(block)] = block
        return len(block)


def at_its_end(folder: Path) -> Any:
    file = io.BytesIO()
    file.write(ENCODED)
    return file


def opened(folder: Path) -> Any:
    (folder / "a.png").write_bytes(ENCODED)
    return (folder / "a.png").open("rb")


def zipped(folder: Path) -> Any:
    with zipfile.ZipFile(folder / "a.zip", "w") as packed:
        packed.writestr("a.png", ENCODED)
    return zipfile.ZipFile(folder / "a.zip").open("a.png")


def tarred(folder: Path) -> Any:
    with tarfile.open(folder / "a.tar", "w") as packed:
        member = tarfile.TarInfo("a.png")
        member.size = len(ENCODED)
        packed.addfile(member, io.BytesIO(ENCODED))
    return tarfile.open(folder / "a.tar").extractfile("a.png")


def mapped(folder: Path) -> Any:
    with opened(folder) as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


MAKERS: list[Callable[[Path], Any]] = [
    lambda _: io.BytesIO(ENCODED),
    lambda _: bytearray(ENCODED),
    lambda _: memoryview(ENCODED),
    lambda _: memoryview(b"x" + ENCODED)[1:],
    lambda _: array.array("B", ENCODED),
    lambda _: Dripping(),
    *(at_its_end, opened, zipped, tarred, mapped),
]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # archives that are left open above
@pytest.mark.parametrize("make", MAKERS)
def test_buffers_and_open_files_are_one_picture(
    make: Callable[[Path], Any], tmp_path: Path
) -> None:
    expected = np.asarray(picture())
    assert np.array_equal(np.asarray(read_image(make(tmp_path))), expected)
    assert content_hash(make(tmp_path)) == content_hash(ENCODED)
    rows = colours()([ENCODED])
    assert np.array_equal(colours()(make(tmp_path)), rows)
    assert np.array_equal(colours()([make(tmp_path), ENCODED]), np.repeat(rows, 2, axis=0))


def test_a_file_is_read_again_from_its_beginning() -> None:
    file = io.BytesIO(ENCODED)
    assert content_hash(file) == content_hash(file)
    assert read_image(file).size == (6, 9)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: io.StringIO("text"), "does not give bytes; open it in binary mode"),
        (lambda _: io.BytesIO(), "is empty"),
        (lambda _: bytearray(), "is empty"),
        (lambda _: np.zeros((4, 4, 3), np.uint8).data, r"pass pixels as numpy\.asarray"),
        (lambda _: array.array("d", [1.0]), r"pass pixels as numpy\.asarray"),
        (lambda _: memoryview(b"hello"), "is not a JPEG, PNG"),
    ],
)
def test_files_and_buffers_without_a_picture(
    make: Callable[[Path], Any], reason: str, tmp_path: Path
) -> None:
    for read in (read_image, colours()):
        with pytest.raises(ImageError, match=reason):
            read(make(tmp_path))


def test_closed_and_text_files_say_so(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.close()
    with pytest.raises(ImageError, match=r"<BufferedReader .*a\.png>: cannot be read \(.*closed"):
        read_image(file)
    with (
        (tmp_path / "a.png").open(encoding="utf-8") as text,
        pytest.raises(ImageError, match=r"a\.png>: cannot be read.*in binary mode"),
    ):
        read_image(text)  # type: ignore[arg-type]


def test_tensors_are_told_how_to_become_pictures() -> None:
    torch = pytest.importorskip("torch")
    for tensor in (
        torch.zeros(3, 9, 6),
        torch.zeros(2, 3, 9, 6, dtype=torch.uint8),
        torch.zeros(9, 6, 3, dtype=torch.uint8),
    ):
        shape = ", ".join(map(str, tensor.shape))
        for read in (read_image, colours()):
            with pytest.raises(
                ImageError, match=rf"<Tensor, shape \({shape}\), torch\..*permute\(1, 2, 0\)"
            ):
                read(tensor)
    pixels = torch.from_numpy(np.array(picture())).permute(2, 0, 1)
    image = read_image(pixels.permute(1, 2, 0).numpy(), channel_order="rgb")
    assert np.array_equal(np.asarray(image), np.asarray(picture()))


def test_an_array_of_paths_is_a_list_of_pictures(tmp_path: Path) -> None:
    paths = []
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(ENCODED)
        paths.append(str(tmp_path / name))
    expected = colours()(paths)
    assert np.array_equal(colours()(np.array(paths)), expected)
    assert np.array_equal(colours()(np.array(paths, dtype=object)), expected)


def test_descriptions_name_open_files_and_sizes(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        assert describe(file) == f"<BufferedReader {tmp_path / 'a.png'}>"
    assert describe(io.BytesIO(ENCODED)) == "<BytesIO>"
    assert describe(bytearray(b"123")) == "<3 bytes>"
