"""Measure a gallery in a folder on clustered random vectors; one JSON object on stdout.

    python benchmarks/gallery.py FOLDER --count 50000 --dim 384
    python benchmarks/gallery.py FOLDER --steps search        again, on the gallery that is there

Each person has about ten pictures around a direction of their own; queries are further pictures of
people who are there, asked without a filter and with filters for cameras that let an eighth, half
and seven eighths through. What is measured, and the answers of exact search, are kept in
FOLDER.json beside FOLDER.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from passreid.gallery import Entry, Gallery, Layout, Where, open_gallery

SPREAD = 0.6  # length of a picture's noise beside a person's unit direction
SEEN = 10  # pictures of one person
BLOCK = 1000
QUESTIONS = 200
STEPS = ("enrol", "compact", "truth", "search", "search_index")
CAMERAS = tuple(f"c{number}" for number in range(8))
FILTERS = {
    "all": None,
    "one_camera": Where(cameras=CAMERAS[3:4]),
    "four_cameras": Where(cameras=CAMERAS[:4]),
    "all_but_one": Where(not_cameras=CAMERAS[3:4]),
}


def pictures(people: np.ndarray, dim: int, noise: np.random.Generator) -> np.ndarray:
    """Return float32 (N, dim): a picture of each of the people whose numbers (N,) are given."""
    different, of = np.unique(people, return_inverse=True)
    centres = np.stack([np.random.default_rng(int(n)).standard_normal(dim) for n in different])
    rows = centres[of] + SPREAD * noise.standard_normal((len(people), dim))
    return rows.astype(np.float32)


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


def questions(count: int, dim: int) -> np.ndarray:
    noise = np.random.default_rng(2)
    return pictures(noise.integers(0, max(count // SEEN, 1), QUESTIONS), dim, noise)


def asked(
    gallery: Gallery, where: Where | None, rows: np.ndarray, exact: bool | None
) -> tuple[list[list[str]], dict[str, float]]:
    """Return the ids of each question's top 10, and milliseconds."""
    found, taken = [], []
    for row in rows:
        begin = time.perf_counter()
        hits = gallery.search(row, where=where, exact=exact)
        taken.append(1000 * (time.perf_counter() - begin))
        found.append([hit.entry.id for hit in hits])
    p50, p95 = np.percentile(taken, (50, 95))
    return found, {"p50_ms": float(p50), "p95_ms": float(p95)}


def searched(
    gallery: Gallery, rows: np.ndarray, truth: dict[str, Any], exact: bool | None
) -> dict[str, Any]:
    """Measure searches with every filter against what exact search found."""
    told = {}
    for name, where in FILTERS.items():
        found, times = asked(gallery, where, rows, exact)
        pairs = zip(found, truth[name], strict=True)
        hit = sum(len(set(mine) & set(real)) for mine, real in pairs)
        told[name] = {"recall": hit / sum(map(len, truth[name]))} | times
    return told


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


def step(name: str, gallery: Gallery, kept: dict[str, Any]) -> dict[str, Any]:
    count, dim = kept["count"], kept["dim"]
    begin = time.perf_counter()
    if name == "enrol":
        spent: list[float] = []
        gallery.add(made(count, dim, spent))
        return {"entries_per_s": count / (time.perf_counter() - begin - sum(spent))}
    if name == "compact":
        gallery.compact()
        taken = time.perf_counter() - begin
        told = gallery.info()
        return {"s": taken, "indexed": told.indexed, "bytes_on_disk": told.bytes_on_disk}
    rows = questions(count, dim)
    if name == "truth":
        answers = {key: asked(gallery, where, rows, True) for key, where in FILTERS.items()}
        kept["answers"] = {key: found for key, (found, _) in answers.items()}
        return {key: times for key, (_, times) in answers.items()}
    gallery.search(rows[0])  # opened files are read from the disk first
    return searched(gallery, rows, kept["answers"], False if name == "search_index" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    options = parser.parse_args()
    path = options.folder.with_name(f"{options.folder.name}.json")
    kept: dict[str, Any] = {"count": options.count, "dim": options.dim, "int8": options.int8}
    if path.exists():
        kept = json.loads(path.read_text())
    with open_gallery(
        options.folder,
        model="random",
        dim=kept["dim"],
        create=True,
        layout=Layout(int8=kept["int8"]),
    ) as gallery:
        for name in options.steps:
            with Memory() as memory:
                told = step(name, gallery, kept)
            kept[name] = told | {"own_memory_mb": memory.own, "with_files_mb": memory.whole}
            path.write_text(json.dumps(kept))
    print(json.dumps({key: told for key, told in kept.items() if key != "answers"}, indent=1))


if __name__ == "__main__":
    main()
