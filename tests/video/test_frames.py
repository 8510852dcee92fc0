"""Frames: files, folders, damaged and missing ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from passreid.errors import VideoError
from passreid.video import read_frames
from passreid.video.frames import frame_count, frame_rate
from tests.video.scene import Drawn, Walk, frames, write_clip


@pytest.fixture
def clip(tmp_path: Path, drawn: Drawn) -> Any:
    path = tmp_path / "clip.mp4"
    write_clip(path, frames([Walk(1, drawn[13], 0, 39, 0, 250)], 40))
    return path


def test_every_frame_is_read_in_order_with_its_time(clip: Path) -> None:
    read = list(read_frames(clip))
    assert [frame.number for frame in read] == list(range(40))
    assert read[25].seconds == pytest.approx(2.5)
    assert read[0].pixels.shape == (240, 320, 3)
    assert frame_rate(clip) == 10
    assert frame_count(clip) == 40


def test_every_third_frame_keeps_its_number(clip: Path) -> None:
    assert [frame.number for frame in read_frames(clip, every=3)] == list(range(0, 40, 3))


def test_a_folder_of_pictures_is_a_clip(tmp_path: Path) -> None:
    for number in range(4):
        Image.new("RGB", (32, 24), (number * 10,) * 3).save(tmp_path / f"{number:03}.png")
    read = list(read_frames(tmp_path))
    assert [int(frame.pixels[0, 0, 0]) for frame in read] == [0, 10, 20, 30]


def test_a_file_that_was_cut_off_gives_what_is_there(clip: Path, tmp_path: Path) -> None:
    import av

    stream = tmp_path / "cut.ts"  # a format that can be cut
    with av.open(str(clip)) as source, av.open(str(stream), "w", format="mpegts") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    content = stream.read_bytes()
    stream.write_bytes(content[: len(content) * 2 // 3])
    assert 5 < len(list(read_frames(stream))) < 40


@pytest.mark.parametrize("content", [None, b"", b"not a video at all"])
def test_what_is_no_video_is_named_in_one_sentence(content: bytes | None, tmp_path: Path) -> None:
    pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoError, match=r"clip\.mp4: (no such video|cannot be read as video)"):
        list(read_frames(path))


def test_the_password_of_a_camera_is_not_in_messages() -> None:
    pytest.importorskip("av")
    with pytest.raises(VideoError) as told:
        list(read_frames("rtsp://admin:secret@127.0.0.1:1/live", timeout=1, reconnects=0))
    assert "secret" not in str(told.value)
    assert "127.0.0.1" in str(told.value)
