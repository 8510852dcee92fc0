"""Read a data set from disk: one `Reader` for each layout, all in `READERS`.

To add a layout, write a function that recognises it by tell-tale files and one that reads it (it
ends in `assemble`), and enter both here. Readers look at names and lists, never into the images.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from passreid.data import market_style, msmt17, own
from passreid.data.assemble import few, folders_in, images_in
from passreid.data.dataset import ReIDDataset
from passreid.errors import DatasetError, UsageError


@dataclass(frozen=True)
class Reader:
    """How one layout is recognised and read.

    Attributes:
        looks_for: What is told to a user whose folder no reader recognises.
        recognises: True when a folder (or file) looks like this layout.
        read: Reads it.
        generic: Recognises much; asked only after all others.
    """

    looks_for: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path], ReIDDataset]
    generic: bool = False


READERS: Mapping[str, Reader] = {
    "market1501": Reader(
        "bounding_box_train, query, bounding_box_test with names like 0002_c1s1_000451_03.jpg",
        market_style.is_market,
        market_style.read_market,
    ),
    "dukemtmc": Reader(
        "the same folders with names like 0001_c2_f0046182.jpg",
        market_style.is_duke,
        market_style.read_duke,
    ),
    "occluded-duke": Reader(
        'the same folders with train.list, query.list, gallery.list or "occluded" in its name',
        market_style.is_occluded_duke,
        market_style.read_occluded_duke,
    ),
    "cuhk03-np": Reader(
        "the same folders inside labeled or detected",
        market_style.is_cuhk03,
        market_style.read_cuhk03,
    ),
    "msmt17": Reader(
        "train, test with list_train.txt, list_query.txt, list_gallery.txt",
        msmt17.is_v1,
        msmt17.read_v1,
    ),
    "msmt17-v2": Reader(
        "mask_train_v2, mask_test_v2 with the same lists",
        msmt17.is_v2,
        msmt17.read_v2,
    ),
    "csv": Reader(
        "one CSV file with the columns path,pid[,camid][,split]",
        own.is_csv,
        own.read_csv,
        generic=True,
    ),
    "folders": Reader(
        "a folder for each person, or train, query, gallery with such folders",
        own.is_folders,
        own.read_folders,
        generic=True,
    ),
}


def read_dataset(root: str | os.PathLike[str], kind: str = "auto") -> ReIDDataset:
    """Read a re-identification data set.

    Args:
        root: The data set's folder, the folder around it, or a CSV file.
        kind: A key of `READERS`, or ``"auto"`` to recognise the layout by its files.

    Raises:
        UsageError: `kind` is unknown.
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
        return reader.read(place)
    except OSError as error:
        where = error.filename or path
        raise DatasetError(f"{where}: cannot be read ({error.strerror or error}).") from error


def _locate(root: Path, readers: Mapping[str, Reader]) -> tuple[Path, Reader] | None:
    """Find the layout in `root`, or else in exactly one folder inside it."""
    for generic in (False, True):
        asked = {kind: reader for kind, reader in readers.items() if reader.generic == generic}
        for reader in asked.values():
            if reader.recognises(root):
                return root, reader
        inside = [
            (folder, kind)
            for folder in folders_in(root)
            for kind, reader in asked.items()
            if reader.recognises(folder)
        ]
        if len(inside) > 1:
            found = few(f"{folder.name} ({kind})" for folder, kind in inside)
            raise DatasetError(f"{root} holds several data sets: {found}. Name one of them.")
        for folder, kind in inside:
            return folder, asked[kind]
    return None


def _unrecognised(root: Path) -> str:
    """What was looked for, and what lies there instead."""
    looked = "\n".join(f"  {kind}: {reader.looks_for}" for kind, reader in READERS.items())
    here = ""
    if root.is_file():
        here = " It is a file, and not a CSV file."
    elif images := images_in(root):
        here = f" It has {len(images):,} images, but nothing says who is on them."
    elif not any(root.iterdir()):
        here = " It is empty."
    return f"{root} is no data set that passreid knows.{here} Looked for:\n{looked}"
