"""Write what was found in a clip: an annotated video, MOT text, a sheet of the best crops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from passreid.errors import MissingExtraError
from passreid.show.lettering import lettering
from passreid.storage import replacing, write
from passreid.video.frames import Frame
from passreid.video.tracking import Tracklet, describe

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#e377c2", "#8c564b")
HEAD = 0.22
"""Share of a person's height, from the top, that `blur_head` makes unrecognisable."""


def blur_head(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blur the head of a person in a crop (H, W, 3); a copy."""
    height, width = pixels.shape[:2]
    head = max(1, round(HEAD * height))
    blurred = np.array(pixels)
    part = Image.fromarray(pixels[:head])
    blurred[:head] = np.asarray(part.filter(ImageFilter.GaussianBlur(max(2, width / 8))))
    return blurred


def write_mot(
    path: Path, found: Iterable[Tracklet], names: Mapping[int, int] | None = None
) -> None:
    """Write tracklets as MOTChallenge text: frame, id, left, top, width, height, 1, -1, -1, -1.

    Args:
        path: The text file.
        found: Tracklets of one clip.
        names: Tracklet number -> id to write in its place, such as a person's.
    """
    rows = []
    for tracklet in found:
        number = (names or {}).get(tracklet.number, tracklet.number)
        for frame, (left, top, right, bottom) in zip(
            tracklet.frames.tolist(), tracklet.boxes.tolist(), strict=True
        ):
            corner = f"{left:g},{top:g},{right - left:g},{bottom - top:g}"
            rows.append((frame, number, f"{frame + 1},{number},{corner},1,-1,-1,-1\n"))
    write(path, "".join(text for _, _, text in sorted(rows)).encode())


def write_parquet(
    path: Path,
    found: Sequence[Tracklet],
    clocks: Sequence[tuple[str, str, float | None]],
    names: Sequence[str] | None = None,
) -> None:
    """Write tracklets as a Parquet table, a row for each.

    Args:
        path: The .parquet file.
        found: Tracklets.
        clocks: Clip, camera and Unix seconds of the first frame (None: unknown) of each.
        names: Person of each, if they were linked.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingExtraError("Writing Parquet", "bulk") from None
    rows = [
        {"clip": clip, "camera": camera, "clip_start": start, "tracklet": each.number}
        | describe(each)
        | {"person": names[n] if names else None, "embedding": each.embedding.tolist()}
        for n, (each, (clip, camera, start)) in enumerate(zip(found, clocks, strict=True))
    ]
    with replacing(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), temporary)


def draw_sheet(
    path: Path, found: Sequence[Tracklet], titles: Sequence[str], *, blur_heads: bool = False
) -> None:
    """Draw the best crops of each tracklet, a row for each under its title, as a PNG."""
    width, height, gap, line = 64, 128, 8, 20
    most = max(len(each.crops) for each in found)
    sheet = Image.new(
        "RGB", (gap + most * (width + gap), gap + len(found) * (height + line + gap)), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for row, (each, title) in enumerate(zip(found, titles, strict=True)):
        top = gap + row * (height + line + gap)
        shown, letters = lettering(title, 13)
        draw.text((gap, top), shown, fill="black", font=letters)
        for column, crop in enumerate(each.crops):
            pixels = blur_head(crop.pixels) if blur_heads else crop.pixels
            picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
            sheet.paste(picture, (gap + column * (width + gap), top + line))
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG")


def annotate(
    frames: Iterable[Frame],
    found: Sequence[Tracklet],
    path: Path,
    *,
    rate: float,
    names: Mapping[int, str] | None = None,
    blur_heads: bool = False,
) -> None:
    """Write a clip as H.264 video with a box and a name around each person.

    Args:
        frames: The clip's, read again.
        found: Its tracklets.
        path: The .mp4 file.
        rate: Frames a second.
        names: Tracklet number -> name; "track N" where not given.
        blur_heads: Blur the head of everybody in a box.
    """
    boxes: dict[int, list[tuple[int, NDArray[np.float64]]]] = {}
    for tracklet in found:
        for frame, box in zip(tracklet.frames.tolist(), tracklet.boxes, strict=True):
            boxes.setdefault(frame, []).append((tracklet.number, box))
    with _writer(path, rate) as add:
        for frame in frames:
            picture = Image.fromarray(frame.pixels)
            for number, box in boxes.get(frame.number, ()):
                name = (names or {}).get(number, f"track {number}")
                _draw(picture, box, name, _COLOURS[number % len(_COLOURS)], blur_heads)
            add(picture)


def _draw(
    picture: Image.Image, box: NDArray[np.float64], name: str, colour: str, blur: bool
) -> None:
    left, top, right, bottom = box.astype(int).tolist()
    if blur:
        crop = blur_head(np.asarray(picture.crop((left, top, right, bottom))))
        picture.paste(Image.fromarray(crop), (left, top))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=2)
    shown, letters = lettering(name, max(12, picture.height // 32))
    where = draw.textbbox((left + 3, top + 2), shown, font=letters)
    draw.rectangle((left, top, where[2] + 3, where[3] + 2), fill=colour)
    draw.text((left + 3, top + 2), shown, fill="white", font=letters)


@contextmanager
def _writer(path: Path, rate: float) -> Iterator[Callable[[Image.Image], None]]:
    """Give a function that appends pictures to a video file, complete when the block ends."""
    import av

    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.pix_fmt = "yuv420p"

        def add(picture: Image.Image) -> None:
            width, height = picture.width // 2 * 2, picture.height // 2 * 2  # H.264 wants even
            if not stream.width or stream.width != width:
                stream.width, stream.height = width, height
            pixels = np.asarray(picture.crop((0, 0, width, height)))
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))

        yield add
        container.mux(stream.encode(None))
