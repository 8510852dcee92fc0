"""A user's own images: folders of people, and CSV files."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from passreid.data import read_dataset
from passreid.data.build import Row, split_query
from passreid.errors import DatasetError
from tests.data.trees import labels, note, touch


def test_folders_without_a_split_are_for_searching(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "people",
        "ada/a_c1.jpg",
        "ada/b_c1.jpg",
        "ada/c_c2.jpg",
        "ada/more/d_cam2.png",
        "bob/only.jpg",
        "notes/readme.txt",
        ".thumbnails/a.jpg",
    )
    dataset = read_dataset(root)
    assert (dataset.kind, dataset.name) == ("folders", "people")
    assert dataset.people == {1: "ada", 2: "bob"}
    assert dataset.cameras == {0: "1", 1: "2"}
    assert labels(dataset, "query") == [("a_c1.jpg", 1, 0), ("c_c2.jpg", 1, 1)]
    assert labels(dataset, "gallery") == [
        ("b_c1.jpg", 1, 0),
        ("d_cam2.png", 1, 1),
        ("only.jpg", 2, -1),
    ]
    assert dataset.train == ()
    assert note(dataset, "queries are not given")
    assert note(dataset, "camera of 1 of 5 images")


@pytest.mark.parametrize(
    ("name", "cameras"),
    [
        ("c3_1.jpg", ["3"]),
        ("a-CAM12.png", ["12"]),
        ("0002_c1s2_000451_03.jpg", ["1"]),
        ("9f_c3d9.jpg", []),  # a checksum
        ("abc3.jpg", []),
    ],
)
def test_the_camera_stands_in_the_files_name(tmp_path: Path, name: str, cameras: list[str]) -> None:
    dataset = read_dataset(touch(tmp_path, f"ada/{name}", "ada/other.jpg"))
    assert [*dataset.cameras.values()] == cameras


def test_folders_that_are_called_by_numbers_keep_them(tmp_path: Path) -> None:
    root = touch(tmp_path, "0012/a.jpg", "0012/b.jpg", "7/a.jpg")
    dataset = read_dataset(root)
    assert dataset.people == {}
    assert {sample.pid for sample in dataset.gallery} == {7, 12}
    assert note(dataset, "no cameras are known")


def test_two_names_of_one_number_are_two_people(tmp_path: Path) -> None:
    root = touch(tmp_path, "012/a.jpg", "12/a.jpg", "12/b.jpg")
    assert read_dataset(root).people == {1: "012", 2: "12"}


def test_two_names_of_one_number_are_two_cameras(tmp_path: Path) -> None:
    root = touch(tmp_path, "ada/a_c1.jpg", "ada/b_c01.jpg")
    assert read_dataset(root).cameras == {0: "01", 1: "1"}


def test_notes_call_people_by_their_names(tmp_path: Path) -> None:
    root = touch(tmp_path, "train/ada/1.jpg", "query/ada/2_c1.jpg", "gallery/ada/3_c1.jpg")
    dataset = read_dataset(root)
    for part in (
        "are also in train (pid ada)",
        "whom no other camera shows in the gallery (pid ada",
    ):
        assert note(dataset, part)


def test_loops_of_links_below_a_person_end(tmp_path: Path) -> None:
    root = touch(tmp_path / "people", "ada/a_c1.jpg", "ada/more/b_c2.jpg", "bob/c_c1.jpg")
    (root / "ada" / "more" / "up").symlink_to(root / "ada")
    dataset = read_dataset(root)
    found = labels(dataset, "query") + labels(dataset, "gallery")
    assert found == [("a_c1.jpg", 1, 0), ("b_c2.jpg", 1, 1), ("c_c1.jpg", 2, 0)]


def test_folders_may_be_split(tmp_path: Path) -> None:
    root = touch(
        tmp_path, "train/eve/1.jpg", "query/ada/1.jpg", "gallery/ada/2.jpg", "gallery/bob/1.jpg"
    )
    dataset = read_dataset(root)
    assert dataset.people == {1: "ada", 2: "bob", 3: "eve"}
    assert labels(dataset, "train") == [("1.jpg", 3, -1)]
    assert labels(dataset, "query") == [("1.jpg", 1, -1)]
    assert labels(dataset, "gallery") == [("2.jpg", 1, -1), ("1.jpg", 2, -1)]


def test_images_that_are_in_none_of_these_folders_are_not_lost_in_silence(tmp_path: Path) -> None:
    root = touch(tmp_path, "train/ada/1.jpg", "val/ada/2.jpg", "val/bob/3.jpg", "4.jpg")
    assert note(read_dataset(root), "images that are not read: in no folder (1), val (2)")
    people = read_dataset(touch(tmp_path / "people", "ada/1.jpg", "ada/2.jpg"))
    assert not [line for line in people.notes if "not read" in line]


def test_a_test_folder_is_split_into_query_and_gallery(tmp_path: Path) -> None:
    root = touch(tmp_path, "train/eve/1.jpg", "test/ada/1.jpg", "test/ada/2.jpg")
    dataset = read_dataset(root)
    assert [len(dataset.subset(s)) for s in ("train", "query", "gallery")] == [1, 1, 1]
    touch(root, "query/bob/1.jpg", "gallery/bob/2.jpg")
    dataset = read_dataset(root)
    assert [len(dataset.subset(s)) for s in ("train", "query", "gallery")] == [1, 2, 2]


def test_images_that_nobody_is_named_on_are_refused(tmp_path: Path) -> None:
    root = touch(tmp_path, "query/1.jpg", "gallery/2.jpg")
    with pytest.raises(DatasetError, match="nothing says who is on them"):
        read_dataset(root)


def test_people_with_one_image_each_leave_nothing_to_search(tmp_path: Path) -> None:
    root = touch(tmp_path, "ada/1.jpg", "bob/1.jpg")
    with pytest.raises(DatasetError, match="no person has two images"):
        read_dataset(root)


def test_named_kind_folders_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ada").mkdir()
    with pytest.raises(DatasetError, match="no folders with images"):
        read_dataset(tmp_path, "folders")


@pytest.mark.parametrize(
    ("cameras", "expected"),
    [
        ("00111", "02"),  # the first image of each camera with two
        ("001", "0"),  # camera 1 keeps its only image in the gallery
        ("102", "1"),  # no camera has two: the first camera's
        (["", "", ""], "0"),
        ("0", ""),
    ],
)
def test_queries_are_chosen_by_person_and_camera(cameras: list[str], expected: str) -> None:
    rows = [Row(Path(f"{i}.jpg"), "ada", "test", camera) for i, camera in enumerate(cameras)]
    found = split_query(random.sample(rows, len(rows)))
    assert [row.path.stem for row in found if row.subset == "query"] == [*expected]
    assert [row.path for row in found] == [row.path for row in rows]
    assert {row.subset for row in found} <= {"query", "gallery"}


def write_csv(root: Path, text: str, *, encoding: str = "utf-8") -> Path:
    touch(root, "img/a.jpg", "img/b.jpg", "img/c.jpg")
    file = root / "list.csv"
    file.write_bytes(text.encode(encoding))
    return file


def test_csv_with_all_columns(tmp_path: Path) -> None:
    lines = ("img/a.jpg,ada,3,Query", "img/b.jpg,ada,,gallery", "img/c.jpg,bob,-1,train")
    rows = "\n".join(("path,pid,camid,split", *lines))
    file = write_csv(tmp_path, rows)
    dataset = read_dataset(file)
    assert (dataset.kind, dataset.name) == ("csv", "list")
    assert dataset.people == {1: "ada", 2: "bob"}
    assert labels(dataset, "query") == [("a.jpg", 1, 3)]
    assert labels(dataset, "gallery") == [("b.jpg", 1, -1)]
    assert labels(dataset, "train") == [("c.jpg", 2, -1)]
    assert [s.path for s in read_dataset(tmp_path).query] == [s.path for s in dataset.query]
    assert note(dataset, "camera of 2 of 3 images is unknown")


@pytest.mark.parametrize("separator", [";", "\t"])
def test_csv_with_two_columns_as_a_spreadsheet_writes_it(tmp_path: Path, separator: str) -> None:
    rows = "Path; PID\r\nimg/a.jpg;5\r\n\r\n img/b.jpg ;5\r\nimg/c.jpg;-1\r\n"
    file = write_csv(tmp_path, rows.replace(";", separator), encoding="utf-8-sig")
    dataset = read_dataset(file.rename(tmp_path / "LIST.CSV"))
    assert labels(dataset, "query") == [("a.jpg", 5, -1)]
    assert labels(dataset, "gallery") == [("b.jpg", 5, -1)]
    assert dataset.people == {}
    (tmp_path / "LIST.CSV").rename(file)
    assert read_dataset(tmp_path).query == dataset.query


def test_csv_rows_may_end_early(tmp_path: Path) -> None:
    rows = "path,pid,camid,split\nimg/a.jpg,1,2\nimg/b.jpg,1\n"
    dataset = read_dataset(write_csv(tmp_path, rows))
    assert [s.camid for s in (*dataset.query, *dataset.gallery)] == [-1, 2]


def test_csv_may_list_a_query_in_the_gallery_too(tmp_path: Path) -> None:
    rows = "path,pid,split\nimg/a.jpg,1,query\nimg/a.jpg,1,gallery\n"
    dataset = read_dataset(write_csv(tmp_path, rows))
    assert note(dataset, "1 images are in both query and gallery (a.jpg)")


def test_csv_junk_is_counted(tmp_path: Path) -> None:
    for rows in (
        "path,pid,split\nimg/a.jpg,1,query\nimg/b.jpg,1,gallery\nimg/c.jpg,-1,gallery\n",
        "path,pid\nimg/a.jpg,1\nimg/b.jpg,1\nimg/c.jpg,-1\n",
    ):
        assert note(read_dataset(write_csv(tmp_path, rows)), "gallery: 1 junk images")


def test_csv_cameras_may_have_names(tmp_path: Path) -> None:
    rows = "path,pid,camid\nimg/a.jpg,1,hall\nimg/b.jpg,1,door\nimg/c.jpg,1,hall\n"
    dataset = read_dataset(write_csv(tmp_path, rows))
    assert {(s.path.name, s.camid) for s in (*dataset.query, *dataset.gallery)} == {
        ("a.jpg", 1),
        ("b.jpg", 0),
        ("c.jpg", 1),
    }
    assert dataset.cameras == {0: "door", 1: "hall"}


def test_csv_paths_may_be_absolute(tmp_path: Path) -> None:
    touch(tmp_path, "x/1.jpg", "x/2.jpg")
    rows = f"path,pid\n{tmp_path}/x/1.jpg,1\n{tmp_path}/x/2.jpg,1\n"
    assert read_dataset(write_csv(tmp_path / "lists", rows)).query[0].path == tmp_path / "x/1.jpg"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,pid\nimg/a.jpg,1\n", r"no column 'path'.*\['file', 'pid'\]"),
        ("path,person\nimg/a.jpg,1\n", "no column 'pid'"),
        ("", "no column 'path'"),
        ("path,pid\n", "lists no images"),
        ("path,pid,PID\nimg/a.jpg,1,2\n", "two columns 'pid'"),
        ("path,pid\nimg/a.jpg,1\nimg/b,c.jpg,1\n", "line 3: 3 fields for 2 columns"),
        ("path,pid\nimg/a.jpg,1\nimg/b.jpg\n", "line 3: pid is empty"),
        ("path,pid\n\n,1\n", "line 3: path is empty"),
        ("path,pid\nimg/a.jpg,1\nimg/b.jpg,-1\nimg/c.jpg,-1\n", "no person has two images"),
        ("path,pid,split\nimg/a.jpg,1,validation\n", "line 2: split is 'validation'"),
        ("path,pid\nimg/a.jpg,1\nimg/x.jpg,1\nimg/y.jpg,1\n", r"lists 2 files .*x\.jpg.*y\.jpg"),
        ("path,pid\nimg/a.jpg,1\n" + "x" * 200_000 + ",1\n", "line 3: not valid CSV"),
        (
            "path,pid\nimg/a.jpg,1\nimg/a.jpg,1\nimg/a.jpg,1\n",
            "line 3: img/a.jpg is also listed in line 2",
        ),
    ],
)
def test_csv_errors_name_the_file_and_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_dataset(write_csv(tmp_path, text))


def test_csv_that_is_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not UTF-8"):
        read_dataset(write_csv(tmp_path, "path,pid\nimg/é.jpg,1\n", encoding="latin-1"))


def test_another_csv_file_does_not_hide_the_folders(tmp_path: Path) -> None:
    root = touch(tmp_path, "ada/1.jpg", "ada/2.jpg")
    (root / "results.csv").write_text("rank,score\n1,0.5\n")
    (root / "notes.csv").write_text("Größe;Zahl\n1;2\n", encoding="latin-1")
    (root / "people.csv").mkdir()
    assert read_dataset(root).kind == "folders"


def test_a_folder_with_two_lists_asks_which(tmp_path: Path) -> None:
    touch(tmp_path, "ada/1.jpg", "ada/2.jpg")
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("path,pid\n")
    assert read_dataset(tmp_path).kind == "folders"
    with pytest.raises(DatasetError, match="2 CSV files"):
        read_dataset(tmp_path, "csv")
