"""Measure a gallery in a file on clustered random vectors; one JSON object on stdout.

    python benchmarks/gallery.py FILE --count 50000 --dim 384
    python benchmarks/gallery.py FILE --steps open search      again, on the gallery that is there

Each person has about ten pictures around a direction of their own; queries are further pictures of
people who are there, asked without a filter and with filters for cameras that let an eighth and
half through. `--vectors V.npy` (float32, N x D) takes people's directions from real embeddings: a
person is a mixture of three of them, so that vectors lie as those do. What is measured is kept in
FILE.json beside FILE.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from passreid.gallery import Entry, Gallery, Where, open_gallery

SPREAD = 0.6  # length of a picture's noise beside a person's unit direction
SEEN = 10  # pictures of one person
BLOCK = 1000
STEPS = ("enrol", "open", "search")
CAMERAS = tuple(f"c{number}" for number in range(8))
FILTERS = {
    "all": None,
    "one_camera": Where(cameras=CAMERAS[3:4]),
    "four_cameras": Where(cameras=CAMERAS[:4]),
}
REAL: np.ndarray | None = None


def pictures(people: np.ndarray, dim: int, noise: np.random.Generator) -> np.ndarray:
    """Return float32 (N, dim): a picture of each of the people whose numbers (N,) are given."""
    different, of = np.unique(people, return_inverse=True)
    centres = np.stack([direction(np.random.default_rng(int(n)), dim) for n in different])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    around = np.stack([direction(noise, dim) for _ in of])
    around /= np.linalg.norm(around, axis=1, keepdims=True)
    return (centres[of] + SPREAD * around).astype(np.float32)


def direction(rng: np.random.Generator, dim: int) -> np.ndarray:
    if REAL is None:
        return rng.standard_normal(dim)
    mixed: np.ndarray = rng.dirichlet((0.5, 0.5, 0.5)) @ REAL[rng.integers(0, len(REAL), 3)]
    return mixed


def made(count: int, dim: int, spent: list[float]) -> Iterator[Entry]:
    """Yield the entries; the seconds their making took are added to `spent`."""
    noise = np.random.default_rng(1)
    for start in range(0, count, BLOCK):
        begin = time.perf_counter()
        numbers = np.arange(start, min(start + BLOCK, count))
        rows = pictures(numbers // SEEN, dim, noise)
        block = [
            Entry(content_hash=str(number), embedding=row, camera=CAMERAS[number % len(CAMERAS)])
            for number, row in zip(numbers, rows, strict=True)
        ]
        spent.append(time.perf_counter() - begin)
        yield from block


def questions(count: int, dim: int, many: int) -> np.ndarray:
    noise = np.random.default_rng(2)
    return pictures(noise.integers(0, max(count // SEEN, 1), many), dim, noise)


def asked(
    gallery: Gallery, where: Where | None, rows: np.ndarray, exact: bool | None
) -> tuple[list[list[str]], dict[str, float]]:
    """Return the ids of each question's top 10, and milliseconds, of the clock and of work."""
    found, taken, worked = [], [], []
    for row in rows:
        begin, spent = time.perf_counter(), time.process_time()
        hits = gallery.search(row, where=where, exact=exact)
        taken.append(1000 * (time.perf_counter() - begin))
        worked.append(1000 * (time.process_time() - spent))
        found.append([hit.entry.id for hit in hits])
    measured: dict[str, float] = {}
    for name, times in (("ms", taken), ("cpu_ms", worked)):
        p50, p95 = np.percentile(times, (50, 95))
        measured |= {f"p50_{name}": float(p50), f"p95_{name}": float(p95)}
    return found, measured


def searched(gallery: Gallery, rows: np.ndarray) -> dict[str, Any]:
    """Measure searches with every filter, as they are and exact."""
    measured: dict[str, Any] = {}
    for name, where in FILTERS.items():
        truth, exact = asked(gallery, where, rows, True)
        found, times = asked(gallery, where, rows, None)
        pairs = zip(found, truth, strict=True)
        hit = sum(len(set(mine) & set(real)) for mine, real in pairs)
        measured[name] = {"recall": hit / sum(map(len, truth))} | times | {"exact": exact}
    return measured


class Memory(threading.Thread):
    """Watches this process until it is left: its memory, and with the files it maps, in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own = self.whole = 0.0
        self._left = threading.Event()

    def __enter__(self) -> Memory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self.join()

    def run(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            now = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
            own = int(now["RssAnon"]) / 1024
            self.own = max(self.own, own)
            self.whole = max(self.whole, own + int(now["RssFile"]) / 1024)
            if self._left.wait(0.05):
                return


def enrolled(path: Path, kept: dict[str, Any]) -> dict[str, Any]:
    count, dim = kept["count"], kept["dim"]
    spent: list[float] = []
    with open_gallery(path, model="random", dim=dim, create=True) as gallery:
        begin = time.perf_counter()
        gallery.add(made(count, dim, spent))
        taken = time.perf_counter() - begin - sum(spent)
        return {"entries_per_s": count / taken, "bytes_on_disk": gallery.info().bytes_on_disk}


def main() -> None:
    global REAL
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    options = parser.parse_args()
    REAL = None if options.vectors is None else np.load(options.vectors)
    path = options.file.with_name(f"{options.file.name}.json")
    kept: dict[str, Any] = {"count": options.count, "dim": options.dim}
    if path.exists():
        kept = json.loads(path.read_text())
    kept["load"] = os.getloadavg()[0]
    if "enrol" in options.steps:
        with Memory() as memory:
            kept["enrol"] = enrolled(options.file, kept)
        kept["enrol"]["memory_mb"] = memory.own
    if {"open", "search"} & set(options.steps):
        with Memory() as memory:
            begin, spent = time.perf_counter(), time.process_time()
            gallery = open_gallery(options.file)
            kept["open"] = {
                "s": time.perf_counter() - begin,
                "cpu_s": time.process_time() - spent,
            }
            if "search" in options.steps:
                rows = questions(kept["count"], kept["dim"], options.questions)
                gallery.search(rows[0])
                kept["search"] = searched(gallery, rows)
            gallery.close()
        kept["open"]["memory_mb"] = memory.own
    path.write_text(json.dumps(kept))
    print(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
