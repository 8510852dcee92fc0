"""Data sets in three folders with labels in the file names: Market-1501, DukeMTMC-reID,
Occluded-Duke, CUHK03-NP.

    bounding_box_train/  query/  bounding_box_test/        0002_c1s1_000451_03.jpg

The name starts with the pid and then the camera, ``(-?\\d+)_c(\\d+)``; -1 is junk, 0 a distractor.
"""

from __future__ import annotations

import re
from pathlib import Path

from passreid.data.assemble import assemble, few, from_zero, images_in, read_text, require_files
from passreid.data.dataset import SUBSETS, ReIDDataset, Sample
from passreid.errors import DatasetError

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
BOXES = ("labeled", "detected")
_NAME = re.compile(r"(-?\d+)_c(\d+)")
_DUKE_NAME = re.compile(r"\d+_c\d+_f\d+")


def is_market(root: Path) -> bool:
    """The three folders, and nothing that says it is one of the other sets."""
    return _style(root) == "market1501"


def is_duke(root: Path) -> bool:
    """The three folders with names like ``0001_c2_f0046182.jpg``."""
    return _style(root) == "dukemtmc"


def is_occluded_duke(root: Path) -> bool:
    """The three folders, and lists beside them or "occluded" in the folder's name."""
    return _style(root) == "occluded-duke"


def is_cuhk03(root: Path) -> bool:
    """The three folders inside a folder called labeled or detected, or the parent of such."""
    return _style(root) == "cuhk03-np" or any(_has_folders(root / box) for box in BOXES)


def read_market(root: Path) -> ReIDDataset:
    """Read Market-1501 (Zheng et al. 2015), or any set in its layout."""
    return _read(root, "market1501")


def read_duke(root: Path) -> ReIDDataset:
    """Read DukeMTMC-reID (Zheng et al. 2017; withdrawn by its authors in 2019)."""
    withdrawn = "DukeMTMC was withdrawn by its authors in 2019 for reasons of privacy"
    return _read(root, "dukemtmc", notes=[withdrawn])


def read_occluded_duke(root: Path) -> ReIDDataset:
    """Read Occluded-Duke (Miao et al. 2019); ``query.list`` and the like restrict a folder."""
    withdrawn = "built from DukeMTMC, which its authors withdrew in 2019 for reasons of privacy"
    return _read(root, "occluded-duke", notes=[withdrawn])


def read_cuhk03(root: Path) -> ReIDDataset:
    """Read CUHK03 in its new protocol (Zhong et al. 2017), its labeled or its detected boxes.

    Raises:
        DatasetError: `root` holds both, so which one is meant is open.
    """
    if _has_folders(root):
        chosen = root
    else:
        inside = [root / box for box in BOXES if _has_folders(root / box)]
        if len(inside) > 1:
            raise DatasetError(
                f"{root} holds both hand-labeled and detected boxes, two different data sets: "
                f"name one, {inside[0]} or {inside[1]}."
            )
        chosen = inside[0] if inside else root
    whole = chosen.resolve()
    name = f"{whole.parent.name}/{whole.name}" if whole.name in BOXES else whole.name
    return _read(chosen, "cuhk03-np", name=name)


def parse_name(name: str) -> tuple[int, int] | None:
    """The (pid, camera as numbered in the name) of a file name, None when it has none."""
    match = _NAME.match(name)
    return (int(match[1]), int(match[2])) if match else None


def _has_folders(root: Path) -> bool:
    return any((root / FOLDERS[subset]).is_dir() for subset in ("train", "gallery"))


def _style(root: Path) -> str | None:
    """The kind of a three-folder set, None for another layout."""
    if not _has_folders(root):
        return None
    name = root.resolve().name.lower()
    if "occluded" in name or any((root / f"{subset}.list").is_file() for subset in SUBSETS):
        return "occluded-duke"
    if name in BOXES:
        return "cuhk03-np"
    for subset in SUBSETS:
        for path in images_in(root / FOLDERS[subset])[:1]:
            return "dukemtmc" if _DUKE_NAME.match(path.name) else "market1501"
    return "market1501"


def _read(root: Path, kind: str, *, name: str = "", notes: list[str] | None = None) -> ReIDDataset:
    """Read the three folders of `root`."""
    if not _has_folders(root):
        raise DatasetError(
            f"{root} has no folder {FOLDERS['train']} or {FOLDERS['gallery']}, which a set of "
            f"kind {kind!r} keeps its images in."
        )
    notes = list(notes or ())
    subsets: dict[str, list[Sample]] = {}
    unreadable: dict[str, list[str]] = {}
    for subset, folder in FOLDERS.items():
        paths = _listed(root, subset) if kind == "occluded-duke" else images_in(root / folder)
        labels = [(path, parse_name(path.name)) for path in paths]
        subsets[subset] = [Sample(path, *label) for path, label in labels if label]
        unreadable[subset] = [path.name for path, label in labels if label is None]
    bad = [name for names in unreadable.values() for name in names]
    if bad and not any(subsets.values()):
        raise DatasetError(
            f"{root}: not one file name says who is on the image ({few(bad)}). A name starts with "
            "person and camera, like 0002_c1s1_000451_03.jpg."
        )
    notes += [
        f"{subset}: {len(names):,} files left out, their names do not start with "
        f"person_cCamera: {few(names)}"
        for subset, names in unreadable.items()
        if names
    ]
    counted, cameras = from_zero(subsets)
    return assemble(root, kind, counted, name=name, notes=notes, cameras=cameras)


def _listed(root: Path, subset: str) -> list[Path]:
    """The images that ``{subset}.list`` names, one a line; all of the folder without a list."""
    folder, listing = root / FOLDERS[subset], root / f"{subset}.list"
    if not listing.is_file():
        return images_in(folder)
    lines = read_text(listing).split()
    paths = [folder / Path(line).name for line in lines]
    require_files(paths, listing)
    return paths
