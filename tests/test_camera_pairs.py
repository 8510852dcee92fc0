"""Figures of a pair of cameras against the whole set cut down to those two."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from passreid.camera_pairs import CameraPair, measure_camera_pairs
from passreid.labels import Labels
from passreid.ranking import Metrics, measure

RNG = np.random.default_rng(5)
QUERY, GALLERY = RNG.normal(size=(30, 8)), RNG.normal(size=(90, 8))
PIDS = RNG.integers(1, 7, 30), RNG.integers(-1, 7, 90)
CAMIDS = RNG.integers(0, 3, 30), RNG.integers(0, 4, 90)


def found(
    pids: Any = PIDS, names: Mapping[int, str] = MappingProxyType({}), **changes: Any
) -> list[CameraPair]:
    values = {"query_camids": CAMIDS[0], "gallery_camids": CAMIDS[1]} | changes

    def part(
        rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], labels: Labels
    ) -> Metrics:
        return measure(QUERY[rows], GALLERY[columns], labels=labels)

    return measure_camera_pairs(Labels(*pids, **values), part, names=names)


def test_every_pair_of_two_cameras_is_that_part_of_the_set() -> None:
    pairs = found()
    places = [(pair.query, pair.gallery) for pair in pairs]
    assert places == [(str(a), str(b)) for a in range(3) for b in range(4) if a != b]
    for pair in pairs:
        # Slow and obvious: one query after the other, the list sorted in Python.
        precisions, firsts = [], []
        for row in np.flatnonzero(CAMIDS[0] == int(pair.query)):
            columns = [
                c for c in np.flatnonzero(CAMIDS[1] == int(pair.gallery)) if PIDS[1][c] != -1
            ]
            unit = [GALLERY[c] / np.linalg.norm(GALLERY[c]) for c in columns]
            order = sorted(range(len(columns)), key=lambda i: -float(QUERY[row] @ unit[i]))
            right = [PIDS[1][columns[i]] == PIDS[0][row] for i in order]
            ranks = [place + 1 for place, hit in enumerate(right) if hit]
            if ranks:
                precisions.append(np.mean([(n + 1) / rank for n, rank in enumerate(ranks)]))
                firsts.append(ranks[0] == 1)
        assert pair.num_query == len(precisions)
        np.testing.assert_allclose(pair.mAP, np.mean(precisions))
        np.testing.assert_allclose(pair.rank1, np.mean(firsts))


def test_unknown_cameras_and_pairs_that_share_nobody_are_left_out() -> None:
    gallery = np.where(CAMIDS[1] == 3, -1, CAMIDS[1])
    query = np.where(CAMIDS[0] == 0, 7, CAMIDS[0])
    pids = np.where(query == 7, 99, PIDS[0]), PIDS[1]
    pairs = found(pids, query_camids=query, gallery_camids=gallery)
    assert {pair.gallery for pair in pairs} == {"0", "1", "2"}
    assert {pair.query for pair in pairs} == {"1", "2"}
    assert found((np.full(30, -1), np.full(90, -1))) == []  # junk is nobody both saw


def test_cameras_go_by_their_names() -> None:
    pairs = found(names={0: "hall", 1: "door"})
    assert [pair.query for pair in pairs[:3]] == ["hall"] * 3
    assert [pair.gallery for pair in pairs[:4]] == ["door", "2", "3", "hall"]
