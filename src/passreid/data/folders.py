"""Read a user's own images: a folder for each person, also inside cameras or splits.

root/<person>/*.jpg                                no split: queries are chosen by `split_query`
root/<person>/cam1/*.jpg, root/cam1/<person>/*.jpg
root/{train,query,gallery}/<person>/…              ``test`` is split like a set without splits
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from passreid.data.build import Row, build_dataset, images_below, note_unread
from passreid.data.dataset import SUBSETS, ReIDDataset
from passreid.errors import DatasetError
from passreid.listing import (
    describe_skipped,
    first_few,
    folders_in,
    images_in,
    is_image,
    walk_files,
)

CONTENTS = "a folder for each person, or train, query, gallery with such folders"
NESTED_HINT = (
    " If the outer folders are people, call the inner ones cam1, cam2, … or track1, track2, …; or "
    "list the images in a CSV file."
)
SPLITS = (*SUBSETS, "test")
_CAMERA = re.compile(r"(?:^|[_-])c(?:am)?(\d+)(?!\.\d|[0-9a-rt-z])", re.IGNORECASE)
_CAMERA_FOLDER = re.compile(r"(?:c|cam(?:era)?[ _-]?)(\d+)|cam(?:era)?[ _-]?([a-z])", re.IGNORECASE)
_TRACK_FOLDER = re.compile(r"(?:t|track(?:let)?|seq(?:uence)?)[ _-]?\d+", re.IGNORECASE)
_PART_OF_SET = re.compile(
    r"(?:bounding_box|bbox|images?|test|val)?[ _-]?"
    r"(?:train(?:ing)?|query|queries|probe|gallery|test|val(?:id(?:ation)?)?)"
    r"|(?:partial|occluded|whole)_body_images|images?|crops?|persons?|people|campus",
    re.IGNORECASE,
)
_PID_AND_CAMERA = re.compile(r"(\d{3,})_?c\d+(?!\.\d)", re.IGNORECASE)


def camera_of(path: Path) -> str | None:
    """Read the camera from a file's name, ``_c3`` or ``_cam3``; None if it has none."""
    match = _CAMERA.search(path.stem)
    return match[1] if match else None


def is_folders(root: Path) -> bool:
    """Recognise folders of people, also inside cameras or splits."""
    folders = folders_in(root)
    if any(map(images_in, folders)) or any(_find_splits(root)):
        return True
    inner = {inside.name for folder in folders for inside in folders_in(folder)}
    return bool(inner) and (
        all(_camera_of_folder(name) or _TRACK_FOLDER.fullmatch(name) for name in inner)
        or all(_camera_of_folder(folder.name) for folder in folders)
    )


def read_folders(root: Path) -> ReIDDataset:
    """Read one folder for each person.

    The camera is ``_c3`` or ``_cam3`` in a file's name, or a folder ``cam3`` inside or around the
    person's; a folder ``track3`` inside is a tracklet.

    Raises:
        DatasetError: The names of folders or files show that the folders are not people.
    """
    splits = list(_find_splits(root)) or [(root, "test")]
    for folder in (*(folder for folder, _ in splits), *(root / name for name in SPLITS)):
        if folder != root and images_in(folder):
            raise DatasetError(
                f"{folder} has images, but nothing says who is on them: put each person's "
                f"images into a folder, {folder / 'PERSON'}."
            )
    rows = [row for folder, split in splits for row in _read_people(folder, split)]
    if not rows:
        raise DatasetError(f"{root} has no folders with images: put each person into a folder.")
    _check_file_names(rows)
    read = folders_in(root) if splits[0][0] == root else [folder for folder, _ in splits]
    skipped: Counter[str] = Counter()
    for folder in read:
        images_below(folder, skipped)
    notes = [*note_unread(root, read), *([describe_skipped(skipped)] if skipped else [])]
    parent = root.resolve().parent
    if splits[0][0] == root and any(folder == root.resolve() for folder, _ in _find_splits(parent)):
        notes.append(
            f"{root} is one part of the data set in {parent}: give that folder to read all"
        )
    return build_dataset(root, "folders", rows, notes=notes)


def _has_images(folder: Path) -> bool:
    return next(walk_files(folder, is_image), None) is not None


def _find_splits(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield (folder, split) for splits, in any case, that hold folders of images."""
    for folder in folders_in(root):
        split = "query" if folder.name.lower() == "probe" else folder.name.lower()
        if split in SPLITS and any(map(_has_images, folders_in(folder))):
            yield folder, split


def _read_people(root: Path, split: str) -> Iterator[Row]:
    """Yield the images of folders of people, or of cameras that hold folders of people."""
    folders = [folder for folder in folders_in(root) if _has_images(folder)]
    parts = [folder.name for folder in folders if _PART_OF_SET.fullmatch(folder.name)]
    if parts:
        raise DatasetError(
            f"{root}: the folders {first_few(parts)} look like parts of a data set, not like "
            "people. Name the layout with --kind, or put train, query and gallery with a folder "
            "for each person into one folder."
        )
    if not folders or not all(_camera_of_folder(folder.name) for folder in folders):
        for person in folders:
            yield from _read_person(person, split, "")
        return
    if flat := [folder for folder in folders if images_in(folder)]:
        raise DatasetError(
            f"{root}: the folders {first_few(each.name for each in flat)} look like cameras, not "
            "like people, and nothing says who is on their images: put each person's into a "
            f"folder, {flat[0] / 'PERSON'}, or list them in a CSV file."
        )
    for camera in folders:
        for person in folders_in(camera):
            yield from _read_person(person, split, _camera_of_folder(camera.name))


def _read_person(person: Path, split: str, camera: str) -> Iterator[Row]:
    below = [(path, path.relative_to(person).parts[:-1]) for path in images_below(person)]
    inner = sorted({name for _, between in below for name in between})
    tracks = {name for name in inner if _TRACK_FOLDER.fullmatch(name)}
    cameras = {name: found for name in inner if (found := _camera_of_folder(name))}
    unknown = [name for name in inner if name not in tracks and name not in cameras]
    if unknown and not images_in(person):
        raise DatasetError(
            f"{person} holds only folders ({first_few(unknown)}), and nothing says whether the "
            f"outer or the inner folders are people.{NESTED_HINT}"
        )
    for path, between in below:
        seen = [cameras[name] for name in between if name in cameras] or [camera]
        track = "/".join(name for name in between if name in tracks)
        yield Row(path, person.name, split, seen[0] or camera_of(path) or "", track)


def _camera_of_folder(name: str) -> str:
    """Read the camera from a folder's name; "" if it does not look like one."""
    found = _CAMERA_FOLDER.fullmatch(name)
    return (found[1] or found[2]) if found else ""


def _check_file_names(rows: Iterable[Row]) -> None:
    """Reject folders as people where most file names in one of them start with several pids."""
    pids: dict[str, set[str]] = defaultdict(set)
    others: Counter[str] = Counter()
    for row in rows:
        if found := _PID_AND_CAMERA.match(row.path.name):
            pids[row.person].add(found[1])
        else:
            others[row.person] += 1
    for folder, people in pids.items():
        if len(people) > 1 and len(people) > others[folder]:
            raise DatasetError(
                f"The folder {folder!r} looks like a part of a data set, not like a person: its "
                f"file names are of {len(people)} people ({first_few(sorted(people))}). Name the "
                "layout with --kind, or list the images in a CSV file."
            )
