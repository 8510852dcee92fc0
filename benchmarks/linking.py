"""Link tracklets made of a labelled set's test crops into people; IDF1 and false links.

    python benchmarks/linking.py market600 cuhk03

Crops of one person by one camera, close in the order of their names (Market-1501's hold frame
numbers), are one tracklet of at most eight. Linked by `passreid.video.linking` at its
default, without a shared clock (the sets' cameras have none), beside linking by plain cosine (each
tracklet joins everything above the threshold, transitively).
"""

from __future__ import annotations

import argparse
import re
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components

import passreid
from passreid.video.linking import Sighting, Travel, link, threshold_for

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
    parser.add_argument("roots", nargs="+", type=Path)
    parser.add_argument("--model", default="passreid-tiny")
    options = parser.parse_args()
    embedder = passreid.load(options.model)
    print("| set, way | IDF1 | false links, % | missed links, % | people |\n|---|---|---|---|---|")
    for root in options.roots:
        crops, truth, sightings = tracklets_of(root)
        rows = []
        for paths in crops:
            own = embedder(paths)
            mean = (own / np.linalg.norm(own, axis=1, keepdims=True)).mean(axis=0)
            rows.append(mean / np.linalg.norm(mean))
        unit = np.stack(rows).astype(np.float32)
        weights = np.array([len(paths) for paths in crops])
        numbers = np.unique(truth, return_inverse=True)[1]
        print(f"| {root.name}: truth, {len(truth)} tracklets | {scores(truth, numbers, weights)} |")
        threshold = threshold_for(embedder.calibration, len(truth))
        plain = connected_components(unit @ unit.T >= threshold)[1]
        ways = {
            "default": link(unit, sightings, threshold=threshold, travel=Travel(overlapping=True)),
            "plain cosine, transitive": plain.astype(np.int64),
        }
        for name, found in ways.items():
            print(f"| {root.name}: {name} (cosine {threshold:.3f}) | "
                  f"{scores(truth, found, weights)} |")  # fmt: skip


if __name__ == "__main__":
    main()
