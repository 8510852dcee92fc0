"""Draw small data sets in every layout that `read_dataset` knows."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from passreid.data import ReIDDataset, read_dataset
from passreid.data.drawing import draw_crop, random_camera, random_people
from passreid.data.layouts import LAYOUTS


class Template(NamedTuple):
    """Paths of the images of one layout.

    Fields of a path: folder (of the subset), side (folder of the camera), pid and cam (from 1),
    letter (of the camera), n (per camera, from 0), every (per person, from 1), frame (from 1).
    """

    path: str
    train: str = ""
    cameras: int = 9
    per_camera: int = 9
    frames: int = 1


_MSMT17 = "{}/{{pid:04d}}/{{pid:04d}}_{{n:03d}}_{{cam:02d}}_0303morning_{{n:04d}}_0.jpg"
_DUKE = "{folder}/{pid:04d}_c{cam}_f{n:07d}.jpg"
_MARKET = "{folder}/{pid:04d}_c{cam}s1_{n:06d}_00.jpg"
TEMPLATES = {
    "msmt17": Template(_MSMT17.format("test"), _MSMT17.format("train")),
    "msmt17-v2": Template(_MSMT17.format("mask_test_v2"), _MSMT17.format("mask_train_v2")),
    "occluded-duke": Template(_DUKE),
    "dukemtmc": Template(_DUKE),
    "cuhk03-np": Template("labeled/{folder}/{pid:04d}_c{cam}_{n}.png"),
    "market1501": Template(_MARKET),
    "market-names": Template(_MARKET),
    "veri": Template("{folder}/{pid:04d}_c{cam:03d}_{n:08d}_0.jpg"),
    "sensereid": Template("{folder}/{pid:05d}_{cam}.jpg", per_camera=2),
    "grid": Template("{side}/{pid:04d}_{cam}_{n}_1_2_3_4.jpeg", cameras=2, per_camera=1),
    "viper": Template("{side}/{pid:03d}_45.bmp", cameras=2, per_camera=1),
    "prid": Template("{side}/person_{pid:04d}.png", cameras=2, per_camera=1),
    "prid-video": Template(
        "{side}/person_{pid:04d}/{frame:04d}.png", cameras=2, per_camera=1, frames=2
    ),
    "ilids-vid": Template(
        "{side}/person{pid:03d}/cam{cam}_person{pid:03d}_{frame:05d}.png",
        cameras=2,
        per_camera=1,
        frames=2,
    ),
    "ilids": Template("Persons/{pid:04d}{every:03d}.jpg"),
    "cuhk01": Template("campus/{pid:04d}{every:03d}.png", cameras=2, per_camera=2),
    "cuhk02": Template(
        "P5/cam{cam}/{pid:03d}_{n:03d}.png", "P1/cam{cam}/{pid:03d}_{n:03d}.png", cameras=2
    ),
    "partial-reid": Template("{folder}/{pid:03d}_{every:03d}.jpg"),
    "occluded-reid": Template("{folder}/{pid:03d}/{pid:03d}_{every:02d}_01.tif"),
    "mars": Template("{folder}/{pid:04d}/{pid:04d}C{cam}T{n:04d}F{frame:03d}.jpg", frames=2),
    "dukemtmc-video": Template(
        "{folder}/{pid:04d}/{every:04d}/{pid:04d}_C{cam}_F{frame:04d}.jpg", frames=2
    ),
    "ltcc": Template("{folder}/{pid:03d}_{outfit}_c{cam}_{n:06d}.png"),
    "prcc": Template(
        "rgb/test/{letter}/{pid:03d}/cropped_rgb{n:03d}.jpg",
        "rgb/train/{pid:03d}/{letter}_cropped_rgb{n:03d}.jpg",
        cameras=3,
    ),
    "celeb-reid": Template("{folder}/{pid}_{every}_0.jpg"),
    "csv": Template("images/{pid:04d}_c{cam}_{n}.jpg"),
    "folders": Template("{folder}/person-{pid:03d}/c{cam}_{n}.jpg"),
}


def draw_layout(
    root: Path,
    kind: str,
    *,
    people: int = 6,
    cameras: int = 4,
    per_camera: int = 2,
    size: tuple[int, int] = (32, 16),
    train_fraction: float = 0.5,
) -> ReIDDataset:
    """Draw people in a layout and read the set; the layout may hold fewer cameras or images."""
    template, layout = TEMPLATES[kind], LAYOUTS.get(kind)
    folders = dict(layout.folders) if layout else {}
    cameras, per_camera = min(cameras, template.cameras), min(per_camera, template.per_camera)
    trained = round(people * train_fraction) if not layout or "train" in folders.values() else 0
    looks = random_people(people, np.random.default_rng(0))
    rows = []
    for person, camera, n in product(range(people), range(cameras), range(per_camera)):
        asked = n == 0 and (per_camera > 1 or camera == person % cameras)
        subset = "train" if person < trained else "query" if asked else "gallery"
        for frame in range(1, template.frames + 1):
            path = ((subset == "train" and template.train) or template.path).format(
                folder=next((f for f, s in folders.items() if s in (subset, "test")), subset),
                side=[*folders, "", ""][camera] if folders else "",
                pid=person + 1,
                cam=camera + 1,
                letter="ABCDEFGHI"[camera],
                outfit=1 + camera % 2,
                n=n,
                every=camera * (per_camera if kind == "cuhk01" else 9) + n + 1,
                frame=frame,
            )
            rows.append((path, person, camera, subset))
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng([person, camera, n, frame])
            view = random_camera(camera, np.random.default_rng(camera))
            draw_crop(looks[person], view, rng, size=size).save(root / path)
    for name, lines in _lists(kind, rows).items():
        (root / name).write_text("".join(f"{line}\n" for line in lines))
    return read_dataset(root, kind)


def _lists(kind: str, rows: list[tuple[str, int, int, str]]) -> dict[str, list[str]]:
    """Return the text files of a layout: name -> lines."""
    lists: dict[str, list[str]] = {}
    if kind == "csv":
        lines = [f"{path},person-{p + 1:03d},{camera},{s}" for path, p, camera, s in rows]
        return {"dataset.csv": ["path,pid,camid,split", *lines]}
    first = {subset == "train": person for _, person, _, subset in reversed(rows)}
    for path, person, _, subset in rows:
        if kind == "occluded-duke":
            lists.setdefault(f"{subset}.list", []).append(Path(path).name)
        elif kind.startswith("msmt17"):  # train and test number their people from 0 each
            line = f"{path.partition('/')[2]} {person - first[subset == 'train']}"
            lists.setdefault(f"list_{subset}.txt", []).append(line)
    return lists
