"""Make a data set of drawn pedestrians, in the layout of any reader.

The same arguments give the same pictures. Nothing in them shows a real person, so tests, examples
and a first try of every command need no download and no consent. How well a model finds drawn
people says little about how well it finds real ones.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from passreid.data.dataset import ReIDDataset
from passreid.data.drawing import draw_crop, in_other_clothes, random_camera, random_people
from passreid.data.layout import Layout, Shot
from passreid.data.layouts import LAYOUTS
from passreid.data.readers import read_dataset
from passreid.errors import OutputError, UsageError

# Keeps the streams of random numbers apart that one seed starts.
_PEOPLE, _CAMERAS, _CROPS, _CLOTHES = 1, 2, 3, 4


DRAWN: Mapping[str, Layout] = {
    **LAYOUTS,
    "csv": Layout(source="", folders={}, name="", drawn="images/{pid:04d}_c{cam}_{n}.jpg"),
    "folders": Layout(
        source="", folders={}, name="", drawn="{folder}/person-{pid:03d}/c{cam}_{n}.jpg"
    ),
}


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
    """Draw a data set of pedestrians into a new folder and read it.

    The first people are for training, the others for the test; each camera's first picture of a
    test person is a query, the rest the gallery (with one picture by each camera, one camera's is
    the query). Kinds with a protocol of their own, or with fewer cameras or pictures, follow that;
    in kinds about clothes people change theirs from camera to camera. The fourth person wears the
    clothes of the third.

    Args:
        root: The folder to make; may exist when it is empty.
        people: How many, train and test together.
        cameras: How many see each person.
        per_camera: Pictures (or tracklets) by each camera of each person.
        kind: A key of `passreid.data.READERS`.
        seed: Another seed gives other people, cameras and pictures.
        size: (height, width) of a picture in pixels.
        train_fraction: Share of the people that is for training; 0 gives a test set only.

    Raises:
        UsageError: An argument out of range, or a folder that holds something.
        OutputError: The folder cannot be written.
    """
    if kind not in DRAWN:
        raise UsageError(f"There is no data set kind {kind!r}: use {', '.join(DRAWN)}.")
    for name, value, least in (
        ("people", people, 1),
        ("cameras", cameras, DRAWN[kind].cameras[0]),
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
    existed = folder.exists()
    if existed and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not empty: name a new folder.")
    shots = list(_shots(DRAWN[kind], people, learned, cameras, per_camera))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=folder) as draft:
            _write(Path(draft), kind, shots, seed=seed, size=size)
            for entry in sorted(Path(draft).iterdir()):
                entry.replace(folder / entry.name)
    except OSError as error:
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error}).") from error
    return read_dataset(folder, kind)


def _shots(
    drawn: Layout, people: int, learned: int, cameras: int, per_camera: int
) -> Iterator[Shot]:
    """Yield every picture, and the subset it belongs to."""
    if drawn.folders and "train" not in drawn.folders.values():
        learned = 0
    cameras, per_camera = min(cameras, drawn.cameras[1]), min(per_camera, drawn.pictures)
    for person, camera, number in product(range(people), range(cameras), range(per_camera)):
        asked = number == 0 and (per_camera > 1 or camera == person % cameras)
        subset = "train" if person < learned else "query" if asked else "gallery"
        for frame in range(drawn.frames):
            yield Shot(person, camera, number, frame, subset)


def _write(
    folder: Path, kind: str, shots: Sequence[Shot], *, seed: int, size: tuple[int, int]
) -> None:
    """Draw the pictures and write them and the lists."""

    def stream(*numbers: int) -> np.random.Generator:
        return np.random.default_rng([seed, *numbers])

    drawn = DRAWN[kind]
    looks = random_people(1 + max(shot.person for shot in shots), stream(_PEOPLE))
    seeing = [
        random_camera(number, stream(_CAMERAS, number))
        for number in range(1 + max(shot.camera for shot in shots))
    ]
    for shot in shots:
        person, outfit = looks[shot.person], drawn.outfits[shot.camera % len(drawn.outfits)]
        if outfit:
            person = in_other_clothes(person, stream(_CLOTHES, shot.person, outfit))
        crop = draw_crop(
            person,
            seeing[shot.camera],
            stream(_CROPS, shot.person, shot.camera, shot.number + 1000 * shot.frame),
            size=size,
            occluded=shot.subset == "query" and kind.startswith(("occluded", "partial")),
        )
        path = folder / DRAWN[kind].path(shot)
        path.parent.mkdir(parents=True, exist_ok=True)
        crop.save(path, quality=88)
    for name, lines in _lists(kind, shots).items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")


def _lists(kind: str, shots: Sequence[Shot]) -> dict[str, list[str]]:
    """Return the text files beside the pictures: file name -> lines."""
    lists: dict[str, list[str]] = {}
    if kind == "csv":
        rows = [
            f"{DRAWN[kind].path(s)},person-{s.person + 1:03d},{s.camera},{s.subset}" for s in shots
        ]
        return {"dataset.csv": ["path,pid,camid,split", *rows]}
    if kind == "occluded-duke":
        for shot in shots:
            lists.setdefault(f"{shot.subset}.list", []).append(Path(DRAWN[kind].path(shot)).name)
    if kind.startswith("msmt17"):
        # Train and test number their people from 0 each.
        first = {shot.subset == "train": shot.person for shot in reversed(shots)}
        for shot in shots:
            number = shot.person - first[shot.subset == "train"]
            line = f"{DRAWN[kind].path(shot).partition('/')[2]} {number}"
            lists.setdefault(f"list_{shot.subset}.txt", []).append(line)
    return lists
