"""Make a data set of drawn pedestrians, in the layout of any reader.

The same arguments give the same pictures. Nothing in them shows a real person, so tests, examples
and a first try of every command need no download and no consent. How well a model finds drawn
people says little about how well it finds real ones.

    python -m passreid.data.synthetic SHEET.png        draws a sheet of examples
"""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from passreid.data.dataset import ReIDDataset
from passreid.data.market_style import FOLDERS
from passreid.data.people import random_people
from passreid.data.readers import read_dataset
from passreid.data.street import draw_crop, random_camera
from passreid.errors import OutputError, UsageError

# Keeps the streams of random numbers apart that one seed starts.
_PEOPLE, _CAMERAS, _CROPS = 1, 2, 3


class Shot(NamedTuple):
    """One picture to be drawn: who (from 0), by which camera (from 0), the how many-th, and why."""

    person: int
    camera: int
    number: int
    subset: str


class Layout(NamedTuple):
    """How a kind lies on disk: the path of each shot, and the text files beside them."""

    path: Callable[[Shot], str]
    lists: Callable[[Sequence[Shot], Callable[[Shot], str]], dict[str, str]]


def make_synthetic(
    root: str | os.PathLike[str],
    *,
    people: int = 24,
    cameras: int = 4,
    per_camera: int = 2,
    kind: str = "market1501",
    seed: int = 0,
    size: tuple[int, int] = (128, 64),
    train_fraction: float = 0.5,
) -> ReIDDataset:
    """Draw a data set of pedestrians and write it to a new folder.

    The first people are for training, the others for the test; each camera's first picture of a
    test person is a query, the rest the gallery (with one picture by each camera, one camera's is
    the query). Every fourth person looks like the one before but for three details.

    Args:
        root: The folder to make; may exist when it is empty.
        people: How many, train and test together.
        cameras: How many see each person.
        per_camera: Pictures by each camera of each person.
        kind: A key of `passreid.data.READERS`.
        seed: Another seed gives other people, cameras and pictures.
        size: (height, width) of a picture in pixels.
        train_fraction: Share of the people that is for training; 0 gives a test set only.

    Returns:
        What the reader of `kind` makes of the folder.

    Raises:
        UsageError: An argument out of range, or a folder that holds something.
        OutputError: The folder cannot be written.
    """
    if kind not in LAYOUTS:
        raise UsageError(f"There is no data set kind {kind!r}: use {', '.join(LAYOUTS)}.")
    for name, value, least in (
        ("people", people, 1),
        ("cameras", cameras, 1),
        ("per_camera", per_camera, 1),
        ("seed", seed, 0),
        ("height", size[0], 16),
        ("width", size[1], 8),
    ):
        if value < least:
            raise UsageError(f"{name} is {value}, and must be at least {least}.")
    if not 0 <= train_fraction <= 1:
        raise UsageError(f"train_fraction is {train_fraction}, and must be from 0 to 1.")
    learned = round(people * train_fraction)
    if learned < people and cameras * per_camera < 2:
        raise UsageError("One picture of each person leaves nothing to find: draw at least two.")
    folder = Path(root)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not empty: name a new folder.")
    shots = list(_shots(people, learned, cameras, per_camera))
    with _whole(folder) as draft:
        _write(draft, shots, LAYOUTS[kind], seed=seed, size=size, hide=kind == "occluded-duke")
    return read_dataset(folder, kind)


def sample_sheet(*, people: int = 12, cameras: int = 6, seed: int = 0) -> Image.Image:
    """Draw a sheet of examples: a row for each person, two pictures by each camera."""
    height, width = 128, 64
    gap = 4
    shots = [(p, c, n) for p in range(people) for c in range(cameras) for n in range(2)]
    columns = 2 * cameras
    sheet = Image.new(
        "RGB", (columns * (width + gap) + gap, people * (height + gap) + gap), "white"
    )
    for at, crop in enumerate(_crops([Shot(*shot, "") for shot in shots], seed, (height, width))):
        row, column = divmod(at, columns)
        sheet.paste(crop[0], (gap + column * (width + gap), gap + row * (height + gap)))
    return sheet


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Give a temporary folder whose content becomes `folder`'s when the block ends well."""
    exists = folder.exists()
    draft = (folder if exists else folder.parent) / f".{uuid.uuid4().hex}"
    try:
        draft.mkdir(parents=True)
        yield draft
        if exists:
            # Filled and not replaced: it may be where a shell stands, or where a disk is mounted.
            for entry in sorted(draft.iterdir()):
                entry.replace(folder / entry.name)
        else:
            draft.replace(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _shots(people: int, learned: int, cameras: int, per_camera: int) -> Iterator[Shot]:
    """Every picture, and the subset it belongs to."""
    for person in range(people):
        for camera in range(cameras):
            for number in range(per_camera):
                asked = number == 0 and (per_camera > 1 or camera == person % cameras)
                subset = "train" if person < learned else "query" if asked else "gallery"
                yield Shot(person, camera, number, subset)


def _crops(
    shots: Sequence[Shot], seed: int, size: tuple[int, int], *, hide: bool = False
) -> Iterator[tuple[Image.Image, int]]:
    """Draw the shots; yields each with the JPEG quality of its camera."""
    looks = random_people(
        1 + max(shot.person for shot in shots), np.random.default_rng([seed, _PEOPLE])
    )
    seeing = [
        random_camera(number, np.random.default_rng([seed, _CAMERAS, number]))
        for number in range(1 + max(shot.camera for shot in shots))
    ]
    for shot in shots:
        rng = np.random.default_rng([seed, _CROPS, shot.person, shot.camera, shot.number])
        occluded = True if hide and shot.subset == "query" else None
        camera = seeing[shot.camera]
        yield (
            draw_crop(looks[shot.person], camera, rng, size=size, occluded=occluded),
            camera.quality,
        )


def _write(
    folder: Path,
    shots: Sequence[Shot],
    layout: Layout,
    *,
    seed: int,
    size: tuple[int, int],
    hide: bool,
) -> None:
    """Write the pictures and the lists."""
    for shot, (crop, quality) in zip(shots, _crops(shots, seed, size, hide=hide), strict=True):
        path = folder / layout.path(shot)
        path.parent.mkdir(parents=True, exist_ok=True)
        crop.save(path, quality=quality)
    for name, text in layout.lists(shots, layout.path).items():
        (folder / name).write_text(text, "utf-8")


def _market_path(shot: Shot) -> str:
    folder, pid = FOLDERS[shot.subset], shot.person + 1
    return f"{folder}/{pid:04d}_c{shot.camera + 1}s1_{shot.number:06d}_00.jpg"


def _duke_path(shot: Shot) -> str:
    folder, pid = FOLDERS[shot.subset], shot.person + 1
    return f"{folder}/{pid:04d}_c{shot.camera + 1}_f{shot.number:07d}.jpg"


def _cuhk03_path(shot: Shot) -> str:
    folder, pid = FOLDERS[shot.subset], shot.person + 1
    return f"labeled/{folder}/{pid:04d}_c{shot.camera + 1}_{shot.number + 1}.png"


def _msmt17_path(train: str, test: str) -> Callable[[Shot], str]:
    def path(shot: Shot) -> str:
        folder = train if shot.subset == "train" else test
        who = f"{shot.person:04d}"
        name = f"{who}_{shot.number:03d}_{shot.camera + 1:02d}_0303morning_{shot.number:04d}_0.jpg"
        return f"{folder}/{who}/{name}"

    return path


def _folders_path(shot: Shot) -> str:
    return f"{shot.subset}/person-{shot.person + 1:03d}/c{shot.camera + 1}_{shot.number}.jpg"


def _csv_path(shot: Shot) -> str:
    return f"images/{shot.person + 1:04d}_c{shot.camera + 1}_{shot.number}.jpg"


def _no_lists(shots: Sequence[Shot], path: Callable[[Shot], str]) -> dict[str, str]:
    return {}


def _duke_lists(shots: Sequence[Shot], path: Callable[[Shot], str]) -> dict[str, str]:
    """One file name a line for each subset."""
    names: dict[str, list[str]] = {f"{subset}.list": [] for subset in FOLDERS}
    for shot in shots:
        names[f"{shot.subset}.list"].append(Path(path(shot)).name)
    return {name: "".join(f"{line}\n" for line in lines) for name, lines in names.items()}


def _msmt17_lists(shots: Sequence[Shot], path: Callable[[Shot], str]) -> dict[str, str]:
    """Path and pid a line; each person's last training picture is for validation."""
    last = max(shot.number for shot in shots), max(shot.camera for shot in shots)
    first: dict[str, int] = {}
    lines: dict[str, list[str]] = {f"list_{s}.txt": [] for s in ("train", "val", *FOLDERS)}
    for shot in shots:
        side = "train" if shot.subset == "train" else "test"
        pid = shot.person - first.setdefault(side, shot.person)
        validates = side == "train" and (shot.number, shot.camera) == last
        name = f"list_{'val' if validates else shot.subset}.txt"
        lines[name].append(f"{path(shot).partition('/')[2]} {pid}\n")
    return {name: "".join(text) for name, text in lines.items()}


def _csv_list(shots: Sequence[Shot], path: Callable[[Shot], str]) -> dict[str, str]:
    rows = [f"{path(s)},person-{s.person + 1:03d},{s.camera},{s.subset}" for s in shots]
    return {"dataset.csv": "\n".join(["path,pid,camid,split", *rows, ""])}


LAYOUTS: Mapping[str, Layout] = {
    "market1501": Layout(_market_path, _no_lists),
    "dukemtmc": Layout(_duke_path, _no_lists),
    "occluded-duke": Layout(_duke_path, _duke_lists),
    "cuhk03-np": Layout(_cuhk03_path, _no_lists),
    "msmt17": Layout(_msmt17_path("train", "test"), _msmt17_lists),
    "msmt17-v2": Layout(_msmt17_path("mask_train_v2", "mask_test_v2"), _msmt17_lists),
    "csv": Layout(_csv_path, _csv_list),
    "folders": Layout(_folders_path, _no_lists),
}


if __name__ == "__main__":
    sample_sheet().save(sys.argv[1])
