"""Read frames from video files, folders of pictures and live streams, one at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from passreid.errors import MissingExtraError, VideoError
from passreid.fetch import describe_url
from passreid.images import read_image
from passreid.listing import find_images

if TYPE_CHECKING:
    from av.container import InputContainer

STREAMS = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "srt://")
_FOLDER_RATE = 25.0
_BACKOFF = 1.0
"""Seconds before the first attempt to reconnect; doubled for each further one."""


class Frame(NamedTuple):
    """One frame: its number from 0, seconds from the start, and (H, W, 3) uint8 RGB pixels."""

    number: int
    seconds: float
    pixels: NDArray[np.uint8]


def is_stream(source: str | Path) -> bool:
    """Tell an address of a stream from a path."""
    return str(source).lower().startswith(STREAMS)


def read_frames(
    source: str | Path, *, every: int = 1, timeout: float = 10.0, reconnects: int = 5
) -> Iterator[Frame]:
    """Yield every n-th frame of a clip, a folder of pictures or a stream, in bounded memory.

    Damaged frames are left out. A stream that breaks off is opened again.

    Args:
        source: A video file, a folder whose pictures are frames in the order of their names (25 a
            second), or an RTSP, RTMP, HTTP, UDP or SRT address.
        every: 1 reads every frame, 5 every fifth.
        timeout: Seconds a stream may take to open or to send the next packet.
        reconnects: Attempts to open a broken stream again before giving up.

    Raises:
        VideoError: The source is missing, is not a video, or does not answer.
        MissingExtraError: PyAV is not installed.
    """
    if is_stream(source):
        yield from _live(str(source), every, timeout, reconnects)
        return
    path = Path(source)
    if path.is_dir():
        for index, picture in enumerate(find_images(path)):
            if index % every == 0:
                yield Frame(index, index / _FOLDER_RATE, np.asarray(read_image(picture)))
        return
    if not path.is_file():
        raise VideoError(f"{path}: no such video.")
    with closing(_open(str(path), path.name, timeout)) as container:
        yield from _decoded(container, path.name, every)


def frame_rate(source: str | Path) -> float:
    """Return a source's frames per second; 25 where it does not say."""
    if not is_stream(source) and not Path(source).is_file():
        return _FOLDER_RATE
    with closing(_open(str(source), _name(source), 10.0)) as container:
        return float(container.streams.video[0].average_rate or _FOLDER_RATE)


def frame_count(source: str | Path) -> int | None:
    """Return how many frames a file or folder has; None where that is not known."""
    if is_stream(source):
        return None
    if Path(source).is_dir():
        return len(list(find_images(Path(source))))
    with closing(_open(str(source), _name(source), 10.0)) as container:
        return container.streams.video[0].frames or None


def _live(address: str, every: int, timeout: float, reconnects: int) -> Iterator[Frame]:
    """Read a stream, whose clock is that of this machine, and reconnect where it breaks off."""
    index, failures, began = 0, 0, time.monotonic()
    while True:
        try:
            with closing(_open(address, _name(address), timeout)) as container:
                for frame in _decoded(container, _name(address), 1):
                    failures = 0
                    if index % every == 0:
                        yield Frame(index, time.monotonic() - began, frame.pixels)
                    index += 1
            if not address.lower().startswith(("rtsp", "rtmp", "udp", "srt")):
                return  # a file behind an address has an end
            broken = VideoError(f"{_name(address)}: the stream ended.")
        except VideoError as error:
            broken = error
        failures += 1
        if failures > reconnects:
            raise broken
        time.sleep(min(30.0, _BACKOFF * 2 ** (failures - 1)))


def _open(source: str, name: str, timeout: float) -> InputContainer:
    try:
        import av
    except ModuleNotFoundError:
        raise MissingExtraError("Reading video", "video") from None
    options = {"rtsp_transport": "tcp"} if source.lower().startswith("rtsp") else {}
    limit = timeout if is_stream(source) else None
    try:
        container = av.open(source, timeout=limit, options=options)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{name}: cannot be read as video ({_reason(error)}).") from None
    if not container.streams.video:
        container.close()
        raise VideoError(f"{name}: has no video stream.")
    return container


def _decoded(container: InputContainer, name: str, every: int) -> Iterator[Frame]:
    """Decode packet by packet, so that a damaged one costs its frames and not the rest."""
    import av

    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    rate = float(stream.average_rate or _FOLDER_RATE)
    index, packets = 0, container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            if index == 0 or is_stream(name):
                raise VideoError(f"{name}: breaks off ({_reason(error)}).") from None
            return  # a file that was cut off: what was read counts
        if packet is None:
            return
        try:
            pictures: list[Any] = packet.decode()
        except av.FFmpegError:
            continue
        for picture in pictures:
            if index % every == 0:
                yield Frame(index, index / rate, picture.to_ndarray(format="rgb24"))
            index += 1


def _name(source: str | Path) -> str:
    """Name a source without the password that a camera's address may hold."""
    return describe_url(str(source)) if is_stream(source) else Path(source).name


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
