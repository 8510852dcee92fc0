"""Draw a data set of pedestrians, in the layout of Market-1501."""

from __future__ import annotations

import os
import shutil
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from passreid.data.dataset import ReIDDataset
from passreid.data.drawing import draw_crop, random_camera, random_people
from passreid.data.readers import read_dataset
from passreid.errors import OutputError, UsageError

# Separate random streams from one seed.
_PEOPLE, _CAMERAS, _CROPS = 1, 2, 3


def make_synthetic(
    root: str | os.PathLike[str],
    *,
    people: int = 24,
    cameras: int = 4,
    per_camera: int = 2,
    seed: int = 0,
    size: tuple[int, int] = (128, 64),
    train_fraction: float = 0.5,
) -> ReIDDataset:
    """Draw a data set of pedestrians into a new folder and read it.

    The same arguments give the same images, which show no real person: tests, examples and a first
    try of every command need no download and no consent. Scores on them say little about scores on
    real people.

    The first people are for training, the others for the test. Each camera's first image of a test
    person is a query, the rest is the gallery; with one image per camera, one camera's is the
    query. The fourth person wears the clothes of the third.

    Args:
        root: The folder to create; it may exist if it is empty.
        people: Number of people, train and test together.
        cameras: Number of cameras, each of which sees everyone.
        per_camera: Images of each person from each camera.
        seed: Another seed gives other people, cameras and images.
        size: (height, width) of an image in pixels.
        train_fraction: Fraction of the people for training; 0 gives a test set only.

    Raises:
        UsageError: An argument is out of range, or the folder is not empty.
        OutputError: The folder cannot be written.
    """
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
    trained = round(people * train_fraction)
    if trained < people and cameras * per_camera < 2:
        raise UsageError("One image per person leaves nothing to search: draw at least two.")
    folder = Path(root)
    existed = folder.exists()
    if existed and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not empty: name a new folder.")

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=folder) as draft:
            _draw(Path(draft), people, trained, cameras, per_camera, seed=seed, size=size)
            for entry in sorted(Path(draft).iterdir()):
                entry.replace(folder / entry.name)
    except OSError as error:
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error}).") from error
    return read_dataset(folder, "market1501")


def _draw(
    folder: Path,
    people: int,
    trained: int,
    cameras: int,
    per_camera: int,
    *,
    seed: int,
    size: tuple[int, int],
) -> None:
    looks = random_people(people, np.random.default_rng([seed, _PEOPLE]))
    views = [random_camera(n, np.random.default_rng([seed, _CAMERAS, n])) for n in range(cameras)]
    for person, camera, number in product(range(people), range(cameras), range(per_camera)):
        subset = "bounding_box_test"
        if person < trained:
            subset = "bounding_box_train"
        elif number == 0 and (per_camera > 1 or camera == person % cameras):
            subset = "query"
        rng = np.random.default_rng([seed, _CROPS, person, camera, number])
        crop = draw_crop(looks[person], views[camera], rng, size=size)
        (folder / subset).mkdir(exist_ok=True)
        name = f"{person + 1:04d}_c{camera + 1}s1_{number:06d}_00.jpg"
        crop.save(folder / subset / name, quality=88)
