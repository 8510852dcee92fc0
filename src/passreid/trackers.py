"""Let trackers use a passreid model: one encoder for the calls they make, and their thresholds.

encoder = passreid.trackers.encoder(passreid.load())
StrongSort(reid_model=encoder, **thresholds(embedder)["strongsort"])     BoxMOT
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from passreid.embed import Embedder
from passreid.errors import CalibrationError, UsageError
from passreid.images import ChannelOrder
from passreid.video.boxes import clean_boxes

F32 = NDArray[np.float32]

ASSOCIATION_FMR = 0.001
"""False match rate up to which a box may join a track.

StrongSORT and Deep SORT take the best of up to a hundred stored views of a track, so a rate of 0.01
for each of them would let a stranger in every other time.
"""


class Encoder:
    """Embed the boxes of a frame for a tracker: unit rows, one for each box, whatever the box.

    A box that holds no crop (outside the frame, inverted, empty, NaN) gets a row that is similar to
    nobody: a tracker can go on, matching it by its position alone.

    Args:
        embedder: Embeds the crops.
        channel_order: Of frames: "bgr" as OpenCV reads them, or "rgb".

    Attributes:
        unusable: Boxes so far that held no crop.
    """

    def __init__(self, embedder: Embedder, channel_order: ChannelOrder = "bgr") -> None:
        self._embedder, self._order = embedder, channel_order
        self._noise = np.random.default_rng(0)
        self.unusable = 0

    def get_features(self, boxes: Any, frame: Any) -> F32:
        """Embed boxes, as BoxMOT's trackers call it.

        Args:
            boxes: (N, 4) or wider: left, top, right, bottom in pixels first.
            frame: (H, W, 3) uint8.

        Returns:
            (N, D) float32 rows of unit length.
        """
        pixels = np.asarray(frame)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise UsageError(
                f"The frame is {pixels.dtype} of shape {pixels.shape}; give (H, W, 3) uint8."
            )
        whole, usable = clean_boxes(boxes, (pixels.shape[1], pixels.shape[0]))
        corners = whole[usable].astype(int).tolist()
        crops = [pixels[top:bottom, left:right] for left, top, right, bottom in corners]
        rows = self._noise.standard_normal((len(whole), self._embedder.dim)).astype(np.float32)
        if crops:
            rows[usable] = self._embedder(crops, channel_order=self._order)
        self.unusable += int(np.count_nonzero(~usable))
        unit: F32 = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def extract_features(self, detections: Any, frame: Any) -> F32:
        """Embed `supervision.Detections`, as Roboflow's trackers and reid call it."""
        return self.get_features(detections.xyxy, frame)

    extract_embeddings = extract_features

    def __call__(self, frame: Any, boxes: Any) -> F32:
        """Embed boxes with the frame first, as Ultralytics and Deep SORT call it.

        Boxes are centre, width and height there when they come from Ultralytics' trackers: convert
        them with `ultralytics.utils.ops.xywh2xyxy` first.
        """
        return self.get_features(boxes, frame)


def encoder(embedder: Embedder, *, channel_order: ChannelOrder = "bgr") -> Encoder:
    """Return an encoder for trackers.

    Args:
        embedder: `passreid.load`.
        channel_order: Of frames: "bgr" as OpenCV reads them, or "rgb".
    """
    return Encoder(embedder, channel_order)


def thresholds(embedder: Embedder, *, fmr: float = ASSOCIATION_FMR) -> dict[str, dict[str, float]]:
    """Return appearance settings for each tracker from the model's calibration.

    Trackers' defaults fit cosines of the networks they were written with. A passreid model's
    cosines of strangers are higher, so those defaults let strangers into one track.

    Args:
        embedder: Of a calibrated model.
        fmr: False match rate accepted between two boxes.

    Returns:
        Tracker name -> keyword arguments: "strongsort" and "deepsort" (largest cosine distance),
        and "botsort" (largest half cosine distance). DeepOcSort weighs appearance and has no limit.

    Raises:
        CalibrationError: The model was never calibrated.
    """
    if embedder.calibration is None:
        raise CalibrationError(
            "Thresholds come from a calibration, which this model lacks: run passreid calibrate."
        )
    cosine = embedder.calibration.threshold_at(fmr)
    return {
        "strongsort": {"max_cos_dist": 1 - cosine},
        "deepsort": {"max_cosine_distance": 1 - cosine},
        "botsort": {"appearance_thresh": (1 - cosine) / 2},
    }
