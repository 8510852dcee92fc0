"""Packing a folder into shards, and reading pictures out of shards by their place."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest

from passreid.data import filelist
from passreid.data.filelist import FileList
from passreid.data.shards import INDEX, pack, read_range
from passreid.errors import DatasetError, ImageError, UsageError
from passreid.images import read_image
from tests.pretraining.tiny import write_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "in" / "a", 3)
    return write_images(tmp_path / "in" / "ü" / ("long" * 40), 4, seed=1).parents[1]


def assert_same_pictures(files: FileList, folder: Path) -> None:
    paths = sorted(folder.rglob("*.png"))
    assert len(files) == len(paths)
    for index, path in enumerate(paths):
        np.testing.assert_array_equal(np.asarray(files.read(index)), np.asarray(read_image(path)))
        assert files.name(index).endswith(path.relative_to(folder).as_posix())


def test_packed_pictures_come_back_in_order(folder: Path, tmp_path: Path) -> None:
    packed = pack(folder, tmp_path / "out", per_shard=3)
    assert packed == (3, 7, {})
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [INDEX, "shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    files = FileList.find(tmp_path / "out")
    assert_same_pictures(files, folder)
    (tmp_path / "out" / INDEX).unlink()
    assert FileList.find(tmp_path / "out").text == files.text  # found again by scanning


def test_packing_again_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "shard-000009.tar").touch()  # left by a packing that was stopped
    for name in "xy":
        pack(folder, tmp_path / name, per_shard=4)
    assert len(list((tmp_path / "y").iterdir())) == 3
    for path in (tmp_path / "x").iterdir():
        assert path.read_bytes() == (tmp_path / "y" / path.name).read_bytes()


# WebDataset leaves files open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_what_was_packed_and_we_read_what_it_writes(
    folder: Path, tmp_path: Path
) -> None:
    webdataset = pytest.importorskip("webdataset")
    (folder / "a" / "0000.v2.png").write_bytes((folder / "a" / "0000.png").read_bytes())
    pack(folder, tmp_path / "out")
    shard = str(tmp_path / "out" / "shard-000000.tar")
    samples = list(webdataset.WebDataset(shard, shardshuffle=False))
    assert len({sample["__key__"] for sample in samples}) == 8
    assert all(sample["png"].startswith(b"\x89PNG") for sample in samples)
    with webdataset.TarWriter(str(tmp_path / "theirs.tar")) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"{number:03d}", "png": sample["png"], "json": {"pid": 1}})
    files = FileList.find(tmp_path / "theirs.tar")
    assert len(files) == 8
    assert [files.read(i).size for i in range(8)] == [(24, 48)] * 8


def test_shards_and_pictures_lie_side_by_side(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(folder / "a" / "x.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(folder / "a" / "0000.png", "deep/0000.PNG")
        tar.addfile(tarfile.TarInfo("deep/0000.json"), io.BytesIO())
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    files = FileList.find(folder)
    assert len(files) == 8
    assert files.name(7) == f"{folder}/a/x.tar/deep/0000.PNG"
    assert files.read(7).size == (24, 48)
    (tmp_path / "list.txt").write_text("in/a/0001.png\nin/a/x.tar\n")
    assert len(FileList.find(tmp_path / "list.txt")) == 2


def test_unreadable_pictures_are_left_out_and_listed(folder: Path, tmp_path: Path) -> None:
    (folder / "a" / "0001.png").write_bytes(b"no picture")
    packed = pack(folder, tmp_path / "out", per_shard=5)
    assert (packed.shards, packed.images) == (2, 6)
    listed = (tmp_path / "out" / "unreadable.txt").read_text()
    assert listed.startswith(f"{folder / 'a' / '0001.png'}\tis not a JPEG")
    assert len(FileList.find(tmp_path / "out")) == 6


def test_what_cannot_be_packed_is_said(tmp_path: Path) -> None:
    write_images(tmp_path / "in", 1)
    with pytest.raises(UsageError, match="at least one"):
        pack(tmp_path / "in", tmp_path / "out", per_shard=0)
    pack(tmp_path / "in", tmp_path / "done")
    with pytest.raises(UsageError, match="already holds packed shards"):
        pack(tmp_path / "in", tmp_path / "done")
    (tmp_path / "in" / "0000.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="none of its 1 images"):
        pack(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "in", 2)
    (folder / "0000.png").rename(os.fsdecode(bytes(folder) + b"/caf\xe9.png"))
    assert_same_pictures(FileList.find(folder), folder)
    assert_same_pictures(FileList.of(sorted(folder.iterdir())), folder)
    pack(folder, tmp_path / "out")
    assert_same_pictures(FileList.find(tmp_path / "out"), folder)


def test_packed_names_are_keys_that_webdataset_takes(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "in", 1)
    (folder / "0000.png").rename(folder / "b\tc.d.PNG")
    pack(folder, tmp_path / "out")
    assert FileList.find(tmp_path / "out").name(0).endswith("shard-000000.tar/b_c_d.png")


def test_a_range_ends_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    assert read_range(str(tmp_path / "x"), 7, 3) == b"789"
    with pytest.raises(OSError, match="ends after 10 bytes"):
        read_range(str(tmp_path / "x"), 7, 4)


def test_a_whole_path_of_windows_is_not_below_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filelist, "Path", PureWindowsPath)
    files = FileList("D:\\crops", b"C:\\a.jpg\nb\\c.jpg\n")
    assert [files.name(0), files.name(1)] == ["C:\\a.jpg", "D:\\crops/b\\c.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "expected a text file"),
        (b"a.jpg\nb.jpg\t7\n", r"index in each line; 'b\.jpg\t7' is not one"),
        (b"x.tar\t512\tmany\ta.jpg\n", r"'x\.tar\t512\tmany\ta\.jpg' is not one"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "list.txt").write_bytes(text)
    with pytest.raises(DatasetError, match=message):
        FileList.find(tmp_path / "list.txt")


def test_empty_lines_of_a_list_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\na.jpg\n\n\r\nb.jpg\n\n")
    files = FileList.find(tmp_path / "list.txt")
    assert [files[i] for i in range(len(files))] == ["a.jpg", "b.jpg"]


def test_what_is_no_plain_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(DatasetError, match="not an uncompressed tar"):
        FileList.find(tmp_path)
    with tarfile.open(tmp_path / "x.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(DatasetError, match="not an uncompressed tar"):
        FileList.find(tmp_path)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(DatasetError, match="lists no image"):
        FileList.find(tmp_path)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a\tb.png"))
    with pytest.raises(DatasetError, match=r"x\.tar/a\\tb\.png: contains a tab"):
        FileList.find(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "gone", "index", "picture"])
def test_damage_is_said_of_the_one_picture(folder: Path, tmp_path: Path, damage: str) -> None:
    pack(folder, tmp_path / "out")
    shard, files = tmp_path / "out" / "shard-000000.tar", FileList.find(tmp_path / "out")
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:700])
    elif damage == "gone":
        shard.unlink()
    elif damage == "index":
        files = FileList(files.root, b"shard-000000.tar\tx\t3\ta.png\n")
    else:
        shard.write_bytes(shard.read_bytes().replace(b"\x89PNG", b"none"))
    with pytest.raises(ImageError, match=r"shard-000000\.tar/a"):
        files.read(0)


def test_shards_in_object_storage(folder: Path, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    pack(folder, tmp_path / "out", per_shard=4)
    memory = fsspec.filesystem("memory")
    memory.put(f"{tmp_path}/out", "/bucket/crops", recursive=True)
    memory.pipe("/bucket/shards.txt", b"memory://bucket/crops/shard-000001.tar\n")
    try:
        files = FileList.find(Path("memory://bucket/crops"))
        assert_same_pictures(files, folder)
        assert len(FileList.find(Path("memory://bucket/shards.txt"))) == 3
        again = FileList.again(Path("memory://bucket/crops"), files.text)
        assert again.read(6).size == (24, 48)
        assert len(FileList.find(Path("memory://bucket/crops/shard-000000.tar"))) == 4
        memory.pipe("/bucket/list.txt", b"crops/shard-000001.tar\n")
        assert FileList.find(Path("memory://bucket/list.txt")).read(2).size == (24, 48)
    finally:
        memory.rm("/bucket", recursive=True)
    with pytest.raises(UsageError, match="memory://bucket/none: there is no such object"):
        FileList.find(Path("memory://bucket/none"))
    with pytest.raises(UsageError, match=r"nonsense.*cannot be reached"):
        FileList.find(Path("nonsense://bucket/x"))


@pytest.mark.parametrize(
    "shard",
    [
        "webhdfs://127.0.0.1:9/a.tar",
        "zip://z.zip::https://127.0.0.1:9/a.tar",
        "filecache::ftp://127.0.0.1:9/a.tar",
        "jupyter://a.tar",
    ],
)
def test_a_list_reaches_no_shard_of_another_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: str
) -> None:
    def reached(*_: object) -> None:
        raise AssertionError("a storage was opened")

    monkeypatch.setattr("fsspec.core.url_to_fs", reached)
    for line in (shard, f"{shard}\t512\t10\ta.png"):
        (tmp_path / "list.txt").write_text(f"{line}\n")
        with pytest.raises(DatasetError, match="is on another storage than the list that names it"):
            FileList.find(tmp_path / "list.txt")
