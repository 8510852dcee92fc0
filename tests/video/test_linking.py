"""Linking: one name across cameras, nobody in two places, impossible pairs never joined."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from passreid import Embedder
from passreid.errors import CalibrationError, UsageError
from passreid.video.linking import Sighting, Travel, impossible, link, threshold_for


def unit(rows: NDArray[Any]) -> Any:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def seen(*triples: Any) -> Any:
    return [Sighting(camera=camera, start=start, end=end) for camera, start, end in triples]


def slow(embeddings: NDArray[Any], wrong: NDArray[np.bool_], threshold: float) -> Any:
    """Complete linkage as its definition says it, over lists of members."""
    groups = [[index] for index in range(len(embeddings))]
    cosines = embeddings @ embeddings.T
    while True:
        best, pair = threshold, None
        for one in range(len(groups)):
            for other in range(one):
                rows, columns = np.ix_(groups[one], groups[other])
                if not wrong[rows, columns].any() and cosines[rows, columns].min() >= best:
                    best, pair = cosines[rows, columns].min(), (one, other)
        if pair is None:
            break
        groups[pair[1]] += groups.pop(pair[0])
    numbers = np.empty(len(embeddings), int)
    for number, group in enumerate(sorted(map(sorted, groups))):
        numbers[group] = number
    return numbers


@pytest.mark.parametrize("seed", range(6))
def test_linking_equals_complete_linkage_written_out(seed: int) -> None:
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(5, 8))
    who = generator.integers(0, 5, 25)
    rows = unit(centres[who] + 0.4 * generator.normal(size=(25, 8)))
    starts = generator.uniform(0, 100, 25)
    sightings = seen(*(("ab"[i % 2], s, s + 5) for i, s in enumerate(starts)))
    found = link(rows, sightings, threshold=0.6)
    expected = slow(rows, impossible(sightings, Travel()), 0.6)
    assert found.tolist() == expected.tolist()


def test_one_person_seen_by_two_cameras_gets_one_number() -> None:
    rows = unit(np.array([[1, 0.1], [0, 1], [1, 0]]))
    sightings = seen(("door", 0, 5), ("door", 10, 15), ("hall", 20, 25))
    assert link(rows, sightings, threshold=0.9).tolist() == [0, 1, 0]


def test_nobody_is_in_two_places_at_once_unless_cameras_overlap() -> None:
    rows = unit(np.array([[1, 0.0], [1, 0.0]]))
    sightings = seen(("door", 0, 5), ("hall", 3, 8))
    assert link(rows, sightings, threshold=0.5).tolist() == [0, 1]
    overlapping = Travel(overlapping=True)
    assert link(rows, sightings, threshold=0.5, travel=overlapping).tolist() == [0, 0]


def test_nobody_walks_faster_than_the_shortest_time_between_cameras() -> None:
    rows = unit(np.array([[1, 0.0], [1, 0.0]]))
    sightings = seen(("gate", 0, 5), ("hall", 8, 9))
    far = Travel(seconds={("hall", "gate"): 10.0})
    assert link(rows, sightings, threshold=0.5, travel=far).tolist() == [0, 1]
    near = Travel(seconds={("gate", "hall"): 2.0})
    assert link(rows, sightings, threshold=0.5, travel=near).tolist() == [0, 0]


def test_an_impossible_pair_keeps_whole_groups_apart() -> None:
    rows = unit(np.array([[1, 0.0], [1, 0.01], [1, 0.02]]))
    sightings = seen(("a", 0, 5), ("a", 3, 8), ("b", 20, 25))
    numbers = link(rows, sightings, threshold=0.5)
    assert numbers[0] != numbers[1]


def test_linking_needs_a_calibration_and_one_sighting_each() -> None:
    with pytest.raises(CalibrationError, match="passreid calibrate"):
        threshold_for(None, 10)
    with pytest.raises(UsageError, match="one sighting each"):
        link(np.eye(3, dtype=np.float32), seen(("a", 0, 1)), threshold=0.5)


def test_more_tracklets_need_a_stricter_threshold(embedder: Embedder) -> None:
    calibration = embedder.calibration
    assert calibration is not None and calibration.origin == "model"
    own = replace(calibration, origin="user")
    few, many = threshold_for(own, 5), threshold_for(own, 500)
    assert few < many <= threshold_for(calibration, 5)
