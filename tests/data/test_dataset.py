"""Sample, ReIDDataset, relabel: what is refused at birth, what is counted."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from passreid.data import ReIDDataset, Sample, relabel
from passreid.data.dataset import SubsetCounts
from passreid.errors import DatasetError


def build(**parts: Any) -> ReIDDataset:
    return ReIDDataset("toy", "csv", Path("toy"), **parts)


def samples(*labels: tuple[int, int]) -> tuple[Sample, ...]:
    return tuple(Sample(Path(f"{i}.jpg"), *label) for i, label in enumerate(labels))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "has no images"),
        ({"query": samples((1, 0))}, "query images but no gallery"),
        ({"gallery": samples((1, 0)), "train": samples((1, 0))}, "gallery images but no query"),
        ({"train": samples((-1, 0))}, "pid -1"),
        ({"train": samples((1, -2))}, "camera -2"),
        ({"train": samples((1, 0)) * 2}, "0.jpg is listed twice"),
    ],
)
def test_unusable_sets_are_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        build(**parts)


def test_summary_counts_people_without_distractors() -> None:
    dataset = build(
        train=samples((0, 0), (0, 1), (9, 1)),
        query=samples((1, 0)),
        gallery=samples((0, 2), (1, 1), (1, -1)),
    )
    assert dataset.summary() == [
        SubsetCounts("train", 2, 3, 2),
        SubsetCounts("query", 1, 1, 1),
        SubsetCounts("gallery", 1, 3, 2),
    ]


def test_pid_0_is_a_person_where_it_is_searched_for() -> None:
    dataset = build(query=samples((0, 0)), gallery=samples((0, 1), (1, 1)))
    assert dataset.summary()[2].people == 2


def test_queries_that_no_other_camera_answers() -> None:
    query = samples((1, 0), (2, 0), (3, -1), (4, -1))
    dataset = build(query=query, gallery=samples((1, 0), (2, 0), (2, 1), (3, -1)))
    assert dataset.unanswerable() == [query[0], query[3]]


def test_cameras_are_known_only_if_every_one_is() -> None:
    assert build(train=samples((1, 0), (2, 3))).has_cameras
    assert not build(train=samples((1, 0), (2, -1))).has_cameras


def test_a_dataset_is_frozen_and_survives_pickling() -> None:
    names: dict[str, Any] = {"people": {1: "Ada"}, "cameras": {0: "gate"}}
    dataset = build(train=samples((1, 0)), notes=("a note",), **names)
    assert pickle.loads(pickle.dumps(dataset)) == dataset  # noqa: S301
    assert replace(dataset, name="other").cameras == {0: "gate"}
    with pytest.raises(TypeError):
        dataset.people[2] = "Bob"  # type: ignore[index]
    with pytest.raises(AttributeError):
        dataset.name = "other"  # type: ignore[misc]


def test_relabel_numbers_people_in_order_whatever_the_order_of_samples() -> None:
    listed = list(samples((40, 0), (7, 0), (40, 1), (12, 0)))
    labels, mapping = relabel(listed)
    assert mapping == {7: 0, 12: 1, 40: 2}
    assert labels.tolist() == [2, 0, 2, 1]
    assert labels.dtype == np.int64
    random.shuffle(listed)
    assert relabel(listed)[1] == mapping


def test_relabel_of_nothing_is_empty() -> None:
    labels, mapping = relabel([])
    assert labels.shape == (0,)
    assert mapping == {}
