"""Put the people of clips into a gallery: one entry for each tracklet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from passreid.embed import Embedder
from passreid.errors import UsageError, VideoError
from passreid.fetch import describe_url
from passreid.gallery import Entry, Gallery
from passreid.gallery.enrolment import draw_thumbnail
from passreid.storage import sha256
from passreid.video.boxes import Detections
from passreid.video.detect import Detector
from passreid.video.frames import Frame, frame_rate, is_stream, read_frames
from passreid.video.output import blur_head
from passreid.video.tracking import ByteTrack, Tracklet, describe, tracklets


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A video and what is known of it.

    Attributes:
        source: File, folder of frames, or address of a stream.
        camera: Name of the camera.
        start: Unix seconds of its first frame; None where unknown: entries then have no time.
        every: Only every n-th frame is looked at.
    """

    source: str
    camera: str
    start: float | None = None
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UsageError(f"every is {self.every}; use 1 for every frame, 5 for every fifth.")

    @property
    def name(self) -> str:
        """The file's name, or the address without its password."""
        return describe_url(self.source) if is_stream(self.source) else Path(self.source).name


def watch(
    clip: Clip,
    embedder: Embedder,
    detector: Detector,
    *,
    memory: Path | None = None,
    **options: Any,
) -> Iterator[Tracklet]:
    """Yield the tracklets of one clip.

    Args:
        clip: The video.
        embedder: Embeds the crops.
        detector: Finds people in a frame.
        memory: File in which detections are kept until the clip is done, so that a run that was
            killed does not detect again; the tracklets are the same either way.
        options: Further arguments of `tracklets`.
    """
    tracker = ByteTrack(frame_rate(clip.source) / clip.every)
    frames = read_frames(clip.source, every=clip.every)
    if memory is None:
        yield from tracklets(frames, embedder, detector=detector, tracker=tracker, **options)
        return
    with closing(_Remembered(detector, memory)) as remembered:
        yield from tracklets(frames, embedder, detector=remembered, tracker=tracker, **options)
    memory.unlink(missing_ok=True)


def enrol_clip(gallery: Gallery, clip: Clip, found: Tracklet, *, blur_heads: bool = False) -> Entry:
    """Add a tracklet to a gallery and return its entry; the same tracklet again changes nothing.

    Args:
        gallery: Of the embedder's model.
        clip: Where the tracklet is from.
        found: The tracklet.
        blur_heads: Blur the head in the thumbnail that is kept.
    """
    best = found.best
    about = describe(found)
    pixels = blur_head(best.pixels) if blur_heads else best.pixels
    digest = hashlib.sha256(
        json.dumps([clip.name, clip.camera, about["frames"], about["boxes"]]).encode()
    ).hexdigest()
    entry = Entry(
        content_hash=digest,
        embedding=found.embedding,
        source=f"{clip.name}@{best.seconds:.1f}s",
        camera=clip.camera,
        time=None if clip.start is None else clip.start + float(found.seconds[0]),
        tracklet=f"{Path(clip.name).stem}/{found.number}",
        payload={"clip": clip.name, **_bounded(about)},
        thumbnail=draw_thumbnail(Image.fromarray(pixels)),
    )
    gallery.add([entry])
    return entry


def memory_for(folder: Path, clip: Clip, detector: str) -> Path | None:
    """Return the file that remembers the detections of a clip; None for streams and folders."""
    path = Path(clip.source)
    if is_stream(clip.source) or not path.is_file():
        return None
    key = hashlib.sha256(f"{sha256(path)} {detector} {clip.every}".encode()).hexdigest()
    return folder / "video" / f"{key[:32]}.jsonl"


_MOST_BOXES = 500


def _bounded(about: dict[str, Any]) -> dict[str, Any]:
    """Thin the boxes of a long tracklet, so that an entry stays small."""
    step = -(-len(about["frames"]) // _MOST_BOXES)
    return about | {name: about[name][::step] for name in ("frames", "boxes")}


class _Remembered:
    """A detector that writes what it found, a line a frame, and reads it again after a kill."""

    def __init__(self, detector: Detector, path: Path) -> None:
        self._detector = detector
        self._known: dict[int, Detections] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = 0
            if path.is_file():
                for line in path.read_bytes().splitlines(keepends=True):
                    if not line.endswith(b"\n"):  # the kill came in the middle of this line
                        break
                    frame, boxes, scores = json.loads(line)
                    self._known[frame] = Detections(
                        np.array(boxes, np.float64).reshape(-1, 4), np.array(scores, np.float64)
                    )
                    whole += len(line)
            self._file = path.open("r+b" if path.is_file() else "wb")
            self._file.truncate(whole)
            self._file.seek(whole)
        except (OSError, ValueError) as error:
            raise VideoError(f"{path}: cannot keep detections there ({error}).") from None

    def __call__(self, frame: Frame) -> Detections:
        if frame.number in self._known:
            return self._known.pop(frame.number)
        found = self._detector(frame)
        line = json.dumps([frame.number, found.boxes.tolist(), found.scores.tolist()])
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        return found

    def close(self) -> None:
        self._file.close()
