"""Boxes: cleaned before anything is cut out, and read from MOT, COCO and CSV."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from passreid.errors import VideoError
from passreid.video import clean_boxes, read_boxes


def test_boxes_that_hold_no_crop_are_told_apart_and_others_clipped() -> None:
    boxes: list[list[float]] = [
        [10, 10, 50, 90],
        [-20, -5, 30, 60],  # over the edge: clipped
        [50, 90, 10, 10],  # inverted
        [np.nan, 0, 10, 10],
        [0, 0, np.inf, 10],
        [500, 500, 600, 700],  # outside
        [10, 10, 12, 90],  # two pixels wide
    ]
    whole, usable = clean_boxes(boxes, (100, 100))
    assert usable.tolist() == [True, True, False, False, False, False, False]
    assert whole[1].tolist() == [0, 0, 30, 60]
    assert not whole[~usable].any()


def test_wider_rows_as_trackers_give_them_are_read_by_their_first_four_columns() -> None:
    whole, usable = clean_boxes([[0, 0, 20, 40, 0.9, 0]], (100, 100))
    assert whole.tolist() == [[0, 0, 20, 40]]
    assert usable.all()


def test_no_boxes_give_no_rows() -> None:
    whole, usable = clean_boxes([], (100, 100))
    assert whole.shape == (0, 4)
    assert usable.shape == (0,)


@pytest.mark.parametrize("kind", ["mot", "coco", "csv"])
def test_the_same_boxes_are_read_from_every_format(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "boxes"
    if kind == "mot":
        path.write_text("1,7,10,20,30,60,0.5,-1,-1,-1\n3,8,0,0,5,9,1,-1,-1,-1\n")
    elif kind == "csv":
        path.write_text(
            "frame,left,top,right,bottom,score,track\n0,10,20,40,80,0.5,7\n2,0,0,5,9,1,8\n"
        )
    else:
        document = {
            "images": [{"id": 11}, {"id": 12}, {"id": 13}],
            "annotations": [
                {"image_id": 11, "bbox": [10, 20, 30, 60], "score": 0.5, "track_id": 7},
                {"image_id": 13, "bbox": [0, 0, 5, 9], "score": 1, "track_id": 8},
            ],
        }
        path.write_text(json.dumps(document))
    found = read_boxes(path)
    assert sorted(found) == [0, 2]
    assert found[0].boxes.tolist() == [[10, 20, 40, 80]]
    assert found[0].scores.tolist() == [0.5]
    assert found[0].tracks is not None and found[0].tracks.tolist() == [7]
    assert found[2].boxes.tolist() == [[0, 0, 5, 9]]


def test_mot_detections_without_ids_leave_tracking_to_the_tracker(tmp_path: Path) -> None:
    path = tmp_path / "det.txt"
    path.write_text("1,-1,10,20,30,60,0.5\n")
    assert read_boxes(path)[0].tracks is None


@pytest.mark.parametrize("text", ["1,2,3\n", "hello world\n", '{"images": []}', "1,a,b,c,d,e\n"])
def test_files_that_hold_no_boxes_are_refused_in_one_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong"
    path.write_text(text)
    with pytest.raises(VideoError, match="does not fit MOT text, COCO JSON or CSV"):
        read_boxes(path)
