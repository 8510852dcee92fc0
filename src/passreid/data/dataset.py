"""`ReIDDataset`: labelled samples in train, query and gallery."""

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
    """One image and its labels.

    Attributes:
        path: The image file.
        pid: The person.
        camid: The camera, -1 where unknown.
        tracklet: The tracklet it is a frame of, which is embedded as one; -1 for a single image.
        clothid: What the person wears, -1 where unknown; compared within one person only.
    """

    path: Path
    pid: int
    camid: int = UNKNOWN_CAMERA
    tracklet: int = -1
    clothid: int = -1


class SubsetCounts(NamedTuple):
    """One row of `ReIDDataset.summary`."""

    subset: str
    people: int
    images: int
    cameras: int


@dataclass(frozen=True)
class ReIDDataset:
    """A labelled set of person images.

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
        splits: Number of random splits the set's protocol averages over; this is one of them.

    Raises:
        DatasetError: No images at all, only one of query and gallery, a negative pid, a camera
            below -1, numbers beyond 64 bits, or one image twice in a subset.
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
    splits: int = 1

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
        return type(self), (self.name, self.kind, self.root, *parts, *names, self.splits)

    def subset(self, name: str) -> tuple[Sample, ...]:
        """The samples of ``"train"``, ``"query"`` or ``"gallery"``."""
        return {"train": self.train, "query": self.query, "gallery": self.gallery}[name]

    @property
    def has_cameras(self) -> bool:
        """True when the camera of every image is known."""
        samples = (*self.train, *self.query, *self.gallery)
        return all(sample.camid != UNKNOWN_CAMERA for sample in samples)

    def items(self, subset: str) -> list[Sample]:
        """List what is ranked: each image, or the first frame of each tracklet."""
        return list(
            {
                sample.path if sample.tracklet < 0 else sample.tracklet: sample
                for sample in reversed(self.subset(subset))
            }.values()
        )[::-1]

    @property
    def has_tracklets(self) -> bool:
        """True when some images are frames of tracklets."""
        return any(s.tracklet >= 0 for s in (*self.train, *self.query, *self.gallery))

    def unanswerable(self) -> list[Sample]:
        """List queries whose person no other camera shows in the gallery; they do not count."""
        seen: dict[int, set[int]] = defaultdict(set)
        for sample in self.gallery:
            seen[sample.pid].add(sample.camid)
        return [
            query
            for query in self.items("query")
            if not (seen[query.pid] - {query.camid} or (query.camid < 0 and seen[query.pid]))
        ]

    def describe(self) -> list[str]:
        """Say what was understood: the set, and people, images and cameras of each subset."""
        lines = [f"{self.name} ({self.kind})"]
        for subset, people, images, cameras in self.summary():
            if images:
                seen = f"{cameras} cameras" if cameras else "cameras unknown"
                tracklets = len(self.items(subset))
                frames = f"  in {tracklets:,} tracklets" if tracklets < images else ""
                lines.append(
                    f"  {subset:<8} {images:>7,} pictures  {people:>6,} people  {seen}{frames}"
                )
        return lines

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
        if max(sample.pid, sample.camid) >= 2**63:
            raise DatasetError(
                f"{subset}: {sample.path} has a pid or camera beyond 64 bits; number people and "
                "cameras from 0 and give their names in `people` and `cameras`."
            )
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
