"""From rows, which every reader produces, to a `ReIDDataset`: numbers, splits, notes."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from passreid.data.dataset import DISTRACTOR, SUBSETS, UNKNOWN_CAMERA, ReIDDataset, Sample
from passreid.data.layouts import LAYOUTS, VARIANTS
from passreid.errors import DatasetError
from passreid.listing import find_files, is_image, walk_files

JUNK = -1
_SHOWN = 3
# Where no subset comes near its published size, the set is a sample of the published one or another
# set in the same layout, and no count says anything about it.
_NEAR = 0.8
_CHOSEN = (
    "no query is named: of each person, the first image by every camera that took two or more is "
    "one, the rest is the gallery"
)


class Row(NamedTuple):
    """One labelled image before people, cameras, tracklets and clothes have numbers.

    `subset` is train, query, gallery, or ``test`` or ``pool`` as in `Layout.folders`.
    """

    path: Path
    person: str
    subset: str
    camera: str = ""
    tracklet: str = ""
    clothes: str = ""

    @property
    def item(self) -> Hashable:
        """What is ranked as one: the tracklet, or the image."""
        return (self.person, self.camera, self.tracklet) if self.tracklet else self.path


def images_in(folder: Path) -> list[Path]:
    """List the image files directly in a folder, sorted; none when there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries if is_image(e.name) and e.is_file())


def images_below(folder: Path, passed_over: Counter[str] | None = None) -> list[Path]:
    """List the image files in a folder and all visible folders below it, sorted.

    The endings of other files are counted in `passed_over`.
    """
    passed_over = Counter() if passed_over is None else passed_over
    return find_files(folder, is_image, passed_over=passed_over)


def first_images(folder: Path, count: int = 1) -> list[Path]:
    """List the first few image files in a folder and all visible folders below it."""
    return list(islice(walk_files(folder, is_image), count))


def folders_in(folder: Path) -> list[Path]:
    """List the visible folders directly in a folder, sorted."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries if e.is_dir() and not e.name.startswith("."))


def few(items: Iterable[object]) -> str:
    """Join the first few of `items` for a message, and say how many more there are."""
    shown = [str(item) for item in items]
    more = len(shown) - _SHOWN
    return ", ".join(shown[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def read_text(path: Path) -> str:
    """Read a list; raises `DatasetError` where it is not UTF-8."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text: save it as UTF-8.") from error


def require_files(paths: Iterable[Path], listed_in: Path) -> None:
    """Refuse a list that names files which do not exist.

    Raises:
        DatasetError: Names the first few missing files and counts all.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DatasetError(
            f"{listed_in} lists {len(missing):,} files that do not exist: {few(missing)}. "
            "Is the archive unpacked completely, and the list in its place?"
        )


def number_names(names: Iterable[str], *, first: int) -> tuple[dict[str, int], dict[int, str]]:
    """Number names: their own numbers if all are different 64-bit numbers, else in sorted order.

    Returns:
        name -> number, and number -> name where these differ. -1 stays -1, and zeros stay 0 where
        numbers start from 1.
    """
    distinct = sorted(set(names) - {str(JUNK)})
    own = {name: int(name) for name in distinct if name.isdecimal() and len(name) < 4000}
    # Half of 64 bits' range: such numbers are still to be added to.
    fits = all(number < 2**62 for number in own.values())
    if fits and len(own) == len(distinct) and len(set(own.values())) == len(own):
        return {**own, str(JUNK): JUNK}, {}
    zeros = [name for name in distinct if first > DISTRACTOR and own.get(name) == DISTRACTOR]
    named = [name for name in distinct if name not in zeros]
    given = dict.fromkeys(zeros, DISTRACTOR) | {n: i for i, n in enumerate(named, first)}
    return {**given, str(JUNK): JUNK}, {given[name]: name for name in named}


def split_query(rows: Sequence[Row]) -> list[Row]:
    """Choose queries among rows of subset ``test``, where the source names none.

    For each person, the first image or tracklet (by path) of every camera that has two or more of
    them; where no camera has, the first of the first camera. A person with one has no query.
    """
    ordered = sorted(rows, key=lambda row: row.path)
    people: dict[str, dict[str, list[Hashable]]] = defaultdict(lambda: defaultdict(list))
    for row in ordered:
        if row.subset == "test" and row.person != str(JUNK):
            items = people[row.person][row.camera]
            if not items or items[-1] != row.item:
                items.append(row.item)
    chosen: set[Hashable] = set()
    for cameras in people.values():
        firsts = [(items[0], len(items)) for _, items in sorted(cameras.items())]
        doubles = [item for item, count in firsts if count > 1]
        if sum(count for _, count in firsts) > 1:
            chosen.update(doubles or [firsts[0][0]])
    return [
        row._replace(subset="query" if row.item in chosen else "gallery")
        if row.subset == "test"
        else row
        for row in ordered
    ]


def assemble(
    root: Path,
    kind: str,
    rows: Iterable[Row],
    *,
    name: str = "",
    notes: Sequence[str] = (),
    one_numbering: bool = True,
    cameras_from_one: bool = True,
    splits: int = 1,
) -> ReIDDataset:
    """Number and sort the rows, drop junk, and note what a reader of a result should know.

    Args:
        root: Where the set was read from.
        kind: The layout.
        rows: All images; those of ``test`` are split into query and gallery.
        name: Default: the folder's name.
        notes: What the reader itself noticed.
        one_numbering: A pid of train is the same person in query and gallery.
        cameras_from_one: Camera numbers count from 1, as in file names; camids start at 0.
        splits: As in `ReIDDataset`.

    Raises:
        DatasetError: From `ReIDDataset`, or no person has the two images a search needs.
    """
    # Two spellings of one name in Unicode are one name.
    rows = [row._replace(person=normalize("NFC", row.person.strip())) for row in rows]
    said = list(notes)
    if any(row.subset == "test" for row in rows):
        rows = split_query(rows)
        said.append(_CHOSEN)
        if not any(row.subset == "query" for row in rows):
            raise DatasetError(
                f"{root}: no person has two images, so there is nothing to search for."
            )
    subsets, people, cameras = _samples(rows, cameras_from_one)
    parts: dict[str, tuple[Sample, ...]] = {}
    for subset in SUBSETS:
        samples = sorted(subsets[subset], key=lambda sample: sample.path)
        parts[subset] = tuple(sample for sample in samples if sample.pid != JUNK)
        if junk := len(samples) - len(parts[subset]):
            said.append(f"{subset}: {junk:,} junk images (pid -1) left out")
    dataset = ReIDDataset(
        name or root.resolve().name,
        kind,
        root,
        train=parts["train"],
        query=parts["query"],
        gallery=parts["gallery"],
        people=people,
        cameras=cameras,
        splits=splits,
    )
    said += _empty_parts(dataset)
    said += _overlaps(dataset, one_numbering)
    said += _lone_person(dataset)
    said += _unanswerable(dataset)
    said += _unknown_cameras(dataset)
    said += compare_with_published(dataset)
    return replace(dataset, notes=tuple(said))


def _samples(
    rows: Sequence[Row], cameras_from_one: bool
) -> tuple[dict[str, list[Sample]], dict[int, str], dict[int, str]]:
    """Give rows numbers; returns the samples by subset, and the names of people and cameras."""
    pids, people = number_names((row.person for row in rows), first=1)
    camids, cameras = number_names((row.camera for row in rows if row.camera), first=0)
    if not cameras and cameras_from_one:
        known = sorted(set(camids.values()) - {UNKNOWN_CAMERA})
        # A set whose names start at camera 0 keeps its numbers: 0 - 1 would read as unknown.
        if known and known[0] > 0:
            camids = {name: max(number - 1, UNKNOWN_CAMERA) for name, number in camids.items()}
            cameras = {number - 1: str(number) for number in known}
    camids[""] = UNKNOWN_CAMERA
    tracklets, clothes = (
        {key: number for number, key in enumerate(sorted(set(keys)))}
        for keys in (
            ((r.subset, r.person, r.camera, r.tracklet) for r in rows if r.tracklet),
            ((r.person, r.clothes) for r in rows if r.clothes),
        )
    )
    subsets: dict[str, list[Sample]] = {subset: [] for subset in SUBSETS}
    for row in rows:
        subsets[row.subset].append(
            Sample(
                row.path,
                pids[row.person],
                camids[row.camera],
                tracklets.get((row.subset, row.person, row.camera, row.tracklet), -1),
                clothes.get((row.person, row.clothes), -1),
            )
        )
    return subsets, people, cameras


def compare_with_published(dataset: ReIDDataset) -> list[str]:
    """Say where a set that looks like a full published one differs from it."""
    variant = VARIANTS.get(f"{dataset.kind}/{dataset.root.resolve().name.lower()}")
    known = variant or (LAYOUTS[dataset.kind].counts if dataset.kind in LAYOUTS else {})
    found = {
        row.subset: (row.people, len(dataset.items(row.subset)))
        for row in dataset.summary()
        if row.images and row.subset in known
    }
    ratios = [items / known[subset][1] for subset, (_, items) in found.items()]
    if not any(_NEAR <= ratio <= 1 / _NEAR for ratio in ratios):
        return []
    return [
        f"{subset}: {count:,} {what}, the published set has {expected:,}"
        for subset, counts in found.items()
        for what, count, expected in zip(("people", "images"), counts, known[subset], strict=True)
        if expected and count != expected
    ]


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


def _lone_person(dataset: ReIDDataset) -> list[str]:
    tested = {sample.pid for sample in (*dataset.query, *dataset.gallery)}
    if len(tested) != 1:
        return []
    who = dataset.people.get(*tested, *tested)
    return [f"query and gallery show one person ({who}): every answer is right, scores say nothing"]


def _unanswerable(dataset: ReIDDataset) -> list[str]:
    lost = dataset.unanswerable()
    if not lost:
        return []
    who = few(dataset.people.get(pid, pid) for pid in sorted({query.pid for query in lost}))
    return [
        f"{len(lost):,} of {len(dataset.items('query')):,} queries show a person whom no other "
        f"camera shows in the gallery (pid {who}): they do not count while the same-camera rule "
        "is on"
    ]


def _unknown_cameras(dataset: ReIDDataset) -> list[str]:
    samples = (*dataset.train, *dataset.query, *dataset.gallery)
    unknown = sum(sample.camid == UNKNOWN_CAMERA for sample in samples)
    if not unknown:
        return []
    if unknown == len(samples):
        return ["no cameras are known: images by the query's own camera count as answers"]
    return [f"the camera of {unknown:,} of {len(samples):,} images is not known"]
