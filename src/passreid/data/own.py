"""A user's own images: one folder for each person, or a CSV file that lists them.

    root/<person>/*.jpg                              no split: queries are chosen, see `split_query`
    root/{train,query,gallery}/<person>/*.jpg        ``test`` is split like a set without split
    list.csv: path,pid[,camid][,split]               paths relative to the CSV file

People and cameras may have any names; names that are all numbers are kept as those numbers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from passreid.data.assemble import (
    JUNK,
    assemble,
    few,
    folders_in,
    from_zero,
    images_below,
    images_in,
    read_text,
    require_files,
    split_query,
)
from passreid.data.dataset import SUBSETS, UNKNOWN_CAMERA, ReIDDataset, Sample
from passreid.errors import DatasetError

SPLITS = (*SUBSETS, "test")
NEEDED = ("path", "pid")
_CAMERA = re.compile(r"(?:^|[_-])c(?:am)?(\d+)(?![0-9a-rt-z])", re.IGNORECASE)
_CHOSEN = (
    "no query is named: of each person, the first image by every camera that took two or more is "
    "one, the rest is the gallery"
)


class _Row(NamedTuple):
    """One labelled image before people and cameras have numbers."""

    path: Path
    person: str
    camera: str
    split: str


class _Numbered(NamedTuple):
    """The samples of each split, and number -> name of people and of cameras that have names."""

    subsets: dict[str, list[Sample]]
    people: dict[int, str]
    cameras: dict[int, str]


def camera_of(path: Path) -> str | None:
    """Read the camera from a file's name, ``_c3`` or ``_cam3``; None if it says none."""
    match = _CAMERA.search(path.stem)
    return match[1] if match else None


def is_folders(root: Path) -> bool:
    """Folders that hold images directly: people, or a split whose folders are people."""
    return any(map(images_in, folders_in(root))) or any(_split_folders(root))


def is_csv(root: Path) -> bool:
    """A CSV file, or a folder with exactly one that has the columns."""
    if root.is_file():
        return root.suffix.lower() == ".csv"
    return len(_csv_files(root)) == 1


def read_folders(root: Path) -> ReIDDataset:
    """Read one folder for each person; the camera is ``_c3`` or ``_cam3`` in a file's name."""
    splits = list(_split_folders(root)) or [(root, "test")]
    for split in SPLITS:
        if images_in(root / split):
            raise DatasetError(
                f"{root / split} has images, but nothing says who is on them: put each person's "
                f"images into a folder, {root / split / 'PERSON'}."
            )
    rows = [
        _Row(path, person.name, camera_of(path) or "", split)
        for folder, split in splits
        for person in folders_in(folder)
        for path in images_below(person)
    ]
    numbered = _number(rows)
    if not rows:
        raise DatasetError(f"{root} has no folders with images: put each person into a folder.")
    subsets, counted = from_zero(numbered.subsets)
    cameras = counted or numbered.cameras
    notes = _not_read(root, {folder for folder, _ in splits})
    return _finish(root, "folders", _Numbered(subsets, numbered.people, cameras), notes=notes)


def read_csv(root: Path) -> ReIDDataset:
    """Read a CSV file with a header; ``,``, ``;`` or a tab between the columns.

    Columns: ``path`` (relative to the file, or absolute), ``pid`` (any text; -1 is junk), and
    optionally ``camid`` (any text; empty or -1 is unknown) and ``split`` (train, query, gallery, or
    test, which is split like a set without the column).

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
    rows = list(_csv_rows(file))
    if not rows:
        raise DatasetError(f"{file} lists no images.")
    require_files((row.path for row in rows), file)
    return _finish(root, "csv", _number(rows), name=file.stem)


def _not_read(root: Path, read: set[Path]) -> list[str]:
    """Images beside the folders that are read, which nobody would miss until it is too late."""
    lost = {"in no folder": images_in(root)}
    if root not in read:
        others = [folder for folder in folders_in(root) if folder not in read]
        lost |= {folder.name: images_below(folder) for folder in others}
    named = [f"{name} ({len(images):,})" for name, images in lost.items() if images]
    return [f"images that are not read: {few(named)}"] if named else []


def _split_folders(root: Path) -> Iterator[tuple[Path, str]]:
    """The (folder, split) of splits that hold people's folders."""
    for split in SPLITS:
        if any(map(images_in, folders_in(root / split))):
            yield root / split, split


def _finish(
    root: Path,
    kind: str,
    numbered: _Numbered,
    *,
    name: str = "",
    notes: Sequence[str] = (),
) -> ReIDDataset:
    """Split what is to be split, and assemble."""
    notes = list(notes)
    subsets, people, cameras = numbered
    test = subsets.pop("test")
    subsets["gallery"] += [sample for sample in test if sample.pid == JUNK]  # to be counted
    if named := [sample for sample in test if sample.pid != JUNK]:
        query, gallery = split_query(named)
        subsets["query"] += query
        subsets["gallery"] += gallery
        notes.append(_CHOSEN)
        if not subsets["query"]:
            raise DatasetError(
                f"{root}: no person has two images, so there is nothing to search for."
            )
    return assemble(root, kind, subsets, name=name, notes=notes, people=people, cameras=cameras)


def _number(rows: Iterable[_Row]) -> _Numbered:
    """Give people and cameras numbers."""
    rows = list(rows)
    pids, people = _numbers((row.person for row in rows), first=1)
    camids, cameras = _numbers((row.camera for row in rows if row.camera), first=0)
    camids[""] = UNKNOWN_CAMERA
    subsets: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    for row in rows:
        subsets[row.split].append(Sample(row.path, pids[row.person], camids[row.camera]))
    return _Numbered(subsets, people, cameras)


def _numbers(names: Iterable[str], *, first: int) -> tuple[dict[str, int], dict[int, str]]:
    """Number names: their own numbers if all are different numbers, else in sorted order.

    Returns:
        name -> number, and number -> name where these differ. -1 stays -1.
    """
    distinct = sorted(set(names) - {str(JUNK)})
    own = {name: int(name) for name in distinct if name.isdecimal()}
    if len(own) == len(distinct) and len(set(own.values())) == len(own):
        return {**own, str(JUNK): JUNK}, {}
    given = {name: number for number, name in enumerate(distinct, first)}
    return {**given, str(JUNK): JUNK}, {number: name for name, number in given.items()}


def _csv_files(root: Path) -> list[Path]:
    """The CSV files in a folder that name the columns; another CSV file is not a list of images."""
    found = []
    for file in sorted(path for path in root.glob("*.csv") if path.is_file()):
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            if {*NEEDED} <= {*_header(text.readline())[0]}:
                found.append(file)
    return found


def _csv_rows(file: Path) -> Iterator[_Row]:
    """The rows of a CSV file, checked."""
    text = read_text(file)
    header, delimiter = _header(text)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    next(table, None)
    for needed in NEEDED:
        if needed not in header:
            raise DatasetError(
                f"{file} has no column {needed!r}: its first line must name the columns "
                f"path,pid[,camid][,split], and it names {header}."
            )
    lines: dict[tuple[Path, str], int] = {}
    for fields in _checked(table, file):
        if any(fields):
            values = dict(zip_longest(header, (field.strip() for field in fields), fillvalue=""))
            row = _csv_row(file, table.line_num, values)
            line = table.line_num
            first = lines.setdefault((row.path, row.split), line)
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
    """The column names of a CSV text in lower case, and what separates them."""
    line = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=line.count)
    return [
        name.strip().lower() for name in next(csv.reader([line], delimiter=delimiter), [])
    ], delimiter


def _csv_row(file: Path, line: int, values: dict[str, str]) -> _Row:
    """One row, or a `DatasetError` that names the line."""
    for needed in NEEDED:
        if not values[needed]:
            raise DatasetError(f"{file}, line {line}: {needed} is empty.")
    split = values.get("split", "").lower() or "test"
    if split not in SPLITS:
        raise DatasetError(
            f"{file}, line {line}: split is {values['split']!r}, not one of {', '.join(SPLITS)}."
        )
    return _Row(file.parent / values["path"], values["pid"], values.get("camid", ""), split)
