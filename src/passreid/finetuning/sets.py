"""Several labelled sets read as one training set: nobody and no camera is in two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from passreid.data import ReIDDataset, Sample, read_dataset
from passreid.data.dataset import SUBSETS
from passreid.errors import DatasetError


@dataclass(frozen=True)
class TrainingSets:
    """The sets of a run and the union of their training images.

    Attributes:
        datasets: The sets, in the order they were named.
        samples: Training images of all sets. Pids and camids are renumbered so that those of
            different sets never meet; an unknown camera stays unknown.
        set_of: For each sample, the index of its set.
    """

    datasets: tuple[ReIDDataset, ...]
    samples: tuple[Sample, ...]
    set_of: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sets, in their order."""
        return tuple(dataset.name for dataset in self.datasets)

    def without(self, bad: Sequence[Path]) -> TrainingSets:
        """Leave out training images, such as those that cannot be read."""
        left_out = set(bad)
        pairs = zip(self.samples, self.set_of, strict=True)
        kept = [pair for pair in pairs if pair[0].path not in left_out]
        samples, set_of = zip(*kept, strict=True) if kept else ((), ())
        return replace(self, samples=samples, set_of=set_of)

    @property
    def images(self) -> list[Path]:
        """Every image of every set. Those for scoring, too: one could end a run in its midst."""
        return [s.path for d in self.datasets for name in SUBSETS for s in d.subset(name)]


def read_sets(roots: Sequence[Path], kind: str = "auto") -> TrainingSets:
    """Read labelled sets and join their training images.

    Args:
        roots: Roots of the sets.
        kind: Layout of all of them, as `read_dataset` takes it.

    Raises:
        DatasetError: A set cannot be read, has no training images, or two sets share a name or an
            image.
    """
    datasets = tuple(read_dataset(root, kind) for root in roots)
    samples: list[Sample] = []
    set_of: list[int] = []
    people = cameras = 0
    for number, dataset in enumerate(datasets):
        if not dataset.train:
            raise DatasetError(
                f"{dataset.root} has no training images, read as a set of the kind {dataset.kind}. "
                "Crops of your own to train on lie in train/PERSON/."
            )
        for s in dataset.train:
            camid = s.camid + cameras if s.camid >= 0 else s.camid
            samples.append(replace(s, pid=s.pid + people, camid=camid))
        set_of += [number] * len(dataset.train)
        people = 1 + max(s.pid for s in samples)
        cameras = 1 + max(cameras - 1, *(s.camid for s in samples))
    _check_apart(datasets, samples)
    return TrainingSets(datasets, tuple(samples), tuple(set_of))


def _check_apart(datasets: Sequence[ReIDDataset], samples: Sequence[Sample]) -> None:
    names = [dataset.name for dataset in datasets]
    for name in names:
        if names.count(name) > 1:
            raise DatasetError(
                f"Two of the sets are named '{name}', so their scores could not be told apart; "
                "rename a folder."
            )
    seen: set[Path] = set()
    for path in (sample.path.resolve() for sample in samples):
        if path in seen:
            raise DatasetError(f"{path} belongs to two of the sets; name each image once.")
        seen.add(path)
