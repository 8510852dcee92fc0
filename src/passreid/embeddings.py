"""The embeddings of a subset's images: tracklets pooled, copies found."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from passreid.data import Sample
from passreid.embed import Skipped
from passreid.listing import first_few


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The images of a subset that could be read, and their embeddings.

    Attributes:
        samples: N images.
        rows: (N, D) float32.
        skipped: Images that could not be read.
        seconds: How long reading and embedding took.
        digests: Hash of each image's file, by which copies are found; empty where not taken.
        images: How many images were embedded; more than N where they are frames of tracklets.
    """

    samples: tuple[Sample, ...]
    rows: NDArray[np.float32]
    skipped: tuple[Skipped, ...] = ()
    seconds: float = 0.0
    digests: tuple[str, ...] = ()
    images: int = 0

    @property
    def pids(self) -> NDArray[np.int64]:
        """(N,) people."""
        return np.array([sample.pid for sample in self.samples], np.int64)

    @property
    def camids(self) -> NDArray[np.int64]:
        """(N,) cameras, -1 where unknown."""
        return np.array([sample.camid for sample in self.samples], np.int64)

    @property
    def clothids(self) -> NDArray[np.int64]:
        """(N,) clothes, -1 where unknown."""
        return np.array([sample.clothid for sample in self.samples], np.int64)

    def distinct(self) -> Embeddings:
        """Keep the first of images with equal content."""
        kept = [same[0] for same in by_content([self])]
        return replace(
            self,
            samples=tuple(self.samples[index] for index in kept),
            rows=self.rows[kept],
            digests=tuple(self.digests[index] for index in kept) if self.digests else (),
        )

    def pooled(self) -> Embeddings:
        """Average the embeddings of each tracklet's frames; its first frame stands for it."""
        if all(sample.tracklet < 0 for sample in self.samples):
            return self
        frames: dict[int, list[int]] = {}
        for index, sample in enumerate(self.samples):
            key = -1 - index if sample.tracklet < 0 else sample.tracklet
            frames.setdefault(key, []).append(index)
        kept = list(frames.values())
        return replace(
            self,
            samples=tuple(self.samples[group[0]] for group in kept),
            rows=np.stack([self.rows[group].mean(axis=0) for group in kept]),
            digests=tuple(" ".join(self.digests[i] for i in group) for group in kept),
        )


def copy_notes(parts: list[Embeddings]) -> list[str]:
    """Name files of equal content: labelled as two people, or a query copied from the gallery."""
    samples = [sample for part in parts for sample in part.samples]
    queries = len(parts[0].samples)
    contradictory, leaked, repeated = [], [], []
    for same in by_content(parts):
        files = list({samples[index].path: samples[index] for index in same}.values())
        if len(files) < 2:
            continue
        named = " = ".join(file.path.name for file in files[:3])
        if len({file.pid for file in files}) > 1:
            contradictory.append(named)
        elif len(parts) > 1 and same[0] < queries <= same[-1]:
            leaked.append(named)
        else:
            repeated.append(named)
    return [
        f"{what}: {len(found)} ({first_few(found)})."
        for found, what in (
            (contradictory, "Files labelled as different people, so one label is wrong"),
            (leaked, "Queries copied from the gallery, which find themselves"),
            (repeated, "Files that are in the set more than once"),
        )
        if found
    ]


def by_content(parts: list[Embeddings]) -> list[list[int]]:
    """Group the images of all parts by the content of their files."""
    groups: dict[str, list[int]] = {}
    keys = (k for p in parts for k in p.digests or (str(sample.path) for sample in p.samples))
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return list(groups.values())
