"""What a person re-identification data set is: samples in train, query and gallery."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from passreid.errors import DatasetError

UNKNOWN_CAMERA = -1
DISTRACTOR = 0
SUBSETS = ("train", "query", "gallery")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image: where it lies, who is on it, which camera took it (-1 = unknown)."""

    path: Path
    pid: int
    camid: int = UNKNOWN_CAMERA


class SubsetCounts(NamedTuple):
    """One row of `ReIDDataset.summary`."""

    subset: str
    people: int
    images: int
    cameras: int


@dataclass(frozen=True)
class ReIDDataset:
    """A labelled set of person images, checked at birth.

    A person's pid means the same in query and gallery; train may number its people anew.

    Attributes:
        name: How the set is called in reports.
        kind: The layout it was read from, a key of `READERS`; names the variant where numbers
            depend on it (``msmt17-v2``).
        root: The folder or file it was read from.
        train: Images to learn from; may be empty.
        query: Images to look for; empty only together with `gallery`.
        gallery: Images to search in. Market-1501's distractors carry pid 0.
        notes: Whatever a reader of a result should know, one sentence each.
        people: pid -> the name in the source, where that is not a number.
        cameras: camid -> the name in the source, where that is not this number.

    Raises:
        DatasetError: No images at all, only one of query and gallery, a negative pid, a camera
            below -1, or one image twice in a subset.
    """

    name: str
    kind: str
    root: Path
    train: tuple[Sample, ...] = ()
    query: tuple[Sample, ...] = ()
    gallery: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = ()
    people: Mapping[int, str] = field(default_factory=dict)
    cameras: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("people", "cameras"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        if bool(self.query) != bool(self.gallery):
            has, lacks = ("query", "gallery") if self.query else ("gallery", "query")
            raise DatasetError(
                f"{self.root} has {has} images but no {lacks} images: a search needs both."
            )
        if not self.train and not self.query:
            raise DatasetError(f"{self.root} has no images.")
        for subset in SUBSETS:
            _check(subset, self.subset(subset))

    def __reduce__(self) -> tuple[type[ReIDDataset], tuple[object, ...]]:
        """Survive pickling between processes, which a mapping proxy does not."""
        parts = (self.train, self.query, self.gallery, self.notes)
        names = dict(self.people), dict(self.cameras)
        return type(self), (self.name, self.kind, self.root, *parts, *names)

    def subset(self, name: str) -> tuple[Sample, ...]:
        """The samples of ``"train"``, ``"query"`` or ``"gallery"``."""
        return {"train": self.train, "query": self.query, "gallery": self.gallery}[name]

    @property
    def has_cameras(self) -> bool:
        """True when the camera of every image is known."""
        samples = (*self.train, *self.query, *self.gallery)
        return all(sample.camid != UNKNOWN_CAMERA for sample in samples)

    def unanswerable(self) -> list[Sample]:
        """List queries whose person no other camera shows in the gallery; they do not count."""
        seen: dict[int, set[int]] = defaultdict(set)
        for sample in self.gallery:
            seen[sample.pid].add(sample.camid)
        return [
            query
            for query in self.query
            if not (seen[query.pid] - {query.camid} or (query.camid < 0 and seen[query.pid]))
        ]

    def summary(self) -> list[SubsetCounts]:
        """Count people, images and known cameras of each subset; distractors are not people."""
        searched = {sample.pid for sample in self.query}
        rows = []
        for name in SUBSETS:
            samples = self.subset(name)
            pids = {sample.pid for sample in samples}
            if name == "gallery" and DISTRACTOR not in searched:
                pids.discard(DISTRACTOR)
            cameras = {sample.camid for sample in samples} - {UNKNOWN_CAMERA}
            rows.append(SubsetCounts(name, len(pids), len(samples), len(cameras)))
        return rows


def relabel(samples: Iterable[Sample]) -> tuple[NDArray[np.int64], dict[int, int]]:
    """Number the people of `samples` 0, 1, … in the order of their pids, for a classifier.

    Returns:
        (N,) int64 labels in the order of `samples`, and pid -> label. Both depend only on which
        pids occur, so every process of a distributed run agrees.
    """
    pids = [sample.pid for sample in samples]
    mapping = {pid: label for label, pid in enumerate(sorted(set(pids)))}
    return np.array([mapping[pid] for pid in pids], dtype=np.int64), mapping


def _check(subset: str, samples: Sequence[Sample]) -> None:
    """Refuse labels that would be counted wrongly, and an image listed twice."""
    seen: set[Path] = set()
    for sample in samples:
        if sample.pid < 0:
            raise DatasetError(
                f"{subset}: {sample.path} has pid {sample.pid}; a person's number is 0 or more, "
                "and junk (-1) must be left out."
            )
        if sample.camid < UNKNOWN_CAMERA:
            raise DatasetError(
                f"{subset}: {sample.path} has camera {sample.camid}; a camera's number is 0 or "
                "more, or -1 when it is not known."
            )
        if sample.path in seen:
            raise DatasetError(f"{subset}: {sample.path} is listed twice.")
        seen.add(sample.path)
