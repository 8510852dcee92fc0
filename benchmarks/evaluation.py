"""Seconds and peak memory of evaluation and re-ranking, beside a straightforward implementation.

    python benchmarks/evaluation.py                               Market-1501 size, random features
    python benchmarks/evaluation.py --features clustered --queries 1000 --gallery 4000
    python benchmarks/evaluation.py --queries 11659 --gallery 82161 --peer none      MSMT17 size

The peer is written here from the formulas, in the way published evaluation code goes about it: the
whole distance matrix and its argsort, a Python loop over the queries and down their lists, dense
N x N matrices in re-ranking. Every job has a process of its own, so that peaks do not mix; "before"
is the peak when the clock starts, with the features made.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from passreid.labels import Labels
from passreid.ranking import measure
from passreid.reranking import rerank

F32 = NDArray[np.float32]
PEOPLE, CAMERAS = 750, 6


def make(kind: str, queries: int, gallery: int, width: int) -> tuple[F32, F32, Labels]:
    """Features without structure, or people as clouds whose neighbours overlap as real ones do."""
    rng = np.random.default_rng(0)
    q_pids = rng.integers(1, PEOPLE + 1, queries)
    g_pids = rng.integers(0, PEOPLE + 1, gallery)
    q_cams, g_cams = rng.integers(CAMERAS, size=queries), rng.integers(CAMERAS, size=gallery)
    features = rng.standard_normal((queries + gallery, width), dtype=np.float32)
    if kind == "clustered":
        pids, cams = np.concatenate([q_pids, g_pids]), np.concatenate([q_cams, g_cams])
        features *= 1.5 * rng.random((len(features), 1), dtype=np.float32) + 0.5
        features += 1.5
        features += rng.standard_normal((CAMERAS, width), dtype=np.float32)[cams]
        features += rng.standard_normal((PEOPLE + 1, width), dtype=np.float32)[pids]
    labels = Labels(q_pids, g_pids, query_camids=q_cams, gallery_camids=g_cams)
    return features[:queries], features[queries:], labels


def unit(rows: F32) -> F32:
    normalised: F32 = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normalised


def peer_measure(query: F32, gallery: F32, labels: Labels) -> tuple[float, float]:
    """mAP and Rank-1 from the sorted indices of the whole distance matrix."""
    order = np.argsort(2 - 2 * unit(query) @ unit(gallery).T, axis=1)
    right = labels.gallery_pids[order] == labels.query_pids[:, None]
    precisions, first = [], []
    for q in range(len(query)):
        listed = order[q]
        own = (labels.gallery_pids[listed] == labels.query_pids[q]) & (
            labels.gallery_camids[listed] == labels.query_camids[q]
        )
        hits = right[q][~own].astype(np.int32)
        if hits.any():
            so_far = [found / place for place, found in enumerate(hits.cumsum(), 1)]
            precisions.append((np.asarray(so_far) * hits).sum() / hits.sum())
            first.append(hits[0])
    return float(np.mean(precisions)), float(np.mean(first))


def mutual(order: NDArray[np.int32], image: int, k: int) -> NDArray[np.int32]:
    near = order[image, : k + 1]
    back: NDArray[np.bool_] = (order[near, : k + 1] == image).any(axis=1)
    return near[back]


def peer_rerank(query: F32, gallery: F32) -> F32:
    """k-reciprocal re-ranking with dense matrices and a loop over images (k1 20, k2 6, 0.3)."""
    everyone = unit(np.concatenate([query, gallery]))
    distance = 2 - 2 * everyone @ everyone.T
    distance /= distance.max(axis=1, keepdims=True)
    order = np.argsort(distance, axis=1).astype(np.int32)
    encoding = np.zeros_like(distance)
    for image in range(len(everyone)):
        own = mutual(order, image, 20)
        members = [own]
        for friend in own:
            theirs = mutual(order, friend, 10)
            if 3 * len(np.intersect1d(theirs, own)) > 2 * len(theirs):
                members.append(theirs)
        chosen = np.unique(np.concatenate(members))
        weights = np.exp(-distance[image, chosen])
        encoding[image, chosen] = weights / weights.sum()
    result: F32 = distance[: len(query), len(query) :].copy()
    del distance
    mean = np.zeros_like(encoding)
    for image in range(len(everyone)):
        mean[image] = encoding[order[image, :6]].mean(axis=0)
    del encoding, order
    holders = [np.flatnonzero(mean[:, column]) for column in range(len(everyone))]
    for q in range(len(query)):
        overlap = np.zeros(len(everyone), np.float32)
        for column in np.flatnonzero(mean[q]):
            found = holders[column]
            overlap[found] += np.minimum(mean[q, column], mean[found, column])
        result[q] = 0.3 * result[q] + 0.7 * (1 - overlap / (2 - overlap))[len(query) :]
    return result


def our_measure(query: F32, gallery: F32, labels: Labels) -> tuple[float, float]:
    metrics = measure(query, gallery, labels=labels)
    return metrics.mAP, metrics.rank(1)


JOBS: dict[tuple[str, str], Callable[[F32, F32, Labels], Any]] = {
    ("distances + CMC, mAP, mINP", "passreid"): our_measure,
    ("distances + CMC, mAP, mINP", "peer"): peer_measure,
    ("re-ranking", "passreid"): lambda query, gallery, _: rerank(query, gallery),
    ("re-ranking", "peer"): lambda query, gallery, _: peer_rerank(query, gallery),
}


def peak_gib() -> float:
    """Largest resident size of this process so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run(key: tuple[str, str], data: tuple[str, int, int, int]) -> dict[str, Any]:
    query, gallery, labels = make(*data)
    before = peak_gib()
    start = time.perf_counter()
    answer = JOBS[key](query, gallery, labels)
    seconds = time.perf_counter() - start
    if isinstance(answer, np.ndarray):
        answer = answer[:: max(1, len(answer) // 50)]
    return {"seconds": seconds, "before": before, "peak": peak_gib(), "answer": answer}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--queries", type=int, default=3368)
    parser.add_argument("--gallery", type=int, default=15913)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--features", choices=["random", "clustered"], default="random")
    parser.add_argument("--peer", choices=["all", "measures", "none"], default="all")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each job; the best counts")
    options = parser.parse_args()
    data = (options.features, options.queries, options.gallery, options.width)
    print(f"{options.queries} x {options.gallery} x {options.width}, {options.features} features")
    ours: dict[str, dict[str, Any]] = {}
    for task, who in JOBS:
        if who == "peer" and (
            options.peer == "none" or (options.peer == "measures" and task == "re-ranking")
        ):
            continue
        runs = 1 if task == "re-ranking" else options.repeat
        results = []
        for _ in range(runs):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                results.append(pool.apply(run, ((task, who), data)))
        best = min(results, key=lambda result: float(result["seconds"]))
        line = f"{task:27} {who:9} {best['seconds']:8.2f} s   peak {best['peak']:5.2f} GiB"
        line += f" ({best['before']:.2f} before)"
        if who == "passreid":
            ours[task] = best
        else:
            apart = np.abs(np.subtract(best["answer"], ours[task]["answer"]))
            line += f"   {best['seconds'] / ours[task]['seconds']:.1f} x ours; answers differ by"
            line += f" up to {apart.max():.1e}, {(apart > 1e-5).mean():.2%} of them by over 1e-5"
        print(line, flush=True)


if __name__ == "__main__":
    main()
