"""Drawn data sets: layouts are read back, seeds are reproducible, people can be told apart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from passreid.data import READERS, ReIDDataset, make_synthetic, read_dataset
from passreid.errors import DatasetError, OutputError, UsageError
from passreid.evaluation import evaluate
from passreid.labels import Labels
from passreid.ranking import Metrics, measure
from tests import small
from tests.drawn import TEMPLATES, draw_layout


def pixels(dataset: ReIDDataset) -> dict[str, NDArray[np.uint8]]:
    samples = (*dataset.train, *dataset.query, *dataset.gallery)
    return {
        s.path.relative_to(dataset.root).as_posix(): np.array(Image.open(s.path)) for s in samples
    }


def test_there_is_a_template_for_every_reader() -> None:
    assert set(TEMPLATES) == set(READERS)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_every_layout_is_recognised_and_read(tmp_path: Path, kind: str) -> None:
    made = draw_layout(tmp_path / "toy", kind, people=5, cameras=2, size=(16, 8))
    assert read_dataset(tmp_path / "toy") == made
    assert made.kind == kind
    assert not [line for line in made.notes if "left out" in line or "not read" in line]
    if made.splits == 1 and made.train:
        frames = 2 if made.has_tracklets else 1
        train, query, gallery = ([*row][1:3] for row in made.summary())
        assert (train, query, gallery) == ([2, 8 * frames], [3, 6 * frames], [3, 6 * frames])
    if kind in ("csv", "folders"):
        assert made.people[1] == "person-001"


def as_csv(dataset: ReIDDataset, file: Path) -> ReIDDataset:
    """List the pictures of a set in a CSV file and read that."""
    lines = ["path,pid,camid,split,tracklet,clothid"] + [
        f"{s.path},{s.pid},{s.camid},{subset},{s.tracklet},{s.clothid}"
        for subset in ("train", "query", "gallery")
        for s in dataset.subset(subset)
    ]
    file.write_text("\n".join(lines))
    return read_dataset(file)


@pytest.mark.parametrize("clothes_changing", [False, True])
@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_layout_gives_the_figures_of_its_pictures_in_a_csv_file(
    tmp_path: Path, kind: str, clothes_changing: bool
) -> None:
    made = draw_layout(tmp_path / "toy", kind, people=6, cameras=3)
    listed = as_csv(made, tmp_path / "list.csv")
    if clothes_changing and kind not in ("ltcc", "prcc"):
        with pytest.raises(DatasetError, match="clothes"):
            evaluate(small.colours(), made, clothes_changing=True)
        return
    by_layout, by_list = (
        evaluate(small.colours(), dataset, clothes_changing=clothes_changing)
        for dataset in (made, listed)
    )
    assert by_layout.metrics.mAP == by_list.metrics.mAP
    assert np.array_equal(by_layout.metrics.cmc, by_list.metrics.cmc)
    assert [tuple(row) for row in made.summary()] == [tuple(row) for row in listed.summary()]


def test_the_same_seed_draws_the_same_pixels(tmp_path: Path) -> None:
    first, again, other = (
        pixels(make_synthetic(tmp_path / name, people=3, cameras=2, seed=seed))
        for name, seed in (("a", 4), ("b", 4), ("c", 5))
    )
    assert first.keys() == again.keys() == other.keys()
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)
    assert all(picture.shape == (128, 64, 3) for picture in first.values())


def test_more_people_leave_the_first_as_they_are(tmp_path: Path) -> None:
    few = pixels(make_synthetic(tmp_path / "a", people=2, cameras=1, train_fraction=0))
    more = pixels(make_synthetic(tmp_path / "b", people=4, cameras=1, train_fraction=0))
    assert all(np.array_equal(few[name], more[name]) for name in few)


def test_one_picture_by_each_camera_gives_one_query_of_each_person(tmp_path: Path) -> None:
    made = make_synthetic(tmp_path / "a", people=3, cameras=3, per_camera=1, train_fraction=0)
    assert [sample.camid for sample in made.query] == [0, 1, 2]
    assert len(made.gallery) == 6


@pytest.mark.parametrize(("fraction", "sizes"), [(0, [0, 8, 8]), (1, [16, 0, 0])])
def test_all_for_the_test_or_all_for_training(
    tmp_path: Path, fraction: float, sizes: list[int]
) -> None:
    made = make_synthetic(tmp_path / "a", people=2, train_fraction=fraction, size=(32, 16))
    assert [row.images for row in made.summary()] == sizes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"people": 0}, "people is 0"),
        ({"cameras": 0}, "cameras is 0"),
        ({"per_camera": 0}, "per_camera is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"size": (8, 64)}, "height is 8"),
        ({"train_fraction": 1.5}, "train_fraction is 1.5"),
        ({"cameras": 1, "per_camera": 1}, "at least two"),
    ],
)
def test_arguments_out_of_range_are_wrong_usage(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_synthetic(tmp_path / "a", **arguments)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UsageError, match="not empty"):
        make_synthetic(tmp_path)
    with pytest.raises(UsageError, match="not empty"):
        make_synthetic(tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_synthetic(".", people=2, cameras=1, size=(32, 16))
    assert sorted(os.listdir()) == ["bounding_box_test", "bounding_box_train", "query"]  # noqa: PTH208


def test_nothing_is_left_of_a_run_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match="disk full"):
        make_synthetic(tmp_path / "a", people=2)
    assert not any(tmp_path.iterdir())


def colours(path: Path) -> NDArray[np.float64]:
    """Hues, and lightness where there is no hue, in 8 stripes, after evening out the camera."""
    crop = np.asarray(Image.open(path), dtype=float)
    even = Image.fromarray(np.clip(crop * 118 / crop.mean((0, 1)), 0, 255).astype(np.uint8))
    stripes = np.array_split(np.asarray(even.convert("HSV"))[:, 16:48].astype(int), 8)
    parts = []
    for stripe in stripes:
        hue, saturation, value = stripe.reshape(-1, 3).T
        grey = saturation < 50
        hues = np.bincount(hue[~grey] // 16, minlength=16)
        greys = np.bincount(value[grey] // 32, minlength=8)
        parts.append(np.sqrt(np.concatenate([hues, greys]) / hue.size))
    return np.concatenate(parts)


def retrieval(dataset: ReIDDataset) -> Metrics:
    query, gallery = dataset.query, dataset.gallery
    labels = Labels(
        [s.pid for s in query],
        [s.pid for s in gallery],
        query_camids=[s.camid for s in query],
        gallery_camids=[s.camid for s in gallery],
    )
    rows, columns = ([colours(s.path) for s in part] for part in (query, gallery))
    return measure(rows, columns, labels=labels)


def test_drawn_people_are_found_by_colour_but_for_one_look_alike_pair(tmp_path: Path) -> None:
    made = make_synthetic(tmp_path / "a", people=20, train_fraction=0)
    pids = np.array([sample.pid for sample in made.query])
    found = retrieval(made)
    pair = np.isin(pids, (3, 4))
    assert (found.first_hit[~pair] == 1).mean() > 0.95
    assert (found.first_hit[pair] > 1).any()
    assert found.average_precision[pair].mean() < found.average_precision[~pair].mean() - 0.1
