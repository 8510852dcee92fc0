"""Protocols that choose what is searched for: random splits, several images as one query."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from passreid.data.assemble import JUNK, Row, images_in
from passreid.data.dataset import ReIDDataset, Sample
from passreid.data.layouts import LAYOUTS


def random_split(rows: Sequence[Row], split: int, *, halves: bool) -> list[Row]:
    """Draw one random split of a protocol that averages over several.

    Args:
        rows: Of query and gallery, or of ``pool``: one image of each person goes into the gallery,
            the others are queries.
        split: Number of the split, from 0; the same number gives the same split.
        halves: The people with query and gallery images are split in two, half for training;
            queries without a gallery image are left out. Otherwise one random gallery image of
            each person stays in the gallery.
    """
    rng = np.random.default_rng([split])
    ordered = sorted(rows, key=lambda row: row.path)
    sides = {
        side: {row.person for row in ordered if row.subset in (side, "pool")}
        for side in ("query", "gallery")
    }
    both = sorted(sides["query"] & sides["gallery"] - {str(JUNK)})
    tested = {both[i] for i in rng.permutation(len(both))[: (len(both) + 1) // 2]}
    drawn: dict[str, Path] = {}
    if not halves or any(row.subset == "pool" for row in ordered):
        images: dict[str, list[Path]] = defaultdict(list)
        for row in ordered:
            if row.subset in ("gallery", "pool"):
                images[row.person].append(row.path)
        drawn = {person: paths[rng.integers(len(paths))] for person, paths in images.items()}
    chosen = []
    for row in ordered:
        if halves and row.person in both and row.person not in tested:
            chosen.append(row._replace(subset="train"))
        elif row.subset == "pool":
            shown = row.path == drawn[row.person]
            chosen.append(row._replace(subset="gallery" if shown else "query"))
        elif row.subset == "gallery":
            if halves or row.path == drawn[row.person]:
                chosen.append(row)
        elif row.subset == "train" or row.person in both:
            chosen.append(row)
    return chosen


def multi_query(dataset: ReIDDataset) -> ReIDDataset:
    """Make one query of all query images that show a person before one camera.

    Market-1501 keeps more such images in ``gt_bbox``, and they are used. Embeddings are averaged as
    those of a tracklet's frames are.
    """
    groups = {
        key: number for number, key in enumerate(sorted({(s.pid, s.camid) for s in dataset.query}))
    }
    extra = [sample for sample in _boxes(dataset) if (sample.pid, sample.camid) in groups]
    query = tuple(
        replace(sample, tracklet=groups[sample.pid, sample.camid])
        for sample in (*dataset.query, *extra)
    )
    said = (
        f"multi-query: {len(query):,} images make {len(groups):,} queries, one a person and camera"
    )
    said += f"; {len(extra):,} of them from gt_bbox" if extra else ""
    return replace(dataset, query=query, notes=(*dataset.notes, said))


def _boxes(dataset: ReIDDataset) -> list[Sample]:
    """List the images of Market-1501's ``gt_bbox``."""
    if dataset.kind != "market1501":
        return []
    camids = {name: camid for camid, name in dataset.cameras.items()}
    found = []
    for path in images_in(dataset.root / "gt_bbox"):
        labels = LAYOUTS["market1501"].parse(path.name)
        if labels and not dataset.people:
            camid = camids.get(str(int(labels["cam"])), int(labels["cam"]))
            found.append(Sample(path, int(labels["pid"]), camid))
    return found
