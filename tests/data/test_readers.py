"""Recognising a layout: tell-tale files, the folder around a set, and what to say otherwise."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from passreid.data import READERS, read_dataset
from passreid.errors import DatasetError, UsageError
from tests.data import trees
from tests.data.trees import touch


def test_the_set_may_lie_one_folder_deeper(tmp_path: Path) -> None:
    root = trees.market(tmp_path / "data" / "Market-1501-v15.09.15")
    touch(tmp_path / "data", "other/readme.txt")
    (tmp_path / "data" / "list.csv").write_text("path,pid\n")
    dataset = read_dataset(tmp_path / "data")
    assert dataset == read_dataset(root)
    assert dataset.name == "Market-1501-v15.09.15"
    assert read_dataset(tmp_path / "data", "market1501") == dataset


def test_people_may_lie_one_folder_deeper(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "crops/ada/1.jpg", "crops/ada/2.jpg")
    assert read_dataset(root).root == root / "crops"


def test_several_sets_in_one_folder_are_listed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        trees.market(tmp_path / name)
    with pytest.raises(DatasetError, match=r"a \(market1501\), b \(market1501\)"):
        read_dataset(tmp_path)


def test_the_error_lists_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="It is empty") as error:
        read_dataset(tmp_path)
    for kind, reader in READERS.items():
        assert f"{kind}: {reader.contents}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flat/1.jpg", "1 images, but nothing says who"),
        ("flat", "It is a file, and not a CSV file"),
        ("elsewhere", "flat does not exist"),
    ],
)
def test_the_error_says_what_lies_there_instead(tmp_path: Path, name: str, message: str) -> None:
    touch(tmp_path, name)
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path / "flat")


def test_an_unknown_kind_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'market'.*market1501"):
        read_dataset(tmp_path, "market")


def test_a_path_may_be_text_and_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.market(tmp_path / "toy")
    monkeypatch.chdir(tmp_path / "toy")
    assert read_dataset(".").name == "toy"


def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.market(tmp_path)

    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DatasetError, match=r"cannot be read \(Permission denied\)"):
        read_dataset(tmp_path)


def test_reading_a_set_needs_neither_torch_nor_pillow(tmp_path: Path) -> None:
    trees.market(tmp_path)
    code = (
        "import sys; from passreid.data import read_dataset; read_dataset(sys.argv[1]);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'PIL')))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(run, env=environment, check=False).returncode == 0


def test_one_subset_given_as_the_set_is_sent_to_its_parent(tmp_path: Path) -> None:
    root = trees.market(tmp_path / "set")
    with pytest.raises(DatasetError, match=r"only the folder query of a market1501 data set: give"):
        read_dataset(root / "query")
    people = touch(tmp_path / "own", "query/ada/1.jpg", "gallery/ada/1.jpg", "gallery/ada/2.jpg")
    assert trees.note(read_dataset(people / "gallery"), f"one part of the data set in {people}")


def test_the_mat_file_of_cuhk03_is_refused_with_what_to_get_instead(tmp_path: Path) -> None:
    touch(tmp_path, "cuhk-03.mat")
    with pytest.raises(DatasetError, match="download the CUHK03-NP folders"):
        read_dataset(tmp_path)
