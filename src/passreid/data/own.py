"""A user's own images: one folder for each person, or a CSV file that lists them.

    root/<person>/*.jpg                            no split: queries are chosen, see `split_query`
    root/<person>/cam1/*.jpg, root/cam1/<person>/*.jpg
    root/{train,query,gallery}/<person>/…          ``test`` is split like a set without a split
    list.csv: path,pid[,camid][,split][,tracklet][,clothid]

People and cameras may have any names; names that are all numbers are kept as those numbers.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from passreid.data.assemble import (
    Row,
    assemble,
    few,
    first_images,
    folders_in,
    images_below,
    images_in,
    read_text,
    require_files,
)
from passreid.data.dataset import SUBSETS, ReIDDataset
from passreid.errors import DatasetError
from passreid.listing import describe_others

FOLDERS_HELP = "a folder for each person, or train, query, gallery with such folders"
CSV_HELP = "one CSV file with the columns path,pid[,camid][,split][,tracklet][,clothid]"
NESTED = (
    " If the outer folders are people, call the inner ones cam1, cam2, … or track1, track2, …; or "
    "list the images in a CSV file."
)
_SPLITS = (*SUBSETS, "test")
_NEEDED = ("path", "pid")
_COLUMNS = (*_NEEDED, "camid", "split", "tracklet", "clothid")
_CAMERA = re.compile(r"(?:^|[_-])c(?:am)?(\d+)(?!\.\d|[0-9a-rt-z])", re.IGNORECASE)
_CAMERA_FOLDER = re.compile(r"(?:c|cam(?:era)?[ _-]?)(\d+)|cam(?:era)?[ _-]?([a-z])", re.IGNORECASE)
_TRACK_FOLDER = re.compile(r"(?:t|track(?:let)?|seq(?:uence)?)[ _-]?\d+", re.IGNORECASE)
_PART = re.compile(
    r"(?:bounding_box|bbox|images?|test|val)?[ _-]?"
    r"(?:train(?:ing)?|query|queries|probe|gallery|test|val(?:id(?:ation)?)?)"
    r"|(?:partial|occluded|whole)_body_images|images?|crops?|persons?|people|campus",
    re.IGNORECASE,
)
_LABELLED = re.compile(r"(\d{3,})_?c\d+(?!\.\d)", re.IGNORECASE)


def camera_of(path: Path) -> str | None:
    """Read the camera from a file's name, ``_c3`` or ``_cam3``; None if it says none."""
    match = _CAMERA.search(path.stem)
    return match[1] if match else None


def is_folders(root: Path) -> bool:
    """Recognise folders of people, also inside cameras or splits."""
    folders = folders_in(root)
    if any(map(images_in, folders)) or any(_splits(root)):
        return True
    inner = [inside for folder in folders for inside in folders_in(folder)]
    names = {folder.name for folder in inner}
    return bool(inner) and (
        all(_folders_camera(name) or _TRACK_FOLDER.fullmatch(name) for name in names)
        or all(_folders_camera(folder.name) for folder in folders)
    )


def is_csv(root: Path) -> bool:
    """Recognise a CSV file, or a folder with exactly one that has the columns."""
    if root.is_file():
        return root.suffix.lower() == ".csv"
    return len(_csv_files(root)) == 1


def read_folders(root: Path) -> ReIDDataset:
    """Read one folder for each person.

    The camera is ``_c3`` or ``_cam3`` in a file's name, or a folder ``cam3`` inside or around the
    person's; a folder ``track3`` inside is a tracklet.

    Raises:
        DatasetError: Folders whose names, or files whose names, say that they are not people.
    """
    splits = list(_splits(root)) or [(root, "test")]
    for folder, split in [*splits, *((root / name, name) for name in _SPLITS)]:
        if images_in(folder) and (split != "test" or folder != root):
            raise DatasetError(
                f"{folder} has images, but nothing says who is on them: put each person's "
                f"images into a folder, {folder / 'PERSON'}."
            )
    rows = [row for folder, split in splits for row in _people(folder, split)]
    if not rows:
        raise DatasetError(f"{root} has no folders with images: put each person into a folder.")
    _check_against_names(rows)
    people = folders_in(root) if splits[0][0] == root else [folder for folder, _ in splits]
    others: Counter[str] = Counter()
    for folder in people:
        images_below(folder, others)
    notes = [*not_read(root, people), *([describe_others(others)] if others else [])]
    return assemble(root, "folders", rows, notes=notes)


def _splits(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield (folder, split) of splits that hold folders of images, in any case."""
    for folder in folders_in(root):
        split = "query" if folder.name.lower() == "probe" else folder.name.lower()
        if split in _SPLITS and any(map(first_images, folders_in(folder))):
            yield folder, split


def _people(root: Path, split: str) -> Iterator[Row]:
    """Yield the images of a folder of people, of people by camera, or of cameras with people."""
    folders = [folder for folder in folders_in(root) if first_images(folder)]
    parts = [folder.name for folder in folders if _PART.fullmatch(folder.name)]
    if parts:
        raise DatasetError(
            f"{root}: the folders {few(parts)} look like parts of a data set, not like people. "
            "Name the layout with --kind, or put train, query and gallery with a folder for each "
            "person into one folder."
        )
    cameras = [folder for folder in folders if _folders_camera(folder.name)]
    if folders and len(cameras) == len(folders):
        if lost := [folder.name for folder in cameras if images_in(folder)]:
            raise DatasetError(
                f"{root}: the folders {few(lost)} look like cameras, not like people, and nothing "
                "says who is on their images: put each person's into a folder, "
                f"{cameras[0] / 'PERSON'}, or list them in a CSV file."
            )
        for camera in cameras:
            for person in folders_in(camera):
                yield from _person(person, split, _folders_camera(camera.name))
    else:
        for person in folders:
            yield from _person(person, split, "")


def _person(person: Path, split: str, camera: str) -> Iterator[Row]:
    """Yield one person's images."""
    below = [(path, path.relative_to(person).parts[:-1]) for path in images_below(person)]
    inside = sorted({name for _, between in below for name in between})
    tracks = {name for name in inside if _TRACK_FOLDER.fullmatch(name)}
    cameras = {name: found for name in inside if (found := _folders_camera(name))}
    unknown = [name for name in inside if name not in tracks and name not in cameras]
    if unknown and not images_in(person):
        raise DatasetError(
            f"{person} holds no images but folders ({few(unknown)}), and nothing says whether the "
            f"outer or the inner folders are people.{NESTED}"
        )
    for path, between in below:
        seen = [cameras[name] for name in between if name in cameras] or [camera]
        track = "/".join(name for name in between if name in tracks)
        yield Row(path, person.name, split, seen[0] or camera_of(path) or "", track)


def _folders_camera(folder: str) -> str:
    """Read the camera off a folder's name; "" where it does not look like one."""
    found = _CAMERA_FOLDER.fullmatch(folder)
    return (found[1] or found[2]) if found else ""


def _check_against_names(rows: Iterable[Row]) -> None:
    """Refuse folders as people where the file names in one of them tell several people apart."""
    named: dict[str, set[str]] = defaultdict(set)
    unnamed: dict[str, int] = defaultdict(int)
    for row in rows:
        found = _LABELLED.match(row.path.name)
        if found:
            named[row.person].add(found[1])
        else:
            unnamed[row.person] += 1
    for person, people in named.items():
        if len(people) > 1 and len(people) > unnamed[person]:
            raise DatasetError(
                f"The folder {person!r} looks like a part of a data set, not like a person: its "
                f"file names are of {len(people)} people ({few(sorted(people))}). Name the layout "
                "with --kind, or list the images in a CSV file."
            )


def not_read(root: Path, read: Iterable[Path]) -> list[str]:
    """Note images beside the folders that are read, which nobody would miss until too late."""
    kept = list(read)
    lost = {"in no folder": len(images_in(root))}
    lost |= {
        folder.name: len(images_below(folder))
        for folder in folders_in(root)
        if not any(folder in (it, *it.parents) for it in kept)
    }
    named = [f"{name} ({count:,})" for name, count in lost.items() if count]
    return [f"images that are not read: {few(named)}"] if named else []


def read_csv(root: Path) -> ReIDDataset:
    """Read a CSV file with a header; ``,``, ``;`` or a tab between the columns.

    Columns: ``path`` (relative to the file, or absolute), ``pid`` (any text; -1 is junk), and
    optionally ``camid`` (any text; empty or -1 is unknown), ``split`` (train, query, gallery, or
    test, which is split like a set without the column), ``tracklet`` (images of one person, camera
    and tracklet are embedded as one) and ``clothid`` (what the person wears).

    Raises:
        DatasetError: Names the file and the line.
    """
    file = root
    if not root.is_file():
        found = _csv_files(root)
        if len(found) != 1:
            raise DatasetError(
                f"{root} has {len(found)} CSV files with the columns path,pid: name one."
            )
        file = found[0]
    text = read_text(file)
    header, delimiter = _header(text)
    rows = list(_csv_rows(file, text, header, delimiter))
    if not rows:
        raise DatasetError(f"{file} lists no images.")
    require_files((row.path for row in rows), file)
    others = [name or "(no name)" for name in header if name not in _COLUMNS]
    notes = [f"columns that are not understood and not used: {', '.join(others)}"] if others else []
    return assemble(root, "csv", rows, name=file.stem, notes=notes, cameras_from_one=False)


def _csv_files(root: Path) -> list[Path]:
    """List the CSV files in a folder that name the columns; others are not lists of images."""
    found = []
    for file in sorted(path for path in root.glob("*.csv") if path.is_file()):
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            if {*_NEEDED} <= {*_header(text.readline())[0]}:
                found.append(file)
    return found


def _csv_rows(file: Path, text: str, header: list[str], delimiter: str) -> Iterator[Row]:
    """Yield the rows of a CSV file, checked."""
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    next(table, None)
    for needed in _NEEDED:
        if needed not in header:
            raise DatasetError(
                f"{file} has no column {needed!r}: its first line must name the columns "
                f"path,pid[,camid][,split][,tracklet][,clothid], and it names {header}."
            )
    if twice := [name for name in _COLUMNS if header.count(name) > 1]:
        raise DatasetError(f"{file} has two columns {twice[0]!r}: remove one.")
    lines: dict[tuple[Path, str], int] = {}
    for fields in _checked(table, file):
        if any(fields):
            if any(fields[len(header) :]):
                raise DatasetError(
                    f"{file}, line {table.line_num}: {len(fields)} fields for {len(header)} "
                    "columns; quote fields that hold the separator."
                )
            values = dict(zip_longest(header, (field.strip() for field in fields), fillvalue=""))
            row = _csv_row(file, table.line_num, values)
            line = table.line_num
            first = lines.setdefault((row.path, row.subset), line)
            if first != line:
                raise DatasetError(
                    f"{file}, line {line}: {values['path']} is listed in line {first} too."
                )
            yield row


def _checked(table: Any, file: Path) -> Iterator[list[str]]:
    """Yield the rows of a `csv.reader`; what it cannot split is a `DatasetError`."""
    try:
        yield from table
    except csv.Error as error:
        raise DatasetError(f"{file}, line {table.line_num}: not valid CSV ({error}).") from None


def _header(text: str) -> tuple[list[str], str]:
    """Return the column names of a CSV text in lower case, and what separates them."""
    line = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=line.count)
    return [
        name.strip().lower() for name in next(csv.reader([line], delimiter=delimiter), [])
    ], delimiter


def _csv_row(file: Path, line: int, values: dict[str, str]) -> Row:
    """Make one row, or raise a `DatasetError` that names the line."""
    for needed in _NEEDED:
        if not values[needed]:
            raise DatasetError(f"{file}, line {line}: {needed} is empty.")
    split = values.get("split", "").lower() or "test"
    if split not in _SPLITS:
        raise DatasetError(
            f"{file}, line {line}: split is {values['split']!r}, not one of {', '.join(_SPLITS)}."
        )
    path = file.parent / values["path"]
    # -1 is unknown, as in `Sample`.
    camera, tracklet, clothes = (
        "" if values.get(name) == "-1" else values.get(name, "")
        for name in ("camid", "tracklet", "clothid")
    )
    return Row(path, values["pid"], split, camera, tracklet, clothes)
