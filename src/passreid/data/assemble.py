"""What every reader shares: listing images, camera numbers, the query-gallery split, the notes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from passreid.data.dataset import SUBSETS, UNKNOWN_CAMERA, ReIDDataset, Sample
from passreid.data.published import compare_with_published
from passreid.errors import DatasetError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
    | {".heic", ".heif", ".avif"}  # to be named as unreadable
)
JUNK = -1
_SHOWN = 3

Subsets = Mapping[str, Sequence[Sample]]


def images_in(folder: Path) -> list[Path]:
    """The image files directly in a folder, sorted; none when there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries if _is_image(e.name) and e.is_file())


def images_below(folder: Path) -> list[Path]:
    """The image files in a folder and all visible folders below it, sorted."""
    inside = [path for child in folders_in(folder) for path in images_below(child)]
    return sorted(images_in(folder) + inside)


def folders_in(folder: Path) -> list[Path]:
    """The visible folders directly in a folder, sorted."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries if e.is_dir() and not e.name.startswith("."))


def few(items: Iterable[object]) -> str:
    """The first few of `items` for a message, and how many more there are."""
    shown = [str(item) for item in items]
    more = len(shown) - _SHOWN
    return ", ".join(shown[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def read_text(path: Path) -> str:
    """The text of a list; raises `DatasetError` where it is not UTF-8."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text: save it as UTF-8.") from error


def require_files(paths: Iterable[Path], listed_in: Path) -> None:
    """Refuse a list that names files which are not there.

    Raises:
        DatasetError: Names the first few missing files and counts all.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DatasetError(
            f"{listed_in} lists {len(missing):,} files that do not exist: {few(missing)}. "
            "Is the archive unpacked completely, and the list in its place?"
        )


def from_zero(subsets: Subsets) -> tuple[dict[str, list[Sample]], dict[int, str]]:
    """Turn camera numbers as file names count them, from 1, into camids, which start at 0.

    A set whose names start at camera 0 keeps its numbers: 0 - 1 would read as unknown.

    Returns:
        The samples, and camid -> number in the file names where these differ.
    """
    numbers = {sample.camid for samples in subsets.values() for sample in samples}
    numbers -= {UNKNOWN_CAMERA}
    if min(numbers, default=0) == 0:
        return {name: list(samples) for name, samples in subsets.items()}, {}
    counted = {
        name: [s if s.camid < 0 else replace(s, camid=s.camid - 1) for s in samples]
        for name, samples in subsets.items()
    }
    return counted, {number - 1: str(number) for number in sorted(numbers)}


def split_query(samples: Iterable[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Choose queries where the source names none; the rest is the gallery.

    For each person, the first image (by path) of every camera that has two or more of them; where
    no camera has, the first image of the first camera. A person with one image has no query.
    """
    people: dict[int, dict[int, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    ordered = sorted(samples, key=lambda sample: sample.path)
    for sample in ordered:
        people[sample.pid][sample.camid].append(sample)
    chosen: set[Path] = set()
    for cameras in people.values():
        firsts = [cameras[camid][0] for camid in sorted(cameras)]
        doubles = [first for first in firsts if len(cameras[first.camid]) > 1]
        if sum(map(len, cameras.values())) > 1:
            chosen.update(first.path for first in doubles or firsts[:1])
    query = [sample for sample in ordered if sample.path in chosen]
    return query, [sample for sample in ordered if sample.path not in chosen]


def assemble(
    root: Path,
    kind: str,
    subsets: Subsets,
    *,
    name: str = "",
    notes: Sequence[str] = (),
    people: Mapping[int, str] | None = None,
    cameras: Mapping[int, str] | None = None,
    one_numbering: bool = True,
) -> ReIDDataset:
    """Sort the samples, drop junk, and say in notes what a reader of a result should know.

    Args:
        root: Where the set was read from.
        kind: The layout.
        subsets: Samples of train, query, gallery; missing ones are empty.
        name: Default: the folder's name.
        notes: What the reader itself noticed.
        people: pid -> name in the source.
        cameras: camid -> name in the source.
        one_numbering: A pid of train is the same person in query and gallery.

    Raises:
        DatasetError: From `ReIDDataset`.
    """
    parts: dict[str, tuple[Sample, ...]] = {}
    said = list(notes)
    for subset in SUBSETS:
        samples = sorted(subsets.get(subset, ()), key=lambda sample: sample.path)
        parts[subset] = tuple(sample for sample in samples if sample.pid != JUNK)
        if junk := len(samples) - len(parts[subset]):
            said.append(f"{subset}: {junk:,} junk images (pid -1) left out")
    name = name or root.resolve().name
    dataset = ReIDDataset(
        name,
        kind,
        root,
        train=parts["train"],
        query=parts["query"],
        gallery=parts["gallery"],
        people=people or {},
        cameras=cameras or {},
    )
    said += _empty_parts(dataset)
    said += _overlaps(dataset, one_numbering)
    said += _unanswerable(dataset)
    said += _unknown_cameras(dataset)
    # CUHK03-NP is two data sets in one layout; the folder's name says which.
    known = f"{kind}/{root.resolve().name}" if kind == "cuhk03-np" else kind
    said += compare_with_published(known, dataset.summary())
    return replace(dataset, notes=tuple(said))


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def _empty_parts(dataset: ReIDDataset) -> list[str]:
    if not dataset.train:
        return ["there are no train images: this set can measure a model but not teach one"]
    if not dataset.query:
        return ["there are no query and gallery images: this set can teach a model but not measure"]
    return []


def _overlaps(dataset: ReIDDataset, one_numbering: bool) -> list[str]:
    """People seen in training, and images that would find themselves."""
    notes = []
    tested = {sample.pid for sample in dataset.query}
    shared = sorted(tested & {sample.pid for sample in dataset.train}) if one_numbering else []
    if shared:
        who = few(dataset.people.get(pid, pid) for pid in shared)
        notes.append(
            f"{len(shared):,} people of query are also in train (pid {who}): a model "
            "trained on this set knows them, and its score says little about new people"
        )
    both = sorted({s.path for s in dataset.query} & {s.path for s in dataset.gallery})
    if both:
        notes.append(
            f"{len(both):,} images are in both query and gallery ({few(p.name for p in both)}): "
            "unless the same-camera rule removes them, they find themselves"
        )
    return notes


def _unanswerable(dataset: ReIDDataset) -> list[str]:
    lost = dataset.unanswerable()
    if not lost:
        return []
    who = few(dataset.people.get(pid, pid) for pid in sorted({query.pid for query in lost}))
    return [
        f"{len(lost):,} of {len(dataset.query):,} queries show a person whom no other camera shows "
        f"in the gallery (pid {who}): they do not count while the same-camera rule is on"
    ]


def _unknown_cameras(dataset: ReIDDataset) -> list[str]:
    samples = (*dataset.train, *dataset.query, *dataset.gallery)
    unknown = sum(sample.camid == UNKNOWN_CAMERA for sample in samples)
    if not unknown:
        return []
    if unknown == len(samples):
        return ["no cameras are known: images by the query's own camera count as answers"]
    return [f"the camera of {unknown:,} of {len(samples):,} images is not known"]
