"""MSMT17 (Wei et al. 2018): two folders and four lists, in two versions.

    V1: train/  test/                        list_train.txt  list_val.txt
    V2: mask_train_v2/  mask_test_v2/        list_query.txt  list_gallery.txt

A line of a list is ``0000/0000_000_01_0303morning_0015_0.jpg 0``: the path and the pid; the third
field of the file name is the camera, from 1.
"""

from __future__ import annotations

from pathlib import Path

from passreid.data.assemble import assemble, from_zero, read_text, require_files
from passreid.data.dataset import ReIDDataset, Sample
from passreid.errors import DatasetError

V1_FOLDERS = ("train", "test")
V2_FOLDERS = ("mask_train_v2", "mask_test_v2")
_LISTS = {
    "train": ("list_train.txt", "list_val.txt"),
    "query": ("list_query.txt",),
    "gallery": ("list_gallery.txt",),
}
_VAL = "list_val is part of train, as in PASS; torchreid and fast-reid leave it out"
_MASKED = (
    "MSMT17 V2: faces are blurred, so results are not comparable with those on V1; "
    "name the version with every number"
)


def is_v1(root: Path) -> bool:
    """The lists, and the folders of V1."""
    return _has_lists(root) and _has_one(root, V1_FOLDERS)


def is_v2(root: Path) -> bool:
    """The lists, and the folders of V2."""
    return _has_lists(root) and _has_one(root, V2_FOLDERS)


def read_v1(root: Path) -> ReIDDataset:
    """Read MSMT17 V1."""
    if not _has_one(root, V1_FOLDERS) and _has_one(root, V2_FOLDERS):
        raise DatasetError(
            f"{root} is the face-masked version of MSMT17 ({', '.join(V2_FOLDERS)}), on which "
            "numbers differ: read it as kind 'msmt17-v2'."
        )
    return _read(root, "msmt17", V1_FOLDERS, [])


def read_v2(root: Path) -> ReIDDataset:
    """Read MSMT17 V2, the version with blurred faces."""
    return _read(root, "msmt17-v2", V2_FOLDERS, [_MASKED])


def _has_lists(root: Path) -> bool:
    return any((root / name).is_file() for names in _LISTS.values() for name in names)


def _has_one(root: Path, folders: tuple[str, str]) -> bool:
    return any((root / folder).is_dir() for folder in folders)


def _read(root: Path, kind: str, folders: tuple[str, str], notes: list[str]) -> ReIDDataset:
    """Read the lists of `root`; a list that is not there is an empty part."""
    if not _has_lists(root):
        names = ", ".join(name for lists in _LISTS.values() for name in lists)
        raise DatasetError(f"{root} has none of MSMT17's lists: {names}.")
    subsets: dict[str, list[Sample]] = {}
    for subset, wanted in _LISTS.items():
        folder = root / (folders[0] if subset == "train" else folders[1])
        lists = [root / name for name in wanted if (root / name).is_file()]
        subsets[subset] = [sample for path in lists for sample in _read_list(path, folder)]
    if (root / "list_val.txt").is_file():
        notes = [*notes, _VAL]
    # Train and test both number their people from 0: the same pid is not the same person.
    counted, cameras = from_zero(subsets)
    return assemble(root, kind, counted, notes=notes, cameras=cameras, one_numbering=False)


def _read_list(listing: Path, folder: Path) -> list[Sample]:
    """The samples of one list.

    Raises:
        DatasetError: A line that is not "path pid", a name without a camera, missing files.
    """
    samples = []
    for number, line in enumerate(read_text(listing).splitlines(), 1):
        if not line.strip():
            continue
        where, _, pid = line.strip().rpartition(" ")
        fields = where.rpartition("/")[2].split("_")
        if not pid.isdecimal() or len(fields) < 3 or not fields[2].isdecimal():
            raise DatasetError(
                f"{listing}, line {number}: {line.strip()!r} is not a path and a pid like "
                "'0000/0000_000_01_0303morning_0015_0.jpg 0'."
            )
        samples.append(Sample(folder / where, int(pid), int(fields[2])))
    require_files((sample.path for sample in samples), listing)
    return samples
