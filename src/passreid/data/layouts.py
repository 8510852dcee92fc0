"""Published data sets: folders, file names, lists, protocol and size, read from `layouts.toml`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

from passreid.config import read_toml
from passreid.data.dataset import ReIDDataset
from passreid.listing import folders_in, is_image, walk_files

Counts = Mapping[str, Sequence[int]]

# File names looked at in each folder to recognise a layout.
_SAMPLED = 20
# If no subset comes near its published size, the set is a sample of the published one or another
# set in the same layout, and a comparison of sizes means nothing.
_NEAR = 0.8


@dataclass(frozen=True, kw_only=True)
class DatasetLayout:
    """How a published data set is arranged on disk; `layouts.toml` explains each field."""

    kind: str
    source: str
    folders: Mapping[str, str]
    name: str
    example: str
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    certain: Sequence[str] = ()
    root: str = ""
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lists_name_people: bool = False
    halves: bool = False
    single_shot: bool = False
    counts: Counts = field(default_factory=dict)
    variants: Mapping[str, Counts] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def splits(self) -> int:
        """Number of random splits that the protocol averages over."""
        return 10 if self.halves or self.single_shot else 1

    @property
    def list_names(self) -> list[str]:
        """Names of all list files."""
        return [name for names in self.lists.values() for name in names]

    @property
    def contents(self) -> str:
        """Describe what a folder in this layout holds."""
        wanted = [*self.folders, *self.list_names]
        shown = ", ".join(wanted[:4]) + (", …" if len(wanted) > 4 else "")
        return f"{shown} with names like {self.example} ({self.source})"

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        before = "" if self.name.startswith("^") else "(?:.*/)?"
        return re.compile(rf"{before}(?:{self.name})[^/]*", re.DOTALL)

    def parse(self, path: str) -> dict[str, str] | None:
        """Read labels from a path relative to the root; None if the name has none."""
        found = self._pattern.fullmatch(path)
        if found is None:
            return None
        groups = {k.rstrip("2"): v for k, v in found.groupdict().items() if v is not None}
        groups |= self.labels.get(groups.get("key", ""), {})
        if "scope" in groups:
            groups["pid"] = f"{groups['scope']}-{groups['pid']}"
        return groups

    def find_folders(self, root: Path) -> dict[str, Path]:
        """Find the layout's folders below `root`, ignoring case."""
        found = {}
        for name in self.folders:
            folder: Path | None = root
            for part in name.split("/"):
                matching = [
                    inside
                    for inside in (folders_in(folder) if folder else [])
                    if inside.name.lower() == part.lower()
                ]
                exact = [inside for inside in matching if inside.name == part]
                folder = next(iter(exact or matching), None)
            if folder is not None:
                found[name] = folder
        return found

    def find_lists(self, root: Path) -> dict[str, list[Path]]:
        """Map each subset to those of its list files that exist."""
        return {
            subset: found
            for subset, names in self.lists.items()
            if (found := [root / name for name in names if (root / name).is_file()])
        }

    def matches(self, root: Path) -> bool:
        """Whether the files and folders in `root` look like this layout."""
        folders = self.find_folders(root) if root.is_dir() else {}
        lists = self.find_lists(root)
        if not folders or (self.lists_name_people and not lists):
            return False
        if not lists and not re.search(self.root, root.resolve().name, re.IGNORECASE):
            return False
        if self.lists_name_people or any(name in folders for name in self.certain):
            return True
        names = [
            f"{name}/{path.relative_to(folder).as_posix()}"
            for name, folder in folders.items()
            for path in islice(walk_files(folder, is_image), _SAMPLED)
        ]
        known = sum(self.parse(name) is not None for name in names)
        enough = len(folders) > 1 or next(iter(self.folders)) in folders
        return enough and known > 0.9 * len(names)

    def compare_sizes(self, dataset: ReIDDataset) -> list[str]:
        """Note where a set that is nearly as large as the published one differs from it."""
        known = self.variants.get(dataset.root.resolve().name.lower(), self.counts)
        found = {
            row.subset: (row.people, len(dataset.items(row.subset)))
            for row in dataset.summary()
            if row.images and row.subset in known
        }
        ratios = [items / known[subset][1] for subset, (_, items) in found.items()]
        if not any(_NEAR <= ratio <= 1 / _NEAR for ratio in ratios):
            return []
        return [
            f"{subset}: {count:,} {what}, the published set has {published:,}"
            for subset, counts in found.items()
            for what, count, published in zip(
                ("people", "images"), counts, known[subset], strict=True
            )
            if published and count != published
        ]


LAYOUTS: Mapping[str, DatasetLayout] = {
    kind: DatasetLayout(kind=kind, **values)
    for kind, values in read_toml(Path(__file__).with_name("layouts.toml")).items()
}
