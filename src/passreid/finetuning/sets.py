"""Several labelled sets read as one training set, without shared people or cameras."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from passreid.data import ReIDDataset, Sample, read_dataset
from passreid.data.dataset import SUBSETS
from passreid.errors import DatasetError


@dataclass(frozen=True)
class TrainingSets:
    """The sets of a run and the union of their training images.

    Attributes:
        datasets: The sets, in the order they were given.
        samples: Training images of all sets. Pids and camids are renumbered so that no two sets
            share one; an unknown camera stays unknown.
        set_of: Index of each sample's set.
    """

    datasets: tuple[ReIDDataset, ...]
    samples: tuple[Sample, ...]
    set_of: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sets."""
        return tuple(dataset.name for dataset in self.datasets)

    @property
    def images(self) -> list[Path]:
        """Every image, including those for scoring: one could end a run halfway."""
        return [s.path for d in self.datasets for name in SUBSETS for s in d.subset(name)]

    def without(self, paths: Collection[Path]) -> TrainingSets:
        """Leave out training images."""
        pairs = zip(self.samples, self.set_of, strict=True)
        kept = [pair for pair in pairs if pair[0].path not in paths]
        samples, set_of = zip(*kept, strict=True) if kept else ((), ())
        return replace(self, samples=samples, set_of=set_of)

    def describe(self) -> list[str]:
        """Describe the sets, and warn of people with one crop or one camera."""
        lines = [line for d in self.datasets for line in (*d.describe(), *d.notes)]
        crops, cameras = Counter(s.pid for s in self.samples), defaultdict(set)
        for sample in self.samples:
            cameras[sample.pid].add(sample.camid)
        people, single = len(crops), sum(count == 1 for count in crops.values())
        of = f" of {', '.join(self.names)}" if len(self.names) > 1 else ""
        lines.append(f"Training on {len(self.samples)} crops of {people} people{of}.")
        if single:
            lines.append(f"{single} of {people} people have one crop only; batches repeat it.")
        one_camera = sum(len(seen) == 1 for seen in cameras.values())
        if one_camera and len({s.camid for s in self.samples}) > 1:
            lines.append(f"{one_camera} of {people} people were seen by one camera only.")
        return lines


def read_sets(roots: Sequence[Path], kind: str = "auto") -> TrainingSets:
    """Read labelled sets, in the layout `kind`, and join their training images.

    Raises:
        DatasetError: A set cannot be read or has no training images, or two sets share a name or an
            image.
    """
    datasets = tuple(read_dataset(root, kind) for root in roots)
    samples: list[Sample] = []
    set_of: list[int] = []
    people = cameras = 0
    for number, dataset in enumerate(datasets):
        if not dataset.train:
            raise DatasetError(
                f"{dataset.root} has no training images, read as the layout {dataset.kind}. "
                "Put your own training crops in train/PERSON/."
            )
        for s in dataset.train:
            camid = s.camid + cameras if s.camid >= 0 else s.camid
            samples.append(replace(s, pid=s.pid + people, camid=camid))
        set_of += [number] * len(dataset.train)
        people = 1 + max(s.pid for s in samples)
        cameras = 1 + max(cameras - 1, *(s.camid for s in samples))
    name, count = Counter(dataset.name for dataset in datasets).most_common(1)[0]
    if count > 1:
        raise DatasetError(
            f"Two of the sets are named '{name}', so their scores could not be told apart; rename "
            "a folder."
        )
    path, count = Counter(sample.path.resolve() for sample in samples).most_common(1)[0]
    if count > 1:
        raise DatasetError(f"{path} belongs to two of the sets; name each image once.")
    return TrainingSets(datasets, tuple(samples), tuple(set_of))
