"""Ranking and measuring the slow, obvious way, and sets to do it on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from passreid.labels import Labels


def random_set(
    seed: int, queries: int, gallery: int, *, levels: int = 4
) -> tuple[NDArray[np.float64], Labels]:
    """Distances with many ties; few people; junk, distractors and unknown cameras among them."""
    rng = np.random.default_rng(seed)
    labels = Labels(
        rng.integers(1, 5, queries),
        rng.integers(-1, 5, gallery),
        query_camids=rng.integers(-1, 3, queries),
        gallery_camids=rng.integers(-1, 3, gallery),
        camera_filter=bool(rng.integers(2)),
    )
    return rng.integers(0, levels, (queries, gallery)) / 4, labels


def slow_counts(labels: Labels, q: int, g: int) -> bool:
    """Does gallery image `g` count for query `q`?"""
    if labels.gallery_pids[g] == -1:
        return False
    same_camera = labels.query_camids[q] == labels.gallery_camids[g] != -1
    same_person = labels.query_pids[q] == labels.gallery_pids[g]
    return not (labels.camera_filter and same_person and same_camera)


def slow_order(distances: NDArray[Any], labels: Labels | None, q: int) -> list[int]:
    """Gallery images that count, nearest first, the earlier one first in a tie."""
    row = [float(d) for d in distances[q]]
    kept = [g for g in range(len(row)) if labels is None or slow_counts(labels, q, g)]
    return sorted(kept, key=lambda g: (row[g], g))


def slow_measure(distances: NDArray[Any], labels: Labels, max_rank: int) -> dict[str, Any]:
    """CMC, AP and INP of each query by walking down its list; None where it has no positive."""
    found: list[dict[str, Any] | None] = []
    mates: list[float] = []
    strangers: list[float] = []
    for q in range(len(distances)):
        order = slow_order(distances, labels, q)
        right = [g for g in order if labels.gallery_pids[g] == labels.query_pids[q]]
        wrong = [g for g in order if g not in right]
        for best, others in ((mates, right), (strangers, wrong)):
            best.append(max((-float(distances[q, g]) for g in others), default=-math.inf))
        precisions: list[float] = []
        first = last = 0
        for place, g in enumerate(order, 1):
            if labels.gallery_pids[g] == labels.query_pids[q]:
                precisions.append((len(precisions) + 1) / place)
                first, last = first or place, place
        found.append(
            {
                "ap": sum(precisions) / len(precisions),
                "inp": len(precisions) / last,
                "cmc": [float(first <= k) for k in range(1, max_rank + 1)],
            }
            if precisions
            else None
        )
    valid = [f for f in found if f]
    return {
        "valid": [f is not None for f in found],
        "best_mate": mates,
        "best_stranger": strangers,
        "ap": [f["ap"] if f else math.nan for f in found],
        "mAP": np.mean([f["ap"] for f in valid]) if valid else None,
        "mINP": np.mean([f["inp"] for f in valid]) if valid else None,
        "cmc": np.mean([f["cmc"] for f in valid], axis=0) if valid else None,
    }
