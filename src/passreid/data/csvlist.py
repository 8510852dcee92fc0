"""Read a CSV file that lists images and their labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from passreid.data.build import Row, build_dataset, read_text, require_files
from passreid.data.dataset import ReIDDataset
from passreid.data.folders import SPLITS
from passreid.errors import DatasetError

_NEEDED = ("path", "pid")
_COLUMNS = (*_NEEDED, "camid", "split", "tracklet", "clothid")
_HEADER = "path,pid[,camid][,split][,tracklet][,clothid]"
CONTENTS = f"one CSV file with the columns {_HEADER}"


def is_csv(root: Path) -> bool:
    """Recognise a CSV file, or a folder with exactly one that has the columns."""
    return root.suffix.lower() == ".csv" if root.is_file() else len(_find_lists(root)) == 1


def read_csv(root: Path) -> ReIDDataset:
    """Read a CSV file with a header; ``,``, ``;`` or a tab separates the columns.

    Columns: ``path`` (relative to the file, or absolute), ``pid`` (any text; -1 is junk), and
    optionally ``camid`` (any text; empty or -1 is unknown), ``split`` (train, query, gallery, or
    test, which is split like a set without the column), ``tracklet`` (images of one person, camera
    and tracklet are embedded as one) and ``clothid`` (the person's outfit).

    Raises:
        DatasetError: Names the file and the line.
    """
    file = root
    if not root.is_file():
        found = _find_lists(root)
        if len(found) != 1:
            raise DatasetError(
                f"{root} has {len(found)} CSV files with the columns path,pid: name one."
            )
        file = found[0]
    text = read_text(file)
    header, delimiter = _parse_header(text)
    for name in _NEEDED:
        if name not in header:
            raise DatasetError(
                f"{file} has no column {name!r}: its first line must name the columns {_HEADER}, "
                f"and it names {header}."
            )
    if twice := [name for name in _COLUMNS if header.count(name) > 1]:
        raise DatasetError(f"{file} has two columns {twice[0]!r}: remove one.")
    rows = list(_read_rows(file, text, header, delimiter))
    if not rows:
        raise DatasetError(f"{file} lists no images.")
    require_files((row.path for row in rows), file)
    others = [name or "(no name)" for name in header if name not in _COLUMNS]
    notes = [f"unknown columns that are not used: {', '.join(others)}"] if others else []
    return build_dataset(root, "csv", rows, name=file.stem, notes=notes, cameras_from_one=False)


def _find_lists(root: Path) -> list[Path]:
    """List the CSV files in a folder that have the columns."""
    found = []
    for file in sorted(path for path in root.glob("*.csv") if path.is_file()):
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            if {*_NEEDED} <= {*_parse_header(text.readline())[0]}:
                found.append(file)
    return found


def _parse_header(text: str) -> tuple[list[str], str]:
    """Return the lower-case column names of a CSV text, and its delimiter."""
    line = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=line.count)
    names = next(csv.reader([line], delimiter=delimiter), [])
    return [name.strip().lower() for name in names], delimiter


def _read_rows(file: Path, text: str, header: list[str], delimiter: str) -> Iterator[Row]:
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    lines: dict[tuple[Path, str], int] = {}
    try:
        next(table)
        for cells in table:
            line = table.line_num
            if not any(cells):
                continue
            if any(cells[len(header) :]):
                raise DatasetError(
                    f"{file}, line {line}: {len(cells)} fields for {len(header)} columns; quote "
                    "fields that contain the separator."
                )
            values = dict(zip_longest(header, (cell.strip() for cell in cells), fillvalue=""))
            row = _parse_row(file, line, values)
            if (first := lines.setdefault((row.path, row.subset), line)) != line:
                raise DatasetError(
                    f"{file}, line {line}: {values['path']} is also listed in line {first}."
                )
            yield row
    except csv.Error as error:
        raise DatasetError(f"{file}, line {table.line_num}: not valid CSV ({error}).") from None


def _parse_row(file: Path, line: int, values: dict[str, str]) -> Row:
    for name in _NEEDED:
        if not values[name]:
            raise DatasetError(f"{file}, line {line}: {name} is empty.")
    split = values.get("split", "").lower() or "test"
    if split not in SPLITS:
        raise DatasetError(
            f"{file}, line {line}: split is {values['split']!r}, not one of {', '.join(SPLITS)}."
        )
    camera, tracklet, clothes = (
        "" if values.get(name) == "-1" else values.get(name, "")
        for name in ("camid", "tracklet", "clothid")
    )
    return Row(file.parent / values["path"], values["pid"], split, camera, tracklet, clothes)
