"""Folders of empty files: readers look at names only."""

from __future__ import annotations

from pathlib import Path

from passreid.data import ReIDDataset


def touch(root: Path, *names: str) -> Path:
    """Make empty files below `root`."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def market(root: Path) -> Path:
    """A small set in Market-1501's layout."""
    return touch(
        root,
        "bounding_box_train/0007_c1s1_000001_01.jpg",
        "bounding_box_train/0007_c2s1_000001_01.jpg",
        "bounding_box_train/0011_c1s1_000001_01.jpg",
        "query/0002_c1s1_000451_03.jpg",
        "bounding_box_test/-1_c1s1_000401_03.jpg",
        "bounding_box_test/0000_c3s1_000401_03.jpg",
        "bounding_box_test/0002_c2s1_000451_03.jpg",
        "bounding_box_test/Thumbs.db",
        "bounding_box_test/._0002_c2s1_000451_03.jpg",
    )


def labels(dataset: ReIDDataset, subset: str) -> list[tuple[str, int, int]]:
    """(file name, pid, camid) of each sample of a subset."""
    return [(s.path.name, s.pid, s.camid) for s in dataset.subset(subset)]


def note(dataset: ReIDDataset, part: str) -> str:
    """The one note that contains `part`."""
    (found,) = [text for text in dataset.notes if part in text]
    return found
