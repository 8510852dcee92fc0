"""Evaluation protocols: random splits, and several query images embedded as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from passreid.data.build import JUNK, Row
from passreid.data.dataset import ReIDDataset, Sample
from passreid.data.layouts import LAYOUTS
from passreid.listing import images_in


def random_split(rows: Sequence[Row], split: int, *, halves: bool) -> list[Row]:
    """Draw one random split of a protocol that averages over several.

    Args:
        rows: Of query and gallery, or of ``pool``: one image of each person goes into the gallery,
            the others are queries.
        split: Number of the split, from 0; the same number gives the same split.
        halves: Half of the people with query and gallery images are used for training; queries
            without a gallery image are left out. Otherwise one random gallery image of each person
            stays in the gallery.
    """
    rng = np.random.default_rng([split])
    ordered = sorted(rows, key=lambda row: row.path)
    query, gallery = (
        {row.person for row in ordered if row.subset in (side, "pool")}
        for side in ("query", "gallery")
    )
    both = sorted(query & gallery - {JUNK})
    tested = {both[i] for i in rng.permutation(len(both))[: (len(both) + 1) // 2]}
    shown: dict[str, Path] = {}
    if not halves or any(row.subset == "pool" for row in ordered):
        images: dict[str, list[Path]] = defaultdict(list)
        for row in ordered:
            if row.subset in ("gallery", "pool"):
                images[row.person].append(row.path)
        shown = {person: paths[rng.integers(len(paths))] for person, paths in images.items()}
    chosen = []
    for row in ordered:
        in_gallery = row.path == shown.get(row.person)
        if halves and row.person in both and row.person not in tested:
            chosen.append(row._replace(subset="train"))
        elif row.subset == "pool":
            chosen.append(row._replace(subset="gallery" if in_gallery else "query"))
        elif row.subset == "gallery":
            if halves or in_gallery:
                chosen.append(row)
        elif row.subset == "train" or row.person in both:
            chosen.append(row)
    return chosen


def multi_query(dataset: ReIDDataset) -> ReIDDataset:
    """Make one query of all query images of a person from one camera.

    Images of the same person and camera in Market-1501's ``gt_bbox`` are added. The embeddings are
    averaged like those of a tracklet's frames.
    """
    keys = sorted({(sample.pid, sample.camid) for sample in dataset.query})
    groups = {key: number for number, key in enumerate(keys)}
    extra = [s for s in _read_gt_bbox(dataset) if (s.pid, s.camid) in groups]
    query = tuple(
        replace(sample, tracklet=groups[sample.pid, sample.camid])
        for sample in (*dataset.query, *extra)
    )
    note = (
        f"multi-query: {len(query):,} images make {len(groups):,} queries, one per person and "
        "camera" + (f"; {len(extra):,} of them from gt_bbox" if extra else "")
    )
    return replace(dataset, query=query, notes=(*dataset.notes, note))


def _read_gt_bbox(dataset: ReIDDataset) -> list[Sample]:
    if dataset.kind != "market1501" or dataset.people:
        return []
    camids = {name: camid for camid, name in dataset.cameras.items()}
    found = []
    for path in images_in(dataset.root / "gt_bbox"):
        if labels := LAYOUTS["market1501"].parse(path.name):
            camera = int(labels["cam"])
            found.append(Sample(path, int(labels["pid"]), camids.get(str(camera), camera)))
    return found
