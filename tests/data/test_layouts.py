"""Published layouts: labels from file names, junk, lists, boxes, counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from passreid.data import read_dataset
from passreid.data.build import Row, build_dataset
from passreid.data.layouts import LAYOUTS
from passreid.errors import DatasetError
from tests.data import trees
from tests.data.trees import labels, note, touch


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("0002_c1s1_000451_03.jpg", (2, 1)),
        ("-1_c6s3_017001_00.jpg", (-1, 6)),
        ("0000_c3s1_000401_03.jpg", (0, 3)),
        ("0001_c2_f0046182.jpg", (1, 2)),
        ("0003_c1_4.png", (3, 1)),
        ("12345_c12_1.jpg", (12345, 12)),
        ("c1_0002.jpg", None),
        ("x0002_c1.jpg", None),
        ("0002.jpg", None),
        ("0002_c0.93_000451.jpg", None),  # a score
    ],
)
def test_names_start_with_person_and_camera(name: str, parsed: tuple[int, int] | None) -> None:
    found = LAYOUTS["market1501"].parse(f"query/{name}")
    assert (found and (int(found["pid"]), int(found["cam"]))) == parsed


def test_market_is_read_sorted_with_cameras_from_0_and_without_junk(tmp_path: Path) -> None:
    dataset = read_dataset(trees.market(tmp_path / "toy"))
    assert (dataset.kind, dataset.name) == ("market1501", "toy")
    assert labels(dataset, "train") == [
        ("0007_c1s1_000001_01.jpg", 7, 0),
        ("0007_c2s1_000001_01.jpg", 7, 1),
        ("0011_c1s1_000001_01.jpg", 11, 0),
    ]
    assert labels(dataset, "query") == [("0002_c1s1_000451_03.jpg", 2, 0)]
    assert labels(dataset, "gallery") == [
        ("0000_c3s1_000401_03.jpg", 0, 2),
        ("0002_c2s1_000451_03.jpg", 2, 1),
    ]
    assert dataset.cameras == {0: "1", 1: "2", 2: "3"}
    assert dataset.notes == ("gallery: 1 junk images (pid -1) left out",)


def test_cameras_that_start_at_0_are_not_made_unknown(tmp_path: Path) -> None:
    root = touch(
        tmp_path, "bounding_box_train/0001_c0s1_1.jpg", "bounding_box_train/0001_c2s1_1.jpg"
    )
    dataset = read_dataset(root)
    assert [camid for _, _, camid in labels(dataset, "train")] == [0, 2]
    assert dataset.cameras == {}


def test_any_number_of_people_and_cameras_is_read(tmp_path: Path) -> None:
    root = touch(tmp_path, "bounding_box_train/9999_c27s1_1.JPG", "bounding_box_train/1_c1s1_1.jpg")
    assert labels(read_dataset(root), "train") == [
        ("1_c1s1_1.jpg", 1, 0),
        ("9999_c27s1_1.JPG", 9999, 26),
    ]


def test_files_without_labels_in_their_names_are_left_out_and_counted(tmp_path: Path) -> None:
    root = touch(trees.market(tmp_path), *(f"query/img{i}.jpg" for i in range(5)))
    dataset = read_dataset(root)
    assert len(dataset.query) == 1
    assert "query: 5 files left out" in note(dataset, "left out, whose names")
    assert "img0.jpg, img1.jpg, img2.jpg and 2 more" in note(dataset, "left out, whose names")


def test_a_set_without_one_readable_name_is_refused(tmp_path: Path) -> None:
    root = touch(tmp_path, "bounding_box_train/a.jpg", "bounding_box_train/b.jpg")
    with pytest.raises(DatasetError, match=r"not one file name says who .*a\.jpg, b\.jpg"):
        read_dataset(root)


def test_empty_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bounding_box_train").mkdir()
    with pytest.raises(DatasetError, match="has no images"):
        read_dataset(tmp_path)


def test_a_missing_gallery_is_refused(tmp_path: Path) -> None:
    root = touch(tmp_path, "bounding_box_train/0001_c1s1_1.jpg", "query/0002_c1s1_1.jpg")
    with pytest.raises(DatasetError, match="query images but no gallery"):
        read_dataset(root)


def test_a_set_for_one_purpose_only_says_so(tmp_path: Path) -> None:
    train = touch(tmp_path / "a", "bounding_box_train/0001_c1s1_1.jpg")
    assert note(read_dataset(train), "can train a model but not measure")
    test = touch(tmp_path / "b", "query/0001_c1s1_1.jpg", "bounding_box_test/0001_c2s1_1.jpg")
    assert note(read_dataset(test), "can measure a model but not train")


def test_queries_that_cannot_count_are_named(tmp_path: Path) -> None:
    root = touch(
        tmp_path,
        *(f"query/{pid:04d}_c1s1_1.jpg" for pid in (1, 2, 3, 4, 5, 6)),
        "bounding_box_test/0001_c1s1_2.jpg",
        "bounding_box_test/0002_c2s1_2.jpg",
    )
    text = note(read_dataset(root), "do not count")
    assert text.startswith("5 of 6 queries")
    assert "(pid 1, 3, 4 and 2 more)" in text


def test_people_of_the_test_who_are_in_training_are_named(tmp_path: Path) -> None:
    root = touch(
        trees.market(tmp_path),
        "bounding_box_train/0002_c1s1_000001_01.jpg",
        "bounding_box_test/0011_c1s1_000451_03.jpg",  # nobody asks for
    )
    assert "1 people of query are also in train (pid 2)" in note(read_dataset(root), "in train")


def test_duke_is_told_by_its_names_and_called_withdrawn(tmp_path: Path) -> None:
    root = touch(
        tmp_path,
        "bounding_box_train/0001_c2_f0046182.jpg",
        "query/0005_c2_f0046985.jpg",
        "bounding_box_test/0005_c5_f0051781.jpg",
    )
    dataset = read_dataset(root)
    assert dataset.kind == "dukemtmc"
    assert labels(dataset, "gallery") == [("0005_c5_f0051781.jpg", 5, 4)]
    assert note(dataset, "withdrawn")
    (root / "bounding_box_train/0001_c2_f0046182.jpg").unlink()
    assert read_dataset(root).kind == "dukemtmc"  # the test images tell as well


def occluded(root: Path) -> Path:
    return touch(
        root,
        "bounding_box_train/0001_c2_f0046182.jpg",
        "bounding_box_train/0001_c3_f0046182.jpg",
        "query/0005_c2_f0046985.jpg",
        "bounding_box_test/0005_c5_f0051781.jpg",
    )


def test_occluded_duke_is_told_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = read_dataset(occluded(tmp_path / "Occluded_Duke"))
    assert dataset.kind == "occluded-duke"
    assert len(dataset.train) == 2
    assert note(dataset, "withdrawn")
    monkeypatch.chdir(tmp_path / "Occluded_Duke")
    assert read_dataset(".").kind == "occluded-duke"


def test_the_lists_of_occluded_duke_restrict_the_folders(tmp_path: Path) -> None:
    root = occluded(tmp_path / "x")
    (root / "train.list").write_text("bounding_box_train/0001_c3_f0046182.jpg \n\n")
    dataset = read_dataset(root)
    assert dataset.kind == "occluded-duke"
    assert [name for name, *_ in labels(dataset, "train")] == ["0001_c3_f0046182.jpg"]
    assert len(read_dataset(root, "dukemtmc").train) == 2  # which has no lists
    (root / "train.list").write_text("0009_c3_f0000001.jpg\n")
    with pytest.raises(DatasetError, match=r"train\.list lists 1 files that do not exist"):
        read_dataset(root)
    (root / "train.list").rename(root / "query.list")
    with pytest.raises(DatasetError, match=r"query\.list lists 1 files"):
        read_dataset(root)


def cuhk03(root: Path, box: str) -> Path:
    return touch(
        root,
        f"{box}/bounding_box_train/0001_c1_1.png",
        f"{box}/query/0003_c1_1.jpg",
        f"{box}/bounding_box_test/0003_c2_6.png",
    )


def test_cuhk03_is_read_from_one_of_its_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = cuhk03(tmp_path / "cuhk03-np", "labeled")
    dataset = read_dataset(root)
    assert (dataset.kind, dataset.name) == ("cuhk03-np", "cuhk03-np/labeled")
    assert [len(dataset.subset(s)) for s in ("train", "query", "gallery")] == [1, 1, 1]
    assert read_dataset(root / "labeled") == dataset
    monkeypatch.chdir(root / "labeled")
    assert read_dataset(".").name == dataset.name


def test_cuhk03_asks_which_boxes_are_meant(tmp_path: Path) -> None:
    root = cuhk03(cuhk03(tmp_path, "labeled"), "detected")
    with pytest.raises(DatasetError, match=r"several data sets: detected .* labeled"):
        read_dataset(root)
    assert read_dataset(root / "detected").name.endswith("/detected")


def test_a_named_kind_says_which_folders_it_misses(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg")
    with pytest.raises(DatasetError, match="none of bounding_box_train, query, bounding_box_test"):
        read_dataset(tmp_path, "market1501")


def sizes_noted(kind: str, root: Path, **sizes: tuple[int, int]) -> list[str]:
    """Compare a set of so many people and images with the published one."""
    rows = [
        Row(Path(f"{subset}{i}.jpg"), str(1 + i % people), subset, str(1 + i % 6))
        for subset, (people, images) in sizes.items()
        for i in range(images)
    ]
    return LAYOUTS[kind].compare_sizes(build_dataset(root, kind, rows, shared_pids=False))


def test_a_nearly_full_set_is_compared_with_the_published_one(tmp_path: Path) -> None:
    notes = sizes_noted(
        "market1501", tmp_path, train=(751, 12936), query=(750, 3300), gallery=(400, 8000)
    )
    assert notes == [
        "query: 3,300 images, the published set has 3,368",
        "gallery: 400 people, the published set has 750",
        "gallery: 8,000 images, the published set has 15,913",
    ]


def test_a_small_set_is_not_compared_with_the_published_one(tmp_path: Path) -> None:
    small = {"train": (30, 200), "query": (10, 40), "gallery": (10, 100)}
    assert not sizes_noted("market1501", tmp_path, **small)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_published_set_itself_has_no_notes_about_its_size(kind: str, tmp_path: Path) -> None:
    layout = LAYOUTS[kind]
    for name, counts in {"x": layout.counts, **layout.variants}.items():
        sizes = {subset: (people or 1, images) for subset, (people, images) in counts.items()}
        if sizes.keys() == {"gallery"}:
            sizes["query"] = (1, 1)
        assert not sizes or not sizes_noted(kind, tmp_path / name, **sizes)


def test_sizes_are_compared_with_the_variant_that_the_folder_names(tmp_path: Path) -> None:
    detected = {"train": (767, 7365), "query": (700, 1400), "gallery": (700, 5332)}
    assert sizes_noted("cuhk03-np", tmp_path / "labeled", **detected) == [
        "train: 7,365 images, the published set has 7,368",
        "gallery: 5,332 images, the published set has 5,328",
    ]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_example_of_a_layout_is_a_name_it_reads(kind: str) -> None:
    layout = LAYOUTS[kind]
    labels = layout.parse(layout.example)
    assert labels and (layout.lists_name_people or int(labels["pid"].rpartition("-")[2]) == 2)


def test_real_crops_are_read_whole(market: Path) -> None:
    dataset = read_dataset(market)
    assert dataset.kind == "market1501"
    files = sum(len(list((market / d).glob("[0-9]*.jpg"))) for d in ("query", "bounding_box_test"))
    assert len(dataset.query) + len(dataset.gallery) == files
    assert dataset.has_cameras
