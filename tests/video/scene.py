"""Drawn scenes with known people: a plain room through which drawn pedestrians walk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from passreid import ReIDDataset
from passreid.video import Detections, Frame

Drawn = dict[int, tuple[np.ndarray, ...]]

SIZE = (320, 240)
PERSON = (64, 128)


@dataclass(frozen=True)
class Walk:
    """One person who crosses the room: pictures to show, first and last frame, way in pixels."""

    person: int
    pictures: tuple[np.ndarray, ...]
    first: int
    last: int
    start: int
    end: int
    top: int = 60

    def box(self, frame: int) -> tuple[int, int, int, int] | None:
        if not self.first <= frame <= self.last:
            return None
        share = (frame - self.first) / max(1, self.last - self.first)
        left = round(self.start + share * (self.end - self.start))
        return left, self.top, left + PERSON[0], self.top + PERSON[1]


def pictures(people: ReIDDataset) -> dict[int, tuple[np.ndarray, ...]]:
    """Return the pictures of each person of a drawn data set, of a person's size."""
    drawn: dict[int, list[np.ndarray]] = {}
    for sample in (*people.query, *people.gallery):
        drawn.setdefault(sample.pid, []).append(
            np.asarray(Image.open(sample.path).convert("RGB").resize(PERSON))
        )
    return {pid: tuple(found) for pid, found in drawn.items()}


def frames(walks: list[Walk], count: int) -> list[Frame]:
    """Draw a scene of `count` frames, 10 a second."""
    shown = []
    for index in range(count):
        pixels = np.full((SIZE[1], SIZE[0], 3), 200, np.uint8)
        pixels[::16] = 180
        for walk in walks:
            if box := walk.box(index):
                left, top, right, bottom = box
                inner = slice(max(0, left), min(SIZE[0], right))
                picture = walk.pictures[(index // 5) % len(walk.pictures)]
                pixels[top:bottom, inner] = picture[:, inner.start - left : inner.stop - left]
        shown.append(Frame(index, index / 10, pixels))
    return shown


def detector(walks: list[Walk]) -> Any:
    """Return a detector that knows where everybody is."""

    def detect(frame: Frame) -> Detections:
        boxes = [box for walk in walks if (box := walk.box(frame.number))]
        clipped = np.clip(np.array(boxes, float).reshape(-1, 4), 0, [*SIZE, *SIZE])
        kept = clipped[(clipped[:, 2] - clipped[:, 0]) >= 4]
        return Detections(kept, np.full(len(kept), 0.9))

    return detect


def owner(walks: list[Walk], frame: int, box: np.ndarray) -> int:
    """Return whose box this is."""
    near = {w.person: abs(b[0] - box[0]) for w in walks if (b := w.box(frame))}
    return min(near, key=lambda person: near[person])


def write_clip(path: Path, shown: list[Frame]) -> None:
    """Encode frames as an H.264 file of 10 frames a second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for frame in shown:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.pixels, format="rgb24")))
        container.mux(stream.encode(None))
