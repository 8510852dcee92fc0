"""Build a `ReIDDataset` from labelled rows: numbers, queries and notes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from passreid.data.dataset import DISTRACTOR, SUBSETS, UNKNOWN_CAMERA, ReIDDataset, Sample
from passreid.errors import DatasetError
from passreid.listing import find_files, first_few, folders_in, images_in, is_image

JUNK = "-1"
_CHOSEN = (
    "queries are not given: for each person, the first image from every camera with two or more "
    "is a query; all other images are the gallery"
)


class Row(NamedTuple):
    """One labelled image, before people, cameras, tracklets and clothes have numbers.

    `subset` is train, query, gallery, or ``test`` or ``pool`` as in `layouts.toml`.
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


def images_below(folder: Path, skipped: Counter[str] | None = None) -> list[Path]:
    """List the images in a folder and its subfolders; `skipped` counts other files by suffix."""
    return find_files(folder, is_image, skipped=Counter() if skipped is None else skipped)


def read_text(path: Path) -> str:
    """Read a UTF-8 list; raises `DatasetError` for other encodings."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text: save it as UTF-8.") from error


def require_files(paths: Iterable[Path], listed_in: Path) -> None:
    """Raise `DatasetError` if a list names files that do not exist."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DatasetError(
            f"{listed_in} lists {len(missing):,} files that do not exist: {first_few(missing)}. "
            "Check that the archive is unpacked completely and that the list is in its folder."
        )


def note_unread(root: Path, read: Iterable[Path]) -> list[str]:
    """Note images in `root` that lie outside the folders that are read."""
    known = list(read)
    unread = {"in no folder": len(images_in(root))}
    unread |= {
        folder.name: len(images_below(folder))
        for folder in folders_in(root)
        if not any(folder in (each, *each.parents) for each in known)
    }
    named = [f"{name} ({count:,})" for name, count in unread.items() if count]
    return [f"images that are not read: {first_few(named)}"] if named else []


def number_names(names: Iterable[str], *, first: int) -> tuple[dict[str, int], dict[int, str]]:
    """Map names to numbers: their own if all are distinct 64-bit numbers, else by sorted order.

    Returns:
        name -> number, and number -> name where these differ. -1 stays -1, and 0 stays 0 where
        numbers start from 1.
    """
    distinct = sorted(set(names) - {JUNK})
    own = {name: int(name) for name in distinct if name.isdecimal() and len(name) < 4000}
    # Training adds offsets to these numbers, hence only half of the range.
    fits = all(number < 2**62 for number in own.values())
    if fits and len(set(own.values())) == len(own) == len(distinct):
        return {**own, JUNK: -1}, {}
    zeros = [name for name in distinct if first > DISTRACTOR and own.get(name) == DISTRACTOR]
    named = [name for name in distinct if name not in zeros]
    given = dict.fromkeys(zeros, DISTRACTOR) | {n: i for i, n in enumerate(named, first)}
    return {**given, JUNK: -1}, {given[name]: name for name in named}


def split_query(rows: Sequence[Row]) -> list[Row]:
    """Split rows of subset ``test`` into query and gallery, where the source names no queries.

    For each person, the first image or tracklet (by path) of every camera that has two or more is
    a query; if no camera has, the first of the first camera. A person with one image has no query.
    """
    ordered = sorted(rows, key=lambda row: row.path)
    people: dict[str, dict[str, list[Hashable]]] = defaultdict(lambda: defaultdict(list))
    for row in ordered:
        if row.subset == "test" and row.person != JUNK:
            items = people[row.person][row.camera]
            if not items or items[-1] != row.item:
                items.append(row.item)
    chosen: set[Hashable] = set()
    for cameras in people.values():
        firsts = [(items[0], len(items)) for _, items in sorted(cameras.items())]
        if sum(count for _, count in firsts) > 1:
            chosen.update([item for item, count in firsts if count > 1] or [firsts[0][0]])
    return [
        row._replace(subset="query" if row.item in chosen else "gallery")
        if row.subset == "test"
        else row
        for row in ordered
    ]


def build_dataset(
    root: Path,
    kind: str,
    rows: Iterable[Row],
    *,
    name: str = "",
    notes: Sequence[str] = (),
    shared_pids: bool = True,
    cameras_from_one: bool = True,
    splits: int = 1,
) -> ReIDDataset:
    """Number people and cameras, drop junk, and note what a reader of a result should know.

    Args:
        root: Where the set was read from.
        kind: The layout.
        rows: All images; those of ``test`` are split into query and gallery.
        name: Default: the folder's name.
        notes: Notes of the reader, which come first.
        shared_pids: A pid of train is the same person in query and gallery.
        cameras_from_one: Cameras are numbered from 1 in file names; camids start at 0.
        splits: As in `ReIDDataset`.

    Raises:
        DatasetError: As `ReIDDataset`, or no person has the two images that a search needs.
    """
    # The same name in two Unicode forms is one person.
    rows = [row._replace(person=normalize("NFC", row.person.strip())) for row in rows]
    all_notes = list(notes)
    if any(row.subset == "test" for row in rows):
        rows = split_query(rows)
        all_notes.append(_CHOSEN)
        if not any(row.subset == "query" for row in rows):
            raise DatasetError(f"{root}: no person has two images, so there is nothing to search.")
    subsets, people, cameras = _number_samples(rows, cameras_from_one)
    junk = Counter(row.subset for row in rows if row.person == JUNK)
    all_notes += [f"{s}: {junk[s]:,} junk images (pid -1) left out" for s in SUBSETS if junk[s]]
    dataset = ReIDDataset(
        name or root.resolve().name,
        kind,
        root,
        train=subsets["train"],
        query=subsets["query"],
        gallery=subsets["gallery"],
        people=people,
        cameras=cameras,
        splits=splits,
    )
    return replace(dataset, notes=(*all_notes, *_observe(dataset, shared_pids)))


def _number_samples(
    rows: Sequence[Row], cameras_from_one: bool
) -> tuple[dict[str, tuple[Sample, ...]], dict[int, str], dict[int, str]]:
    """Return the samples of each subset, and the names of people and cameras."""
    pids, people = number_names((row.person for row in rows), first=1)
    camids, cameras = number_names((row.camera for row in rows if row.camera), first=0)
    if not cameras and cameras_from_one:
        known = sorted(set(camids.values()) - {UNKNOWN_CAMERA})
        # Cameras that start at 0 keep their numbers: 0 - 1 would mean unknown.
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
    for row in (row for row in rows if row.person != JUNK):
        tracklet = tracklets.get((row.subset, row.person, row.camera, row.tracklet), -1)
        clothid = clothes.get((row.person, row.clothes), -1)
        sample = Sample(row.path, pids[row.person], camids[row.camera], tracklet, clothid)
        subsets[row.subset].append(sample)
    ordered = {s: tuple(sorted(found, key=lambda x: x.path)) for s, found in subsets.items()}
    return ordered, people, cameras


def _observe(dataset: ReIDDataset, shared_pids: bool) -> Iterator[str]:
    """Yield notes on everything that makes scores mean less than they seem to."""
    query, gallery = dataset.query, dataset.gallery

    def names(pids: Iterable[int]) -> str:
        return first_few(dataset.people.get(pid, str(pid)) for pid in sorted(pids))

    if not dataset.train:
        yield "there are no train images: this set can measure a model but not train one"
    if not query:
        yield "there are no query and gallery images: this set can train a model but not measure it"
    known = {s.pid for s in query} & {s.pid for s in dataset.train} if shared_pids else set()
    if known:
        yield (
            f"{len(known):,} people of query are also in train (pid {names(known)}): a model "
            "trained on this set has seen them, and its score says little about new people"
        )
    if both := sorted({s.path for s in query} & {s.path for s in gallery}):
        shown = first_few(path.name for path in both)
        yield (
            f"{len(both):,} images are in both query and gallery ({shown}): unless the "
            "same-camera rule removes them, they find themselves"
        )
    if len(tested := {sample.pid for sample in (*query, *gallery)}) == 1:
        yield (
            f"query and gallery show only one person ({names(tested)}): every match is correct, "
            "and scores mean nothing"
        )
    if unanswerable := dataset.unanswerable():
        yield (
            f"{len(unanswerable):,} of {len(dataset.items('query')):,} queries show a person whom "
            f"no other camera shows in the gallery (pid {names({s.pid for s in unanswerable})}): "
            "they do not count under the same-camera rule"
        )
    samples = (*dataset.train, *query, *gallery)
    unknown = sum(sample.camid == UNKNOWN_CAMERA for sample in samples)
    if unknown == len(samples):
        yield "no cameras are known: matches from the query's own camera count as correct"
    elif unknown:
        yield f"the camera of {unknown:,} of {len(samples):,} images is unknown"
