"""Sixty drawn entries that every gallery test enrols, and the slow, obvious search of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from passreid.gallery import Entry, Where

DIM = 16
MODEL = "some-model@0123"
VECTORS = np.random.default_rng(0).standard_normal((60, DIM)).astype(np.float32)


def entries(numbers: range = range(60)) -> list[Entry]:
    return [
        Entry(
            content_hash=f"picture {n}",
            embedding=VECTORS[n],
            source=f"frames/{n}.jpg",
            camera=None if n % 7 == 0 else f"c{n % 4}",
            time=None if n % 5 == 0 else 100.0 * n,
            person=f"p{n // 6}" if n % 3 else None,
            tracklet=f"t{n // 3}",
            payload={"n": n},
        )
        for n in numbers
    ]


def cosines(query: Any) -> np.ndarray[Any, Any]:
    rows = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    found: np.ndarray[Any, Any] = rows @ (query / np.linalg.norm(query))
    return found


FILTERS = [
    Where(),
    Where(cameras=("c1", "c2")),
    Where(not_cameras=("c1",)),
    Where(people=("p2",), tracklets=("t4", "t5")),
    Where(sources=("frames/3.jpg", "frames/9.jpg")),
    Where(since=500.0, until=1200.0),
    Where(until=1200.0, not_cameras=("c1", "c3"), people=("p0", "p1", "p2")),
    Where(ids=(entries()[4].id, entries()[8].id), cameras=("c0",)),
    Where(cameras=("nowhere",)),
    Where(not_ids=(entries()[4].id,), not_cameras=("c1",)),
]


def fits(entry: Entry, where: Where) -> bool:
    """The slow, obvious filter."""
    one_of = [
        (where.ids, entry.id),
        (where.cameras, entry.camera),
        (where.people, entry.person),
        (where.tracklets, entry.tracklet),
        (where.sources, entry.source),
    ]
    if any(allowed and value not in allowed for allowed, value in one_of):
        return False
    if entry.camera in where.not_cameras or entry.id in where.not_ids:
        return False
    if where.since is None and where.until is None:
        return True
    low = -np.inf if where.since is None else where.since
    high = np.inf if where.until is None else where.until
    return entry.time is not None and low <= entry.time < high
