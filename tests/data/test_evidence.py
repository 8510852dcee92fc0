"""Folders that are not people: what names say about parts, cameras and tracklets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from passreid.data import make_synthetic, read_dataset
from passreid.errors import DatasetError, UsageError
from tests.data.trees import labels, note, touch
from tests.drawn import TEMPLATES, draw_layout


@pytest.mark.parametrize(
    "names",
    [
        ("parts/1.jpg", "image_query/1.jpg"),
        ("gallery/1.jpg", "probe/2.jpg"),
        ("Query/a.jpg", "Gallery/a.jpg", "Gallery/b.jpg"),
        ("val/a.jpg", "ada/b.jpg"),
    ],
)
def test_parts_of_a_set_are_not_people(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(DatasetError, match=r"parts of a data set|nothing says who"):
        read_dataset(touch(tmp_path, *names), "folders")


@pytest.mark.parametrize("names", [("cam1", "cam2"), ("c1", "c2"), ("Camera_A", "camera_b")])
def test_cameras_are_not_people(tmp_path: Path, names: tuple[str, str]) -> None:
    root = touch(tmp_path, *(f"{name}/{i}.jpg" for name in names for i in range(2)))
    with pytest.raises(DatasetError, match="look like cameras"):
        read_dataset(root)


def test_folders_whose_files_name_several_people_are_not_people(tmp_path: Path) -> None:
    root = touch(tmp_path, *(f"day{d}/{p:04d}_c{d}_7.jpg" for d in (1, 2) for p in range(3)))
    with pytest.raises(DatasetError, match=r"file names are of 3 people \(0000, 0001, 0002\)"):
        read_dataset(root)
    # Frame numbers before a camera do not outweigh a folder of single names.
    own = touch(tmp_path / "own", "ada/0001_c1.jpg", "ada/x.jpg", "ada/y.jpg", "bob/0001_c1.jpg")
    assert read_dataset(own).people == {1: "ada", 2: "bob"}


@pytest.mark.parametrize("order", ["{person}/{camera}", "{camera}/{person}"])
@pytest.mark.parametrize("camera", ["cam{}", "Camera-{}", "c{}"])
def test_cameras_inside_and_around_people_are_read(tmp_path: Path, order: str, camera: str) -> None:
    root = touch(
        tmp_path / "set",
        *(
            f"{order.format(person=person, camera=camera.format(number))}/{i}.jpg"
            for person in ("ada", "bob")
            for number in (1, 2)
            for i in range(2)
        ),
    )
    dataset = read_dataset(root)
    assert dataset.people == {1: "ada", 2: "bob"}
    assert dataset.cameras == {0: "1", 1: "2"}
    assert sorted((s.pid, s.camid) for s in dataset.query) == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_cameras_with_letters_are_read(tmp_path: Path) -> None:
    root = touch(tmp_path, *(f"cam_{c}/ada/{i}.jpg" for c in "ab" for i in range(2)))
    assert read_dataset(root).cameras == {0: "a", 1: "b"}


def test_track_folders_are_tracklets(tmp_path: Path) -> None:
    names = [f"ada/track{t}/x_c{1 + t // 2}_{f}.jpg" for t in range(4) for f in range(3)]
    dataset = read_dataset(touch(tmp_path, *names, "bob/track0/y_c1_0.jpg"))
    assert len(dataset.items("query")) == 2 and len(dataset.query) == 6
    assert len(dataset.items("gallery")) == 3
    (text,) = [line for line in dataset.describe() if "query" in line]
    assert "in 2 tracklets" in text


@pytest.mark.parametrize("inner", ["0001", "red", "2023-11-05"])
def test_folders_inside_folders_that_mean_nothing_known_are_refused(
    tmp_path: Path, inner: str
) -> None:
    names = [f"{p}/{inner}{i}/x.jpg" for p in ("ada", "bob") for i in range(2)]
    with pytest.raises(DatasetError, match="call the inner ones cam1"):
        read_dataset(touch(tmp_path, *names))
    with pytest.raises(DatasetError, match="call the inner ones cam1"):
        read_dataset(tmp_path, "folders")
    touch(tmp_path, "eve/x.jpg")
    with pytest.raises(DatasetError, match="nothing says whether the outer or the inner"):
        read_dataset(tmp_path)


def test_splits_may_be_in_any_case(tmp_path: Path) -> None:
    root = touch(tmp_path, "Train/eve/1.jpg", "QUERY/ada/1.jpg", "Gallery/ada/2.jpg")
    dataset = read_dataset(root)
    assert [len(dataset.subset(s)) for s in ("train", "query", "gallery")] == [1, 1, 1]


def test_padded_numbers_are_not_those_of_celeb_reid(tmp_path: Path) -> None:
    names = [f"{f}/0001_{c}_000123.jpg" for f, c in (("query", 1), ("gallery", 2))]
    with pytest.raises(DatasetError, match="nothing says who is on them"):
        read_dataset(touch(tmp_path, *names))


def test_a_single_person_is_said(tmp_path: Path) -> None:
    root = touch(tmp_path, "ada/1_c1.jpg", "ada/2_c1.jpg", "ada/3_c2.jpg")
    assert note(read_dataset(root), "show only one person (ada): every match is correct")


@pytest.mark.parametrize("name", ["a_c0.93_1.jpg", "ada-cam2.5x.jpg", "c1.0.jpg"])
def test_a_score_in_a_files_name_is_no_camera(tmp_path: Path, name: str) -> None:
    dataset = read_dataset(touch(tmp_path, f"ada/{name}", "ada/other.jpg"))
    assert note(dataset, "no cameras are known")


@pytest.mark.parametrize("folder", ["occluded", "Occluded_REID", "my-occluded-set"])
def test_occluded_in_a_folders_name_alone_means_nothing(tmp_path: Path, folder: str) -> None:
    names = ("query/0002_c1s1_1.jpg", "bounding_box_test/0002_c2s1_1.jpg")
    assert read_dataset(touch(tmp_path / folder, *names)).kind == "market1501"
    duke = ("query/0002_c1_f001.jpg", "bounding_box_test/0002_c2_f001.jpg")
    assert read_dataset(touch(tmp_path / "d" / folder, *duke)).kind == "dukemtmc"


@pytest.mark.parametrize("digits", [19, 20, 40, 5000])
def test_numbers_beyond_64_bits_are_names(tmp_path: Path, digits: int) -> None:
    long = "9" * digits
    file = tmp_path / "list.csv"
    touch(tmp_path, *(f"{i}.jpg" for i in range(4)))
    rows = [f"0.jpg,{long},1{long}", f"1.jpg,{long},2", f"2.jpg,{long}1,2", "3.jpg,5,2"]
    file.write_text("\n".join(["path,pid,camid", *rows]))
    dataset = read_dataset(file)
    assert sorted(dataset.people.values()) == sorted([long, f"{long}1", "5"])
    assert sorted(dataset.cameras.values()) == sorted(["2", f"1{long}"])
    assert {type(s.pid) for s in dataset.query} == {int}
    np.array([s.pid for s in (*dataset.query, *dataset.gallery)], np.int64)


def test_long_numbers_in_file_and_folder_names_are_names(tmp_path: Path) -> None:
    long = "2023110512345678901234"
    market = touch(
        tmp_path / "m",
        f"query/{long}_c1s1_1.jpg",
        f"bounding_box_test/{long}_c2s1_1.jpg",
        "bounding_box_test/0000_c2s1_1.jpg",
        "bounding_box_test/-1_c2s1_1.jpg",
    )
    dataset = read_dataset(market)
    assert dataset.people == {1: long}
    assert labels(dataset, "gallery") == [("0000_c2s1_1.jpg", 0, 1), (f"{long}_c2s1_1.jpg", 1, 1)]
    folders = touch(tmp_path / "f", f"{long}/1.jpg", f"{long}/2.jpg", "7/1.jpg")
    assert sorted(read_dataset(folders).people.values()) == sorted([long, "7"])


def test_each_camera_pair_of_cuhk02_numbers_its_own_people(tmp_path: Path) -> None:
    names = [f"P{pair}/cam{c}/001_{c}.png" for pair in (1, 2, 5) for c in (1, 2)]
    dataset = read_dataset(touch(tmp_path, *names))
    assert dataset.kind == "cuhk02"
    assert sorted(dataset.people.values()) == ["P1-001", "P2-001", "P5-001"]
    assert len(dataset.cameras) == 6


def test_two_unicode_forms_of_a_name_are_one_person(tmp_path: Path) -> None:
    root = touch(tmp_path, "query/Jose\u0301/1.jpg", "gallery/Jos\u00e9/2.jpg", "gallery/b/1.jpg")
    dataset = read_dataset(root)
    assert set(dataset.people.values()) == {"Jos\u00e9", "b"}
    assert dataset.query[0].pid == next(s.pid for s in dataset.gallery if s.path.name == "2.jpg")


def test_skipped_files_are_noted(tmp_path: Path) -> None:
    market = touch(
        tmp_path / "m", "query/0001_c1s1_1.jpg", "bounding_box_test/0001_c2s1_1.jpg",
        "query/0002_c1s1_1.ppm", "query/0003_c1s1_1.tga", "query/Thumbs.db",
    )  # fmt: skip
    assert note(
        read_dataset(market), "skipped 2 files in formats that are not read (1 .ppm, 1 .tga)"
    )
    people = touch(tmp_path / "p", "ada/1.jpg", "ada/2.jpg", "bob/1.pgm", "bob/without")
    assert note(read_dataset(people), "skipped 2 files in formats that are not read")


def test_columns_that_are_not_understood_are_noted(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    file = tmp_path / "list.csv"
    file.write_text("path,pid,x1,y1,ClothID,Weather\na.jpg,1,2,3,red,fog\nb.jpg,1,2,3,red,fog\n")
    dataset = read_dataset(file)
    assert note(dataset, "unknown columns that are not used: x1, y1, weather")
    assert dataset.query[0].clothid == 0


@pytest.mark.parametrize(
    "kind", [k for k in TEMPLATES if k not in ("csv", "folders", "msmt17", "msmt17-v2", "cuhk02")]
)
def test_a_published_layout_read_as_folders_is_never_taken_for_people(
    tmp_path: Path, kind: str
) -> None:
    made = draw_layout(tmp_path / "toy", kind, people=6, cameras=2, size=(16, 8))
    true = {sample.pid for sample in (*made.train, *made.query, *made.gallery)}
    try:
        read = read_dataset(tmp_path / "toy", "folders")
    except DatasetError:
        return
    assert len({s.pid for s in (*read.train, *read.query, *read.gallery)}) == len(true)


def test_a_split_that_the_protocol_does_not_have_is_refused(tmp_path: Path) -> None:
    draw_layout(tmp_path / "v", "viper", people=4, size=(16, 8))
    with pytest.raises(UsageError, match="no random split 10"):
        read_dataset(tmp_path / "v", split=10)
    make_synthetic(tmp_path / "m", people=4, cameras=2, size=(16, 8))
    with pytest.raises(UsageError, match="has 1, numbered from 0"):
        read_dataset(tmp_path / "m", split=1)
