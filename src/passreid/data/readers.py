"""Read a data set from disk: a published one by its `Layout`, or a user's own folders or CSV file.

Readers look at names and lists, never into the images.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from passreid.data import own
from passreid.data.assemble import (
    Row,
    assemble,
    few,
    first_images,
    folders_in,
    images_below,
    read_text,
    require_files,
)
from passreid.data.dataset import ReIDDataset
from passreid.data.layout import Groups, Layout
from passreid.data.layouts import LAYOUTS
from passreid.data.protocols import random_split
from passreid.errors import DatasetError, UsageError
from passreid.listing import describe_others

_VAL = "list_val is part of train, as in PASS; torchreid and fast-reid leave it out"
# So many names are looked at in each folder to recognise a layout.
_SAMPLED = 20


@dataclass(frozen=True)
class Reader:
    """How one layout is recognised and read.

    Attributes:
        looks_for: What a folder of this kind holds, for users whose folder no reader recognises.
        recognises: True when a folder (or file) looks like this layout.
        read: Reads one random split of it, numbered from 0, where its protocol has several.
        generic: Recognises much; asked only after all others.
    """

    looks_for: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, int], ReIDDataset]
    generic: bool = False


def read_dataset(
    root: str | os.PathLike[str], kind: str = "auto", *, split: int = 0
) -> ReIDDataset:
    """Read a re-identification data set.

    Args:
        root: The data set's folder, the folder around it, or a CSV file.
        kind: A key of `READERS`, or ``"auto"`` to recognise the layout by its files.
        split: Which random split, from 0, of a set whose protocol averages over several.

    Raises:
        UsageError: `kind` is unknown, or the set has no such split.
        DatasetError: Nothing is recognised, or too much; lists and labels that cannot be used; a
            folder that cannot be listed.
    """
    path = Path(root)
    if kind != "auto" and kind not in READERS:
        raise UsageError(f"There is no data set kind {kind!r}: use auto, {', '.join(READERS)}.")
    if not path.exists():
        raise DatasetError(f"{path} does not exist.")
    kinds = dict(READERS) if kind == "auto" else {kind: READERS[kind]}
    try:
        found = _locate(path, kinds)
        if found is None and kind == "auto":
            raise DatasetError(_unrecognised(path))
        # A layout asked for by name is read even where it is not recognised: its reader knows best
        # what is missing.
        place, reader = found or (path, kinds[kind])
        dataset = reader.read(place, split)
    except OSError as error:
        where = error.filename or path
        raise DatasetError(f"{where}: cannot be read ({error.strerror or error}).") from error
    if not 0 <= split < dataset.splits:
        raise UsageError(
            f"{path} has no random split {split}: a set of kind {dataset.kind} has "
            f"{dataset.splits}, numbered from 0."
        )
    return dataset


def _locate(root: Path, readers: Mapping[str, Reader]) -> tuple[Path, Reader] | None:
    """Find the layout in `root`, or else in exactly one folder inside it."""
    for generic in (False, True):
        asked = {kind: reader for kind, reader in readers.items() if reader.generic == generic}
        for reader in asked.values():
            if reader.recognises(root):
                return root, reader
        inside: dict[Path, str] = {}
        for folder in folders_in(root):
            for kind, reader in asked.items():
                if reader.recognises(folder):
                    inside.setdefault(folder, kind)
        if len(inside) > 1:
            found = few(f"{folder.name} ({kind})" for folder, kind in inside.items())
            raise DatasetError(
                f"{root} holds several data sets: {found}. Name one of them."
                + (own.NESTED if generic else "")
            )
        for folder, kind in inside.items():
            return folder, asked[kind]
    return None


def _unrecognised(root: Path) -> str:
    """What was looked for, and what is there instead."""
    looked = "\n".join(f"  {kind}: {reader.looks_for}" for kind, reader in READERS.items())
    here = ""
    if root.is_file():
        here = " It is a file, and not a CSV file."
    elif not any(root.iterdir()):
        here = " It is empty."
    elif images := images_below(root):
        here = f" It has {len(images):,} images, but nothing says who is on them."
    return f"{root}: unrecognised data set layout.{here} Looked for:\n{looked}"


def _present(layout: Layout, root: Path) -> dict[str, Path]:
    """Find the layout's folders below `root`, whatever the case of their names."""
    found = {}
    for name in layout.folders:
        folder: Path | None = root
        for part in name.split("/"):
            # The name as it is first: a file system may not tell case apart.
            inside = [] if folder is None or not folder.is_dir() else folders_in(folder)
            matching = [f for f in inside if f.name.lower() == part.lower()]
            folder = next((f for f in matching if f.name == part), next(iter(matching), None))
        if folder is not None:
            found[name] = folder
    return found


def _lists(layout: Layout, root: Path) -> dict[str, list[Path]]:
    """Subset -> those of its lists that are there."""
    return {
        subset: found
        for subset, names in layout.lists.items()
        if (found := [root / name for name in names if (root / name).is_file()])
    }


def _recognises(layout: Layout, root: Path) -> bool:
    folders = _present(layout, root) if root.is_dir() else {}
    lists = _lists(layout, root)
    if not folders or (layout.lists_name_people and not lists):
        return False
    named = re.search(layout.root, root.resolve().name, re.IGNORECASE)
    if not named and not lists:
        return False
    if layout.lists_name_people or any(name in folders for name in layout.certain):
        return True
    names = [
        f"{name}/{path.relative_to(folder).as_posix()}"
        for name, folder in folders.items()
        for path in first_images(folder, _SAMPLED)
    ]
    known = sum(layout.parse(name) is not None for name in names)
    enough = len(folders) > 1 or next(iter(layout.folders)) in folders
    return enough and known > 0.9 * len(names)


def _read(kind: str, layout: Layout, root: Path, split: int) -> ReIDDataset:
    """Read a published layout."""
    folders, lists = _present(layout, root), _lists(layout, root)
    if not folders or (layout.lists_name_people and not lists):
        missing = [name for names in layout.lists.values() for name in names] if folders else []
        raise DatasetError(
            f"{root} has none of {', '.join(missing or layout.folders)}, which a set of kind "
            f"{kind!r} keeps its {'lists' if missing else 'images'} in.{_another(root)}"
        )
    others = [root / "gt_bbox", root / "gt_query"] if kind == "market1501" else []
    notes = [*layout.notes, *own.not_read(root, [*folders.values(), *others])]
    if layout.lists_name_people and (root / "list_val.txt").is_file():
        notes.append(_VAL)
    rows = list(_rows(root, layout, folders, lists, notes))
    if kind == "mars":
        rows = _with_mars_queries(root, rows)
    if layout.splits > 1:
        rows = random_split(rows, split, halves=layout.halves)
        notes.append(
            f"random split {split + 1} of {layout.splits} ({layout.source}); --splits "
            f"{layout.splits} gives mean and spread"
        )
    whole = root.resolve()
    return assemble(
        root,
        kind,
        rows,
        name=f"{whole.parent.name}/{whole.name}" if whole.name in ("labeled", "detected") else "",
        notes=notes,
        # The lists of MSMT17 number the people of train and test from 0 each.
        one_numbering=not layout.lists_name_people,
        splits=layout.splits,
    )


def _another(root: Path) -> str:
    kinds = [kind for kind, layout in LAYOUTS.items() if _recognises(layout, root)]
    return f" It looks like kind {kinds[0]!r}." if kinds else ""


def _rows(
    root: Path,
    layout: Layout,
    folders: Mapping[str, Path],
    lists: Mapping[str, list[Path]],
    notes: list[str],
) -> Iterator[Row]:
    """Yield the images that lists name, or those of a folder without a list.

    Files whose names say nothing are counted in `notes`.
    """
    unread: dict[str, list[str]] = defaultdict(list)
    others: Counter[str] = Counter()
    read = 0
    for subset, files in lists.items():
        wanted = [name for name, meant in layout.folders.items() if meant == subset]
        name = wanted[0] if wanted else [*layout.folders][-1]
        for file in files:
            listed = _listed(file, layout, folders.get(name, root / name), subset)
            read += len(listed)
            yield from listed
    for name, folder in folders.items():
        if layout.lists_name_people or layout.folders[name] in lists:
            continue
        for path in images_below(folder, others):
            groups = layout.parse(f"{name}/{path.relative_to(folder).as_posix()}")
            if groups is None:
                unread[layout.folders[name]].append(path.name)
            else:
                read += 1
                yield _row(path, groups, layout.folders[name])
    bad = [name for names in unread.values() for name in names]
    if bad and not read:
        raise DatasetError(
            f"{root}: not one file name says who is on the image ({few(bad)}). A name looks like "
            f"{layout.example}."
        )
    notes += [describe_others(others)] if others else []
    notes += [
        f"{subset}: {len(names):,} files left out, their names are not like {layout.example}: "
        f"{few(names)}"
        for subset, names in unread.items()
    ]


def _row(path: Path, groups: Groups, subset: str) -> Row:
    return Row(
        path,
        groups["pid"],
        groups.get("subset", subset),
        groups.get("cam", ""),
        groups.get("tracklet", ""),
        groups.get("clothes", ""),
    )


def _listed(listing: Path, layout: Layout, folder: Path, subset: str) -> list[Row]:
    """Read the rows of one list, which may be written with backslashes.

    Raises:
        DatasetError: A line without the labels, or files that do not exist.
    """
    rows = []
    for number, line in enumerate(read_text(listing).splitlines(), 1):
        where, pid = line.strip().replace("\\", "/"), ""
        if layout.lists_name_people:
            where, _, pid = where.rpartition(" ")
        else:
            where = where.rpartition("/")[2]
        groups = layout.parse(where) if where else None
        if groups is not None and pid:
            groups["pid"] = pid
        if line.strip() and (groups is None or not groups.get("pid", "").isdecimal()):
            like = layout.example + (" 0" if layout.lists_name_people else "")
            raise DatasetError(f"{listing}, line {number}: {line.strip()!r} is not like {like!r}.")
        if groups is not None:
            rows.append(_row(folder / where, groups, subset))
    require_files((row.path for row in rows), listing)
    return rows


def _with_mars_queries(root: Path, rows: list[Row]) -> list[Row]:
    """Make queries of the tracklets that MARS's ``info`` folder lists, where it is there.

    Raises:
        DatasetError: SciPy, which reads the lists, is missing, or they do not fit.
    """
    info = root / "info"
    if not (info / "query_IDX.mat").is_file():
        return rows
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DatasetError(
            f"{info}/query_IDX.mat names the queries of MARS, and reading it needs SciPy: "
            "pip install scipy."
        ) from None
    try:
        names = read_text(info / "test_name.txt").split()
        tracks = loadmat(info / "tracks_test_info.mat")["track_test_info"]
        chosen = loadmat(info / "query_IDX.mat")["query_IDX"].ravel()
        first_frames = [names[int(tracks[index - 1, 0]) - 1] for index in chosen]
    except (KeyError, IndexError, ValueError) as error:
        raise DatasetError(f"{info} does not hold MARS's lists of tracklets ({error}).") from error
    queries = {name.rpartition("F")[0] for name in first_frames}
    return [
        row._replace(subset="query" if row.tracklet in queries else "gallery")
        if row.subset == "test"
        else row
        for row in rows
    ]


def _alone(read: Callable[[Path], ReIDDataset]) -> Callable[[Path, int], ReIDDataset]:
    return lambda root, split: read(root)


READERS: Mapping[str, Reader] = {
    **{
        kind: Reader(layout.looks_for, partial(_recognises, layout), partial(_read, kind, layout))
        for kind, layout in LAYOUTS.items()
    },
    "csv": Reader(own.CSV_HELP, own.is_csv, _alone(own.read_csv), generic=True),
    "folders": Reader(own.FOLDERS_HELP, own.is_folders, _alone(own.read_folders), generic=True),
}
