"""Tracklets: one for each person, whole, with good crops, and none that mixes people."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from passreid import Embedder
from passreid.video import Detections, Frame, tracklets
from passreid.video.tracking import ByteTrack, quality
from tests.video.scene import Drawn, Walk, detector, frames, owner


def follow(walks: list[Walk], count: int, embedder: Embedder, **options: Any) -> Any:
    return list(
        tracklets(
            frames(walks, count),
            embedder,
            detector=detector(walks),
            tracker=options.pop("tracker", None) or ByteTrack(10),
            **options,
        )
    )


def test_each_person_gets_one_tracklet_from_first_to_last_frame(
    drawn: Drawn, embedder: Embedder
) -> None:
    walks = [
        Walk(1, drawn[13], 0, 49, 0, 120),
        Walk(2, drawn[14], 5, 44, 250, 140, top=90),
    ]
    found = follow(walks, 60, embedder)
    assert len(found) == 2
    for tracklet in found:
        owners = {owner(walks, f, b) for f, b in zip(tracklet.frames, tracklet.boxes, strict=True)}
        assert len(owners) == 1
        walk = next(w for w in walks if w.person in owners)
        assert tracklet.frames[0] <= walk.first + 2
        assert tracklet.frames[-1] == walk.last
        assert np.linalg.norm(tracklet.embedding) == pytest.approx(1, abs=1e-5)
        assert 1 <= len(tracklet.crops) <= 4
        assert tracklet.cohesion > 0.8


def test_a_tracker_that_goes_on_with_another_person_is_cut(
    drawn: Drawn, embedder: Embedder
) -> None:
    walks = [Walk(1, drawn[13], 0, 29, 100, 110), Walk(2, drawn[16], 30, 59, 110, 120)]

    def confused(found: Detections) -> np.ndarray:
        return np.ones(len(found.boxes), np.int64)

    found = follow(walks, 60, embedder, tracker=confused)
    assert len(found) == 2
    assert found[0].frames[-1] <= 32
    assert found[1].frames[0] >= 28
    whole = follow(walks, 60, embedder, tracker=confused, split_below=-1.0)
    assert len(whole) == 1
    assert whole[0].cohesion < found[0].cohesion


def test_short_tracks_are_left_out(drawn: Drawn, embedder: Embedder) -> None:
    walks = [Walk(1, drawn[13], 0, 29, 0, 100), Walk(2, drawn[14], 5, 8, 220, 230)]
    assert len(follow(walks, 40, embedder)) == 1


def test_track_numbers_of_a_file_are_taken_over(drawn: Drawn, embedder: Embedder) -> None:
    walks = [Walk(1, drawn[13], 0, 29, 0, 100)]
    inner = detector(walks)

    def numbered(frame: Frame) -> Any:
        found = inner(frame)
        return found._replace(tracks=np.full(len(found.boxes), 5))

    found = list(tracklets(frames(walks, 30), embedder, detector=numbered, tracker=ByteTrack(10)))
    assert [len(tracklet.frames) for tracklet in found] == [30]


def test_tracklets_come_as_soon_as_they_are_complete(drawn: Drawn, embedder: Embedder) -> None:
    walks = [Walk(1, drawn[13], 0, 9, 0, 40), Walk(2, drawn[14], 0, 99, 200, 240)]
    shown = frames(walks, 100)
    read = []

    def reading() -> Any:
        for frame in shown:
            read.append(frame.number)
            yield frame

    stream = tracklets(reading(), embedder, detector=detector(walks), tracker=ByteTrack(10))
    next(stream)
    assert read[-1] < 40


def test_quality_prefers_sharp_whole_uncovered_crops() -> None:
    generator = np.random.default_rng(0)
    sharp = generator.integers(0, 255, (128, 64, 3), np.uint8)
    flat = np.full((128, 64, 3), 120, np.uint8)
    box, nobody, size = np.array([50.0, 50, 114, 178]), np.empty((0, 4)), (320, 240)
    good = quality(sharp, 0.9, box, nobody, size)
    assert 0 < good <= 1
    assert quality(flat, 0.9, box, nobody, size) < good
    assert quality(sharp, 0.4, box, nobody, size) < good
    assert quality(sharp[:32, :16], 0.9, box, nobody, size) < good
    assert quality(sharp, 0.9, np.array([0.0, 50, 64, 178]), nobody, size) < good
    assert quality(sharp, 0.9, box, np.array([[60.0, 50, 124, 178]]), size) < good
