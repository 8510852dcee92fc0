"""Follow people through one clip and give a tracklet, with its best crops, for each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from passreid.embed import Embedder
from passreid.errors import MissingExtraError
from passreid.video.boxes import F64, Detections
from passreid.video.detect import Detector
from passreid.video.frames import Frame

Pixels = NDArray[np.uint8]

SPLIT_FMR = 0.01
"""False match rate whose threshold tells two stretches of a track apart."""
_CANDIDATES = 24
"""Crops held of a live track, spread over its time."""


class Crop(NamedTuple):
    """One candidate picture of a tracked person.

    Attributes:
        frame: Number of its frame.
        seconds: From the start of the clip.
        pixels: (H, W, 3) uint8 RGB.
        quality: Higher is better; see `quality`.
    """

    frame: int
    seconds: float
    pixels: Pixels
    quality: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracklet:
    """One person, followed without a break by one camera.

    Attributes:
        number: Of the tracklet in its clip, from 1, in the order in which they end.
        frames: (N,) int64 numbers of the frames it was seen in.
        seconds: (N,) float64 seconds from the start of the clip.
        boxes: (N, 4) float64 left, top, right, bottom in pixels.
        crops: The best pictures, in the order of time.
        embedding: (D,) float32 of unit length: the mean over the crops' unit embeddings.
        cohesion: Smallest cosine of a crop with that mean; low where a track mixes people.
    """

    number: int
    frames: NDArray[np.int64]
    seconds: F64
    boxes: F64
    crops: tuple[Crop, ...]
    embedding: NDArray[np.float32]
    cohesion: float

    @property
    def best(self) -> Crop:
        """The crop of the highest quality."""
        return max(self.crops, key=lambda crop: crop.quality)


class Tracker(Protocol):
    """What links the boxes of one frame to those of the frames before it."""

    def __call__(self, found: Detections) -> NDArray[np.int64]:
        """Return (N,) track numbers, -1 where a box belongs to no confirmed track."""
        ...


class ByteTrack:
    """ByteTrack from the package `trackers` (Zhang et al., ECCV 2022).

    Args:
        rate: Frames a second that reach the tracker.
        start: Confidence at which a box may start a track.
        patience: Seconds a lost track may be found again.
        overlap: Smallest intersection over union of a box with its track. The package's default of
            0.1 hands the track of a person who leaves over to the next one who comes.
    """

    def __init__(
        self, rate: float, *, start: float = 0.5, patience: float = 0.5, overlap: float = 0.3
    ) -> None:
        try:
            import supervision
            from trackers import ByteTrackTracker
        except ModuleNotFoundError:
            raise MissingExtraError("Tracking", "video") from None
        self._boxes = supervision.Detections
        self._tracker = ByteTrackTracker(
            lost_track_buffer=round(30 * patience),  # in frames of a 30 fps clip, by its docs
            frame_rate=rate,
            track_activation_threshold=start,
            high_conf_det_threshold=start,
            minimum_iou_threshold=overlap,
        )

    def __call__(self, found: Detections) -> NDArray[np.int64]:
        """Return (N,) track numbers, -1 where a box belongs to no confirmed track."""
        if found.tracks is not None:
            return found.tracks
        order = np.arange(len(found.boxes))
        given = self._boxes(
            xyxy=found.boxes.astype(np.float32),
            confidence=found.scores.astype(np.float32),
            class_id=order,  # the tracker may reorder boxes; this brings them back
        )
        tracked: Any = self._tracker.update(given)
        numbers = np.full(len(order), -1, np.int64)
        numbers[tracked.class_id] = tracked.tracker_id
        return numbers


def quality(pixels: Pixels, score: float, box: F64, others: F64, size: tuple[int, int]) -> float:
    """Rate a crop: confident, large, sharp, whole, and not covered by another person.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        score: Confidence of the detector.
        box: (4,) its box in the frame.
        others: (N, 4) the other boxes of the frame.
        size: Width and height of the frame.

    Returns:
        0 to 1, a product of one factor for each property.
    """
    height, width = pixels.shape[:2]
    grey = pixels[:: max(1, height // 128), :: max(1, width // 64)].astype(np.float32).mean(axis=2)
    edges = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2]
    sharpness = float(np.abs(edges - grey[1:-1, 2:]).mean()) if edges.size else 0.0
    whole = bool(box[0] > 1 and box[1] > 1 and box[2] < size[0] - 1 and box[3] < size[1] - 1)
    left, top = np.maximum(box[:2], others[:, :2]).T
    right, bottom = np.minimum(box[2:], others[:, 2:]).T
    covered = np.clip(right - left, 0, None) * np.clip(bottom - top, 0, None) / (height * width)
    return (
        score
        * min(1.0, math.sqrt(height * width / (128 * 64)))
        * (sharpness / (sharpness + 8))
        * (1.0 if whole else 0.5)
        * (1 - min(0.9, float(covered.max(initial=0))))
    )


@dataclass(eq=False)
class _Track:
    """A person being followed: where they were, and a bounded number of candidate crops."""

    frames: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    boxes: list[F64] = field(default_factory=list)
    crops: list[Crop] = field(default_factory=list)

    def see(self, frame: Frame, box: F64) -> None:
        self.frames.append(frame.number)
        self.seconds.append(frame.seconds)
        self.boxes.append(box)

    def keep(self, crop: Crop) -> None:
        """Add a candidate; if there are too many, drop the worse of the two closest in time."""
        self.crops.append(crop)
        if len(self.crops) > _CANDIDATES:
            gaps = [b.seconds - a.seconds for a, b in pairwise(self.crops)]
            at = gaps.index(min(gaps))
            worse = at if self.crops[at].quality < self.crops[at + 1].quality else at + 1
            del self.crops[worse]


def tracklets(
    frames: Iterable[Frame],
    embedder: Embedder,
    *,
    detector: Detector,
    tracker: Tracker,
    crops: int = 4,
    min_seconds: float = 0.5,
    min_quality: float = 0.3,
    split_below: float | None = None,
    patience: float = 2.0,
) -> Iterator[Tracklet]:
    """Detect, track, and embed the people of one clip, in bounded memory.

    Args:
        frames: Of one camera, in the order of time (`read_frames`).
        embedder: Embeds the crops.
        detector: `open_detector`.
        tracker: `ByteTrack`, or any function from boxes to track numbers.
        crops: Pictures kept of each person, spread over the time they were seen.
        min_seconds: Shorter tracklets are left out: most are false detections.
        min_quality: Tracklets without a crop of this quality are left out: false detections, and
            people of whom only an edge was seen.
        split_below: A track is cut where the mean embeddings before and after have a smaller
            cosine: the tracker went on with another person. None: the model's threshold at a false
            match rate of 0.01 where it is calibrated, else tracks are not cut.
        patience: Seconds after which a track that was not seen is complete. At least the tracker's.

    Yields:
        Tracklets, each as soon as its track is complete.
    """
    if split_below is None and embedder.calibration is not None:
        split_below = embedder.calibration.threshold_at(SPLIT_FMR)
    split_below = -1.0 if split_below is None else split_below
    finish = _Finish(embedder, crops, min_seconds, min_quality, split_below)
    live: dict[int, _Track] = {}
    for frame in frames:
        found = detector(frame)
        for row, number in enumerate(tracker(found).tolist()):
            if number < 0:
                continue
            track = live.setdefault(number, _Track())
            track.see(frame, found.boxes[row])
            track.keep(_cut(frame, found, row))
        for number in [n for n, t in live.items() if frame.seconds - t.seconds[-1] > patience]:
            yield from finish(live.pop(number))
    for track in live.values():
        yield from finish(track)


def _cut(frame: Frame, found: Detections, row: int) -> Crop:
    """Cut one box out of its frame and rate it."""
    left, top, right, bottom = found.boxes[row].astype(int).tolist()
    pixels = frame.pixels[top:bottom, left:right].copy()  # a view would keep the frame alive
    others = np.delete(found.boxes, row, axis=0)
    height, width = frame.pixels.shape[:2]
    rating = quality(pixels, float(found.scores[row]), found.boxes[row], others, (width, height))
    return Crop(frame.number, frame.seconds, pixels, rating)


@dataclass(eq=False)
class _Finish:
    """Make tracklets of complete tracks."""

    embedder: Embedder
    crops: int
    min_seconds: float
    min_quality: float
    split_below: float
    count: int = 0

    def __call__(self, track: _Track) -> Iterator[Tracklet]:
        if track.seconds[-1] - track.seconds[0] < self.min_seconds:
            return
        rows = unit_rows(self.embedder([c.pixels for c in track.crops], channel_order="rgb"))
        frames, seconds = np.array(track.frames), np.array(track.seconds)
        boxes = np.array(track.boxes)
        cuts = _cuts(rows, self.split_below)
        between = [(track.crops[c - 1].seconds + track.crops[c].seconds) / 2 for c in cuts]
        for part, (first, last) in enumerate(pairwise([0, *cuts, len(rows)])):
            since = between[part - 1] if part else -math.inf
            until = between[part] if part < len(between) else math.inf
            seen = (seconds >= since) & (seconds < until)
            if np.ptp(seconds[seen]) < self.min_seconds:
                continue
            chosen = _spread(track.crops[first:last], self.crops)
            if max(track.crops[first + index].quality for index in chosen) < self.min_quality:
                continue
            own = rows[[first + index for index in chosen]]
            mean = unit_rows(own.mean(axis=0, keepdims=True))[0]
            self.count += 1
            yield Tracklet(
                number=self.count,
                frames=frames[seen],
                seconds=seconds[seen],
                boxes=boxes[seen],
                crops=tuple(track.crops[first + index] for index in chosen),
                embedding=mean,
                cohesion=float((own @ mean).min()),
            )


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows (N, D) to unit length."""
    scaled: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def _cuts(rows: NDArray[np.float32], threshold: float) -> list[int]:
    """Return where a track's unit rows (N, D), in the order of time, turn into another person's.

    The cut with the least similar means on its two sides, if they are below the threshold; then
    each side again. One crop alone is not enough for a side: it may be a bad one.
    """
    best, at = threshold, 0
    for cut in range(2, len(rows) - 1):
        sides = unit_rows(np.stack([rows[:cut].mean(axis=0), rows[cut:].mean(axis=0)]))
        alike = float(sides[0] @ sides[1])
        if alike < best:
            best, at = alike, cut
    if not at:
        return []
    after = [at + cut for cut in _cuts(rows[at:], threshold)]
    return [*_cuts(rows[:at], threshold), at, *after]


def _spread(crops: list[Crop], count: int) -> list[int]:
    """Return the positions of the best crop of each of `count` equal stretches of their time."""
    first, last = crops[0].seconds, crops[-1].seconds
    step = (last - first) / count or 1.0
    chosen: dict[int, int] = {}
    for index, crop in enumerate(crops):
        stretch = min(count - 1, int((crop.seconds - first) / step))
        if stretch not in chosen or crop.quality > crops[chosen[stretch]].quality:
            chosen[stretch] = index
    return [chosen[stretch] for stretch in sorted(chosen)]


def describe(tracklet: Tracklet) -> dict[str, Any]:
    """Return what is stored of a tracklet besides its embedding, as plain JSON data."""
    return {
        "start": round(float(tracklet.seconds[0]), 3),
        "end": round(float(tracklet.seconds[-1]), 3),
        "frames": tracklet.frames.tolist(),
        "boxes": np.round(tracklet.boxes).astype(int).tolist(),
        "cohesion": round(tracklet.cohesion, 4),
    }
