"""Link tracklets made of a labelled set's test crops into people; IDF1 and false links.

    python -m benchmarks.linking market600 cuhk03
    python -m benchmarks.linking --drawn

Crops of one person by one camera, close in the order of their names (Market-1501's hold frame
numbers), are one tracklet of at most eight. Linked by `passreid.video.linking` at its
default, without a shared clock (the sets' cameras have none), beside linking by plain cosine (each
tracklet joins everything above the threshold, transitively). "Drawn" is three rooms on one clock
through which drawn people walk, overlapping and some dressed alike; its tracklets come from the
whole of `passreid.video` behind a detector that knows the boxes.
"""

from __future__ import annotations

import argparse
import re
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components
from tests.video.scene import Walk, detector, frames, owner, pictures

import passreid
from passreid.video import tracklets
from passreid.video.linking import Sighting, Travel, link, threshold_for
from passreid.video.tracking import ByteTrack, unit_rows

FRAME = re.compile(r"_c\d+s(\d+)_(\d+)_")
MOST = 8
RATE = 25.0


def tracklets_of(root: Path) -> tuple[list[list[Path]], NDArray[np.int64], list[Sighting]]:
    """Return crops, person and sighting of each tracklet of a set's test people."""
    people = passreid.read_dataset(root)
    samples = sorted(
        (s for s in (*people.query, *people.gallery) if s.pid > 0),
        key=lambda s: (s.pid, s.camid, s.path.name),
    )
    crops, pids, sightings = [], [], []
    for (pid, camid), found in groupby(samples, key=lambda s: (s.pid, s.camid)):
        own = list(found)
        for first in range(0, len(own), MOST):
            part = own[first : first + MOST]
            times = [moment(s.path.name, index) for index, s in enumerate(part)]
            crops.append([s.path for s in part])
            pids.append(pid)
            sightings.append(Sighting(camera=str(camid), start=min(times), end=max(times)))
    return crops, np.array(pids), sightings


def moment(name: str, index: int) -> float:
    """Return the seconds a crop's name tells, or its place in the order where it tells none."""
    told = FRAME.search(name)
    return int(told[1]) * 1e6 + int(told[2]) / RATE if told else float(index)


def drawn_tracklets(
    embedder: passreid.Embedder, people: int = 24, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64], list[Sighting], NDArray[np.int64]]:
    """Return embedding, person, sighting and length of the tracklets of three drawn rooms."""
    generator = np.random.default_rng(seed)
    with TemporaryDirectory() as folder:
        shown = pictures(passreid.make_synthetic(Path(folder) / "people", people=2 * people))
    rooms: dict[str, list[Walk]] = {"door": [], "hall": [], "stairs": []}
    for person, own in shown.items():
        when = int(generator.integers(0, 400))
        for walks in rooms.values():
            length = int(generator.integers(30, 60))
            left, right = (0, 250) if generator.random() < 0.5 else (250, 0)
            top = int(generator.integers(20, 110))
            order = tuple(own[i] for i in generator.permutation(len(own)))
            walks.append(Walk(person, order, when, when + length, left, right, top))
            when += length + int(generator.integers(10, 60))
    rows, truth, sightings, weights = [], [], [], []
    for room, walks in rooms.items():
        scene = frames(walks, max(walk.last for walk in walks) + 1)
        for found in tracklets(scene, embedder, detector=detector(walks), tracker=ByteTrack(10)):
            owners = [owner(walks, f, b) for f, b in zip(found.frames, found.boxes, strict=True)]
            rows.append(found.embedding)
            truth.append(int(np.bincount(owners).argmax()))
            weights.append(len(owners))
            start, end = float(found.seconds[0]), float(found.seconds[-1])
            sightings.append(Sighting(camera=room, start=start, end=end))
    return np.stack(rows), np.array(truth), sightings, np.array(weights)


def scores(truth: NDArray[np.int64], found: NDArray[np.int64], weights: NDArray[np.int64]) -> str:
    """Return IDF1, false and missed links as a table's cells."""
    _, truth = np.unique(truth, return_inverse=True)
    shared = np.zeros((truth.max() + 1, found.max() + 1))
    np.add.at(shared, (truth, found), weights)
    rows, columns = linear_sum_assignment(shared, maximize=True)
    idf1 = shared[rows, columns].sum() / weights.sum()
    upper = np.triu_indices(len(truth), 1)
    same, linked = (truth[:, None] == truth)[upper], (found[:, None] == found)[upper]
    false = (linked & ~same).sum() / max(1, linked.sum())
    missed = (same & ~linked).sum() / same.sum()
    return f"{100 * idf1:.1f} | {100 * false:.2f} | {100 * missed:.1f} | {found.max() + 1}"


def main() -> None:
    """Print a table, a row for each way of linking."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("roots", nargs="*", type=Path)
    parser.add_argument("--drawn", action="store_true")
    parser.add_argument("--model", default="passreid-tiny")
    options = parser.parse_args()
    embedder = passreid.load(options.model)
    print("| set, way | IDF1 | false links, % | missed links, % | people |\n|---|---|---|---|---|")
    for root in options.roots:
        crops, truth, sightings = tracklets_of(root)
        rows = []
        for paths in crops:
            own = unit_rows(embedder(paths))
            rows.append(unit_rows(own.mean(axis=0, keepdims=True))[0])
        weights = np.array([len(paths) for paths in crops])
        no_clock = Travel(overlapping=True)
        report(root.name, np.stack(rows), truth, sightings, weights, no_clock, embedder)
    if options.drawn:
        report("drawn", *drawn_tracklets(embedder), Travel(default=0.5), embedder)


def report(
    name: str,
    rows: NDArray[np.float32],
    truth: NDArray[np.int64],
    sightings: list[Sighting],
    weights: NDArray[np.int64],
    travel: Travel,
    embedder: passreid.Embedder,
) -> None:
    """Print the table's rows for one set of tracklets."""
    numbers = np.unique(truth, return_inverse=True)[1]
    print(f"| {name}: truth, {len(truth)} tracklets | {scores(truth, numbers, weights)} |")
    threshold = threshold_for(embedder.calibration, len(truth))
    plain = connected_components(rows @ rows.T >= threshold)[1].astype(np.int64)
    default = link(rows, sightings, threshold=threshold, travel=travel)
    for way, found in {"default": default, "plain cosine, transitive": plain}.items():
        print(f"| {name}: {way} (cosine {threshold:.3f}) | {scores(truth, found, weights)} |")


if __name__ == "__main__":
    main()
