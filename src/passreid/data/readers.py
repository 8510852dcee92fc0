"""Recognise the layout of a data set on disk and read it.

Only names and lists are read here, never the images themselves.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from passreid.data import csvlist, folders
from passreid.data.build import (
    Row,
    build_dataset,
    images_below,
    note_unread,
    read_text,
    require_files,
)
from passreid.data.dataset import ReIDDataset
from passreid.data.layouts import LAYOUTS, DatasetLayout
from passreid.data.protocols import random_split
from passreid.errors import DatasetError, UsageError
from passreid.listing import describe_skipped, first_few, folders_in

_VAL = "list_val is part of train, as in PASS; torchreid and fast-reid leave it out"


class DatasetReader(NamedTuple):
    """How one layout is recognised and read.

    Attributes:
        contents: What a folder in this layout holds, for messages.
        matches: Whether a folder or file looks like this layout.
        read: Reads one random split, numbered from 0, if the protocol has several.
        generic: Matches much, so it is only tried after all others.
    """

    contents: str
    matches: Callable[[Path], bool]
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
        DatasetError: No layout or several are recognised, lists or labels cannot be used, or a
            folder cannot be listed.
    """
    path = Path(root)
    if kind != "auto" and kind not in READERS:
        raise UsageError(f"Unknown data set kind {kind!r}: use auto, {', '.join(READERS)}.")
    if not path.exists():
        raise DatasetError(f"{path} does not exist.")
    readers = READERS if kind == "auto" else {kind: READERS[kind]}
    try:
        found = _locate(path, readers)
        if found is None and kind == "auto":
            raise DatasetError(_describe_unrecognised(path))
        # A layout asked for by name is read even if it is not recognised, for its error message.
        place, reader = found or (path, readers[kind])
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


def _locate(root: Path, readers: Mapping[str, DatasetReader]) -> tuple[Path, DatasetReader] | None:
    """Find the layout in `root`, or else in exactly one folder inside it."""
    for generic in (False, True):
        tried = {kind: reader for kind, reader in readers.items() if reader.generic == generic}
        for reader in tried.values():
            if reader.matches(root):
                return root, reader
        inside: dict[Path, str] = {}
        for folder in folders_in(root):
            for kind, reader in tried.items():
                if reader.matches(folder):
                    inside.setdefault(folder, kind)
        if len(inside) > 1:
            found = first_few(f"{folder.name} ({kind})" for folder, kind in inside.items())
            raise DatasetError(
                f"{root} holds several data sets: {found}. Name one of them."
                + (folders.NESTED_HINT if generic else "")
            )
        for folder, kind in inside.items():
            return folder, tried[kind]
    return None


def _describe_unrecognised(root: Path) -> str:
    whole = root.resolve()
    for kind, layout in LAYOUTS.items():
        if whole in layout.find_folders(whole.parent).values() and layout.matches(whole.parent):
            return (
                f"{root} is only the folder {whole.name} of a {kind} data set: give the folder "
                f"around it, {whole.parent}."
            )
    here = ""
    if root.is_file():
        here = " It is a file, and not a CSV file."
    elif not any(root.iterdir()):
        here = " It is empty."
    elif (root / "cuhk-03.mat").is_file():
        here = " passreid does not read cuhk-03.mat; download the CUHK03-NP folders instead."
    elif images := images_below(root):
        here = f" It has {len(images):,} images, but nothing says who is on them."
    looked = "\n".join(f"  {kind}: {reader.contents}" for kind, reader in READERS.items())
    return f"{root}: unrecognised data set layout.{here} Known layouts:\n{looked}"


def _read_published(layout: DatasetLayout, root: Path, split: int) -> ReIDDataset:
    subfolders, lists = layout.find_folders(root), layout.find_lists(root)
    if not subfolders or (layout.lists_name_people and not lists):
        wanted, what = (layout.list_names, "lists") if subfolders else (layout.folders, "images")
        similar = [other.kind for other in LAYOUTS.values() if other.matches(root)]
        raise DatasetError(
            f"{root} has none of {', '.join(wanted)}, where a set of kind {layout.kind!r} has its "
            f"{what}." + (f" It looks like kind {similar[0]!r}." if similar else "")
        )
    others = [root / "gt_bbox", root / "gt_query"] if layout.kind == "market1501" else []
    notes = [*layout.notes, *note_unread(root, [*subfolders.values(), *others])]
    if layout.lists_name_people and (root / "list_val.txt").is_file():
        notes.append(_VAL)
    rows = list(_read_lists(root, layout, subfolders, lists))
    rows += _read_names(root, layout, subfolders, lists, notes)
    if layout.kind == "mars":
        rows = _choose_mars_queries(root, rows)
    if layout.splits > 1:
        rows = random_split(rows, split, halves=layout.halves)
        notes.append(
            f"random split {split + 1} of {layout.splits} ({layout.source}); --splits "
            f"{layout.splits} gives mean and standard deviation"
        )
    whole = root.resolve()
    dataset = build_dataset(
        root,
        layout.kind,
        rows,
        name=f"{whole.parent.name}/{whole.name}" if whole.name in ("labeled", "detected") else "",
        notes=notes,
        # The lists of MSMT17 number the people of train and test from 0 each.
        shared_pids=not layout.lists_name_people,
        splits=layout.splits,
    )
    return replace(dataset, notes=(*dataset.notes, *layout.compare_sizes(dataset)))


def _read_names(
    root: Path,
    layout: DatasetLayout,
    subfolders: Mapping[str, Path],
    lists: Mapping[str, list[Path]],
    notes: list[str],
) -> Iterator[Row]:
    """Yield the images of folders without a list; add notes on other files."""
    if layout.lists_name_people:
        return
    unparsed: dict[str, list[str]] = defaultdict(list)
    skipped: Counter[str] = Counter()
    read = len(lists)
    for name, folder in subfolders.items():
        subset = layout.folders[name]
        for path in [] if subset in lists else images_below(folder, skipped):
            labels = layout.parse(f"{name}/{path.relative_to(folder).as_posix()}")
            if labels is None:
                unparsed[subset].append(path.name)
            else:
                read += 1
                yield _make_row(path, labels, subset)
    if unparsed and not read:
        bad = first_few(name for names in unparsed.values() for name in names)
        raise DatasetError(
            f"{root}: not one file name says who is on the image ({bad}). Names should look like "
            f"{layout.example}."
        )
    notes += [describe_skipped(skipped)] if skipped else []
    notes += [
        f"{subset}: {len(names):,} files left out, whose names are not like {layout.example}: "
        f"{first_few(names)}"
        for subset, names in unparsed.items()
    ]


def _make_row(path: Path, labels: Mapping[str, str], subset: str) -> Row:
    camera, tracklet, clothes = (labels.get(key, "") for key in ("cam", "tracklet", "clothes"))
    return Row(path, labels["pid"], labels.get("subset", subset), camera, tracklet, clothes)


def _read_lists(
    root: Path,
    layout: DatasetLayout,
    subfolders: Mapping[str, Path],
    lists: Mapping[str, list[Path]],
) -> Iterator[Row]:
    """Yield the images that list files name; paths may have backslashes."""
    example = layout.example.partition("/")[2] + " 0" * layout.lists_name_people
    for subset, file in ((subset, file) for subset, files in lists.items() for file in files):
        name = next((f for f, each in layout.folders.items() if each == subset), "")
        name = name or list(layout.folders)[-1]
        folder = subfolders.get(name, root / name)
        rows = []
        for number, line in enumerate(read_text(file).splitlines(), 1):
            where, pid = line.strip().replace("\\", "/"), ""
            if not where:
                continue
            if layout.lists_name_people:
                where, _, pid = where.rpartition(" ")
            else:
                where = where.rpartition("/")[2]
            labels = layout.parse(where)
            if labels is not None and pid:
                labels["pid"] = pid
            if labels is None or not labels.get("pid", "").isdecimal():
                raise DatasetError(
                    f"{file}, line {number}: {line.strip()!r} is not like {example!r}."
                )
            rows.append(_make_row(folder / where, labels, subset))
        require_files((row.path for row in rows), file)
        yield from rows


def _choose_mars_queries(root: Path, rows: list[Row]) -> list[Row]:
    """Make queries of the tracklets that MARS's ``info`` folder lists, if it is there."""
    info = root / "info"
    if not (info / "query_IDX.mat").is_file():
        return rows
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DatasetError(
            f"{info}/query_IDX.mat lists the queries of MARS, and reading it needs SciPy: "
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


READERS: Mapping[str, DatasetReader] = {
    **{
        kind: DatasetReader(layout.contents, layout.matches, partial(_read_published, layout))
        for kind, layout in LAYOUTS.items()
    },
    "csv": DatasetReader(
        csvlist.CONTENTS, csvlist.is_csv, lambda root, split: csvlist.read_csv(root), generic=True
    ),
    "folders": DatasetReader(
        folders.CONTENTS,
        folders.is_folders,
        lambda root, split: folders.read_folders(root),
        generic=True,
    ),
}
