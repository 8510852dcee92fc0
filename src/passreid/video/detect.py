"""Find people in frames: with any callable, with boxes from a file, or with a bundled recipe."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from passreid.errors import MissingExtraError, VideoError
from passreid.fetch import download
from passreid.hub import cache_folder
from passreid.storage import write
from passreid.video.boxes import NOTHING, Detections, clean_boxes, read_boxes
from passreid.video.frames import Frame

Detector: TypeAlias = Callable[[Frame], Detections]

DEFAULT_DETECTOR = "person-detection-0200"
_SITE = (
    "https://storage.openvinotoolkit.org/repositories/open_model_zoo/2021.2/models_bin/1/"
    "person-detection-0200/FP16/person-detection-0200"
)
_FILES = {  # open_model_zoo, models/intel/person-detection-0200/model.yml; Apache-2.0
    ".xml": "0f6cbafd5a8cd92ad89e67e3c3471de3e5772d20c9d0a612139777cc0a72235a",
    ".bin": "aba627cdd9c6576cf6e7442191b9663811d327f2ea0ffe113fb77ba07c124b58",
}
_MAX_BYTES = 16 << 20
FLOOR = 0.1
"""Boxes below this confidence are noise to a tracker, too."""


def open_detector(
    name: str | Path | Callable[[NDArray[np.uint8]], tuple[Any, Any]] = DEFAULT_DETECTOR,
) -> Detector:
    """Return a detector.

    Args:
        name: "person-detection-0200" (Open Model Zoo, Apache-2.0, fetched once and checked by its
            SHA-256), the path of an OpenVINO detector (.xml) with SSD output, a file of boxes
            (`read_boxes`), or a function that takes (H, W, 3) uint8 RGB and returns boxes (N, 4)
            left, top, right, bottom in pixels and scores (N,).

    Raises:
        VideoError: There is no such detector, or it has another kind of output.
        MissingExtraError: OpenVINO is not installed.
    """
    if callable(name):
        function = name

        def call(frame: Frame) -> Detections:
            boxes, scores = function(frame.pixels)
            return checked(frame, boxes, scores)

        return call
    if str(name) == DEFAULT_DETECTOR:
        return OpenVINODetector(_fetched())
    path = Path(name)
    if not path.is_file():
        raise VideoError(
            f"{path}: no such detector; use {DEFAULT_DETECTOR}, an OpenVINO .xml or a file of "
            "boxes (MOT, COCO JSON, CSV)."
        )
    if path.suffix.lower() == ".xml":
        return OpenVINODetector(path)
    frames = read_boxes(path)

    def look_up(frame: Frame) -> Detections:
        found = frames.get(frame.number, NOTHING)
        return checked(frame, found.boxes, found.scores, found.tracks)

    return look_up


def checked(frame: Frame, boxes: Any, scores: Any, tracks: Any = None) -> Detections:
    """Clip boxes to the frame and leave out those that hold no crop."""
    height, width = frame.pixels.shape[:2]
    whole, usable = clean_boxes(boxes, (width, height))
    kept = np.asarray(scores, np.float64).reshape(-1)[: len(whole)]
    known = None if tracks is None else np.asarray(tracks, np.int64)[usable]
    return Detections(whole[usable], kept[usable], known)


class OpenVINODetector:
    """A detector of the Open Model Zoo's SSD kind: BGR in, (1, 1, N, 7) out.

    Args:
        path: The .xml file; its weights lie beside it.
    """

    def __init__(self, path: Path) -> None:
        try:
            import openvino
        except ModuleNotFoundError:
            raise MissingExtraError("The person detector", "video") from None
        try:
            network = openvino.Core().compile_model(
                str(path), "CPU", {"INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0))}
            )
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise VideoError(f"{path}: OpenVINO cannot load this detector ({reason}).") from None
        given, result = network.input(0).get_shape(), network.output(0).get_partial_shape()
        if len(given) != 4 or given[1] != 3 or result.rank.get_length() != 4:
            raise VideoError(f"{path}: not an SSD person detector (input {given}).")
        self._run, self._size = network.create_infer_request(), (given[3], given[2])

    def __call__(self, frame: Frame) -> Detections:
        """Detect people in a frame."""
        small = Image.fromarray(frame.pixels).resize(self._size, Image.Resampling.BILINEAR)
        pixels = np.asarray(small, np.float32)[None, :, :, ::-1].transpose(0, 3, 1, 2)
        rows = next(iter(self._run.infer([np.ascontiguousarray(pixels)]).values()))
        rows = np.asarray(rows, np.float64).reshape(-1, 7)
        rows = rows[(rows[:, 0] >= 0) & (rows[:, 2] >= FLOOR)]
        height, width = frame.pixels.shape[:2]
        return checked(frame, rows[:, 3:] * [width, height, width, height], rows[:, 2])


def _fetched() -> Path:
    """Fetch the default detector into the cache, checked by its hash."""
    folder = cache_folder() / DEFAULT_DETECTOR
    for suffix, digest in _FILES.items():
        place = folder / f"{DEFAULT_DETECTOR}{suffix}"
        if place.is_file() and hashlib.sha256(place.read_bytes()).hexdigest() == digest:
            continue
        content = download(_SITE + suffix, DEFAULT_DETECTOR, max_bytes=_MAX_BYTES, timeout_s=120.0)
        if hashlib.sha256(content).hexdigest() != digest:
            raise VideoError(
                f"{DEFAULT_DETECTOR}{suffix} arrived with another SHA-256 than published; try "
                "again, or name a local .xml with --detector."
            )
        folder.mkdir(parents=True, exist_ok=True)
        write(place, content)
    return folder / f"{DEFAULT_DETECTOR}.xml"
