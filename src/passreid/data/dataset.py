"""`ReIDDataset`: labelled samples in train, query and gallery."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
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
        camid: The camera, -1 if unknown.
        tracklet: The tracklet it is a frame of, which is embedded as one; -1 for a single image.
        clothid: The person's outfit, -1 if unknown; only compared within one person.
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

    A pid is the same person in query and gallery; train may number its people separately.

    Attributes:
        name: Name of the set in reports.
        kind: The layout it was read from, such as ``market1501`` or ``csv``.
        root: The folder or file it was read from.
        train: Training images; may be empty.
        query: Query images; empty only together with `gallery`.
        gallery: Gallery images. Distractors of Market-1501 have pid 0.
        notes: What a reader of a result should know, one sentence each.
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
        """Pickle the mapping proxies as plain dictionaries."""
        values = [getattr(self, each.name) for each in fields(self)]
        return type(self), tuple(dict(v) if isinstance(v, Mapping) else v for v in values)

    def subset(self, name: str) -> tuple[Sample, ...]:
        """Return the samples of ``"train"``, ``"query"`` or ``"gallery"``."""
        return {"train": self.train, "query": self.query, "gallery": self.gallery}[name]

    @property
    def has_cameras(self) -> bool:
        """True if the camera of every image is known."""
        samples = (*self.train, *self.query, *self.gallery)
        return all(sample.camid != UNKNOWN_CAMERA for sample in samples)

    @property
    def has_tracklets(self) -> bool:
        """True if some images are frames of tracklets."""
        return any(s.tracklet >= 0 for s in (*self.train, *self.query, *self.gallery))

    def items(self, subset: str) -> list[Sample]:
        """List what is ranked: each single image, and the first frame of each tracklet."""
        first: dict[Path | int, Sample] = {}
        for sample in self.subset(subset):
            first.setdefault(sample.path if sample.tracklet < 0 else sample.tracklet, sample)
        return list(first.values())

    def unanswerable(self) -> list[Sample]:
        """List queries of people whom no other camera shows in the gallery; they do not count."""
        seen: dict[int, set[int]] = defaultdict(set)
        for sample in self.gallery:
            seen[sample.pid].add(sample.camid)
        return [
            query
            for query in self.items("query")
            if not (seen[query.pid] - {query.camid} or (query.camid < 0 and seen[query.pid]))
        ]

    def describe(self) -> list[str]:
        """Describe the set in lines of text: people, images and cameras of each subset."""
        lines = [f"{self.name} ({self.kind})"]
        for subset, people, images, cameras in self.summary():
            if images:
                seen = f"{cameras} cameras" if cameras else "cameras unknown"
                tracklets = len(self.items(subset))
                frames = f"  in {tracklets:,} tracklets" if tracklets < images else ""
                lines.append(
                    f"  {subset:<8} {images:>7,} images  {people:>6,} people  {seen}{frames}"
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
    """Number the people of `samples` 0, 1, … by ascending pid, for a classifier.

    Returns:
        (N,) int64 labels in the order of `samples`, and pid -> label. Both depend only on which
        pids occur, so every process of a distributed run agrees.
    """
    pids = [sample.pid for sample in samples]
    mapping = {pid: label for label, pid in enumerate(sorted(set(pids)))}
    return np.array([mapping[pid] for pid in pids], dtype=np.int64), mapping


def _check(subset: str, samples: Sequence[Sample]) -> None:
    """Reject invalid labels and images listed twice."""
    seen: set[Path] = set()
    for sample in samples:
        if max(sample.pid, sample.camid) >= 2**63:
            problem = (
                "has a pid or camera beyond 64 bits; number people and cameras from 0 and give "
                "their names in `people` and `cameras`"
            )
        elif sample.pid < 0:
            problem = f"has pid {sample.pid}; use 0 or more, and leave out junk (-1)"
        elif sample.camid < UNKNOWN_CAMERA:
            problem = f"has camera {sample.camid}; use 0 or more, or -1 if unknown"
        elif sample.path in seen:
            problem = "is listed twice"
        else:
            seen.add(sample.path)
            continue
        raise DatasetError(f"{subset}: {sample.path} {problem}.")
