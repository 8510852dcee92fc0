"""Measure a gallery in a folder on clustered random vectors; one JSON object on stdout.

    python benchmarks/gallery.py FOLDER --count 50000 --dim 384

Each person has about ten pictures around a direction of their own; queries are further pictures of
people who are there. FOLDER must not exist; it is left for a look. `--exact-up-to 0` sends filtered
searches through the index, however few entries the filter lets through.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from passreid.gallery import Entry, Gallery, Where, embedded, open_gallery

SPREAD = 0.6  # length of a picture's noise beside a person's unit direction
SEEN = 10  # pictures of one person


def pictures(people: np.ndarray, noise: np.random.Generator) -> np.ndarray:
    """Return float32 (N, D): a picture of each of the people whose numbers (N,) are given."""
    dim = DIM[0]
    centres = [np.random.default_rng(int(n)).standard_normal(dim) for n in people]
    rows = np.stack(centres) + SPREAD * noise.standard_normal((len(people), dim))
    return rows.astype(np.float32)


DIM = [384]


def made(count: int) -> Iterator[Entry]:
    noise = np.random.default_rng(1)
    for start in range(0, count, 1000):
        numbers = np.arange(start, min(start + 1000, count))
        for number, row in zip(numbers, pictures(numbers // SEEN, noise), strict=True):
            yield Entry(content_hash=str(number), embedding=row, camera=f"c{number % 8}")


def searched(gallery: Gallery, count: int, where: Where | None) -> dict[str, float]:
    """Return the recall of the top 10 against exact search, and milliseconds of both."""
    noise = np.random.default_rng(2)
    people = noise.integers(0, max(count // SEEN, 1), 200)
    hit, fast, slow = 0, [], []
    for row in pictures(people, noise):
        begin = time.perf_counter()
        found = gallery.search(row, where=where)
        fast.append(1000 * (time.perf_counter() - begin))
        begin = time.perf_counter()
        truth = gallery.search(row, where=where, exact=True)
        slow.append(1000 * (time.perf_counter() - begin))
        hit += len({h.entry.id for h in found} & {h.entry.id for h in truth})
    return {
        "recall": hit / (10 * len(fast)),
        "p50_ms": float(np.percentile(fast, 50)),
        "p95_ms": float(np.percentile(fast, 95)),
        "exact_p50_ms": float(np.percentile(slow, 50)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--exact-up-to", type=int)
    options = parser.parse_args()
    DIM[0] = options.dim
    if options.exact_up_to is not None:
        embedded._EXACT_UP_TO = options.exact_up_to
    if options.folder.exists():
        parser.error(f"{options.folder} exists")
    with open_gallery(options.folder, model="random", dim=options.dim, create=True) as gallery:
        begin = time.perf_counter()
        gallery.add(made(options.count))
        enrolled = time.perf_counter() - begin
        begin = time.perf_counter()
        gallery.compact()
        compacted = time.perf_counter() - begin
        told = gallery.info()
        result = {
            "count": told.count,
            "dim": told.dim,
            "enrolled_per_s": told.count / enrolled,
            "compact_s": compacted,
            "indexed": told.indexed,
            "bytes_on_disk": told.bytes_on_disk,
            "all": searched(gallery, options.count, None),
            "one_camera": searched(gallery, options.count, Where(cameras=("c3",))),
            "four_cameras": searched(
                gallery, options.count, Where(cameras=("c0", "c1", "c2", "c3"))
            ),
            "all_but_one": searched(gallery, options.count, Where(not_cameras=("c3",))),
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
