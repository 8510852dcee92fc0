"""Video in, people out: detect, track, pick the best crops, embed one vector per tracklet."""

from __future__ import annotations

from passreid.video.boxes import Detections, clean_boxes, read_boxes
from passreid.video.detect import Detector, OpenVINODetector, open_detector
from passreid.video.frames import Frame, read_frames
from passreid.video.tracking import Tracklet, tracklets

__all__ = [
    "Detections",
    "Detector",
    "Frame",
    "OpenVINODetector",
    "Tracklet",
    "clean_boxes",
    "open_detector",
    "read_boxes",
    "read_frames",
    "tracklets",
]
