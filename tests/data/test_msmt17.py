"""MSMT17: lists, two versions that must not be confused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from passreid.data import read_dataset
from passreid.errors import DatasetError
from tests.data.trees import labels, note, touch

TRAIN = ("0000/0000_000_01_0303morning_0015_0.jpg", "0001/0001_004_15_0303noon_0030_1.jpg")
VAL = ("0000/0000_009_02_0303morning_0045_0.jpg",)
QUERY = ("0000/0000_001_03_0303morning_0015_0.jpg",)
GALLERY = ("0000/0000_002_14_0303morning_0015_0.jpg",)


def msmt17(root: Path, train: str = "train", test: str = "test") -> Path:
    touch(root, *(f"{train}/{name}" for name in TRAIN + VAL))
    touch(root, *(f"{test}/{name}" for name in QUERY + GALLERY))
    for part, names in {"train": TRAIN, "val": VAL, "query": QUERY, "gallery": GALLERY}.items():
        lines = "".join(f"{name} {int(name[:4])}\n" for name in names)
        (root / f"list_{part}.txt").write_text(lines)
    return root


def test_lists_give_people_and_names_cameras(tmp_path: Path) -> None:
    dataset = read_dataset(msmt17(tmp_path))
    assert dataset.kind == "msmt17"
    assert labels(dataset, "train") == [
        (Path(TRAIN[0]).name, 0, 0),
        (Path(VAL[0]).name, 0, 1),
        (Path(TRAIN[1]).name, 1, 14),
    ]
    assert dataset.cameras[14] == "15"
    assert labels(dataset, "query") == [(Path(QUERY[0]).name, 0, 2)]
    assert labels(dataset, "gallery") == [(Path(GALLERY[0]).name, 0, 13)]


def test_val_is_part_of_train_and_said_to_be(tmp_path: Path) -> None:
    root = msmt17(tmp_path)
    said = "list_val is part of train, as in PASS; torchreid and fast-reid leave it out"
    assert said in read_dataset(root).notes
    (root / "list_val.txt").unlink()
    assert said not in read_dataset(root).notes
    assert len(read_dataset(root).train) == 2


def test_the_face_masked_version_is_named(tmp_path: Path) -> None:
    root = msmt17(tmp_path, "mask_train_v2", "mask_test_v2")
    dataset = read_dataset(root)
    assert dataset.kind == "msmt17-v2"
    assert note(dataset, "not comparable with those on V1")
    assert read_dataset(root, "msmt17-v2") == dataset
    with pytest.raises(DatasetError, match=r"looks like kind .msmt17-v2."):
        read_dataset(root, "msmt17")
    msmt17(root)  # both versions in one folder
    assert read_dataset(root, "msmt17").query[0].path.parts[-3] == "test"


def test_the_part_to_measure_on_may_lie_there_alone(tmp_path: Path) -> None:
    root = msmt17(tmp_path)
    for path in ("list_train.txt", "list_val.txt"):
        (root / path).unlink()
    shutil.rmtree(root / "train")
    dataset = read_dataset(root)
    assert (dataset.kind, dataset.train, len(dataset.query)) == ("msmt17", (), 1)


def test_listed_files_that_are_missing_are_named_and_counted(tmp_path: Path) -> None:
    root = msmt17(tmp_path)
    (root / "train" / TRAIN[1]).unlink()
    with pytest.raises(DatasetError, match=r"list_train\.txt lists 1 files .*0303noon_0030_1\.jpg"):
        read_dataset(root)


@pytest.mark.parametrize(
    "line",
    [
        "0000/x.jpg 0",
        "0000/0000_000.jpg 0",
        "0000/0000_000_a_1.jpg 0",
        "0000/0000_000_01_a.jpg",
        "a_b_1.jpg zero",
    ],
)
def test_a_line_that_is_no_path_and_pid_is_named(tmp_path: Path, line: str) -> None:
    root = msmt17(tmp_path)
    with (root / "list_query.txt").open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(DatasetError, match=r"list_query\.txt, line 3"):
        read_dataset(root)


def test_a_list_that_is_not_text_is_refused(tmp_path: Path) -> None:
    root = msmt17(tmp_path)
    (root / "list_query.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="not UTF-8"):
        read_dataset(root)


def test_a_named_kind_without_lists_says_which_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(DatasetError, match=r"list_train\.txt, list_val\.txt, list_query\.txt"):
        read_dataset(tmp_path, "msmt17")


def test_folders_may_be_in_another_case(tmp_path: Path) -> None:
    root = msmt17(tmp_path, "mask_train_V2", "mask_test_V2")
    assert (read_dataset(root).kind, len(read_dataset(root).query)) == ("msmt17-v2", 1)


def test_lists_written_with_backslashes_are_read(tmp_path: Path) -> None:
    expected = read_dataset(msmt17(tmp_path))
    for listing in tmp_path.glob("list_*.txt"):
        listing.write_text(listing.read_text().replace("/", "\\").replace("\n", "\r\n"))
    assert read_dataset(tmp_path) == expected
