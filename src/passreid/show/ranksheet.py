"""Rank sheets: a row for each query with its hits, marked right or wrong where labels are known."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple, TypeAlias

from PIL import Image, ImageDraw

from passreid.data.dataset import UNKNOWN_CAMERA, Sample
from passreid.errors import ImageError, UsageError
from passreid.images import ImageInput, describe, read_image
from passreid.show.lettering import lettering
from passreid.storage import replacing

SheetImage: TypeAlias = Sample | ImageInput
Colour: TypeAlias = tuple[int, int, int]
Mark: TypeAlias = Literal["right", "wrong", "own camera"]

MAX_PIXELS = 120_000_000
_PAPER: Colour = (251, 251, 249)
_MAT: Colour = (232, 232, 229)
_INK: Colour = (34, 36, 40)
_FAINT: Colour = (112, 116, 122)
_LINE: Colour = (214, 214, 210)
# Green and red differ in lightness, and each mark has its own shape, for colour-blind readers.
_COLOURS: Mapping[Mark, Colour] = {
    "right": (20, 150, 92),
    "wrong": (196, 44, 40),
    "own camera": (128, 140, 158),
}
_STROKES: Mapping[Mark, Sequence[Sequence[tuple[float, float]]]] = {
    "right": (((0.26, 0.52), (0.44, 0.69), (0.75, 0.33)),),
    "wrong": (((0.31, 0.31), (0.69, 0.69)), ((0.31, 0.69), (0.69, 0.31))),
    "own camera": (((0.28, 0.5), (0.72, 0.5)),),
}
_LEGEND: Mapping[Mark, str] = {
    "right": "same person",
    "wrong": "another person",
    "own camera": "own camera, does not count",
}
_NUMBERS = "numbers: cosine"


def rank_sheet(
    queries: Sequence[SheetImage],
    results: Sequence[Sequence[tuple[SheetImage, float]]],
    output: str | os.PathLike[str],
    *,
    title: str = "",
    people: Mapping[int, str] | None = None,
    cameras: Mapping[int, str] | None = None,
    camera_filter: bool = True,
    height: int = 192,
) -> Path:
    """Draw a PNG with a row for each query: the query, and its hits, best first.

    Args:
        queries: Pictures; a `Sample` also has a pid and camid, by which hits are marked.
        results: For each query its hits with their cosines; an empty row is shown as "no match".
        output: The file to write; an existing one is replaced.
        title: A line above the rows.
        people, cameras: pid -> name and camid -> name, where these are not shown as numbers.
        camera_filter: Whether hits of the query's person by its own camera do not count.
        height: Of a picture on the sheet in pixels; everything else scales with it.

    Raises:
        UsageError: There is no query, another number of results, or too many rows for one picture.
    """
    if not queries or len(queries) != len(results):
        raise UsageError(
            f"A rank sheet needs a result for each query: {len(queries)} queries and "
            f"{len(results)} results were given."
        )

    def cell(source: SheetImage, cosine: float | None = None, mark: Mark | None = None) -> _Cell:
        image = _read(source, height)
        return _Cell(image, _label(source, people or {}, cameras or {}), cosine, mark)

    rows = [
        [cell(query), *(cell(hit, cos, _mark(query, hit, camera_filter)) for hit, cos in hits)]
        for query, hits in zip(queries, results, strict=True)
    ]
    path = Path(output)
    with replacing(path) as temporary:
        _Sheet(rows, title, height).draw().save(temporary, "PNG")
    return path


class _Cell(NamedTuple):
    """One picture on the sheet; `image` is None where it could not be read."""

    image: Image.Image | None
    label: str
    cosine: float | None
    mark: Mark | None


def _read(source: SheetImage, height: int) -> Image.Image | None:
    try:
        image = read_image(source.path if isinstance(source, Sample) else source)
    except ImageError:
        return None
    scale = height / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _label(source: SheetImage, people: Mapping[int, str], cameras: Mapping[int, str]) -> str:
    """Return person and camera, or the file's name where there are no labels."""
    if not isinstance(source, Sample):
        return Path(describe(source)).name if isinstance(source, (str, os.PathLike)) else ""
    person = people.get(source.pid, f"pid {source.pid}")
    if source.camid == UNKNOWN_CAMERA:
        return person
    return f"{person}, cam {cameras.get(source.camid, source.camid)}"


def _mark(query: SheetImage, hit: SheetImage, camera_filter: bool) -> Mark | None:
    """Judge a hit by its labels; None where one of the two has none."""
    if not isinstance(query, Sample) or not isinstance(hit, Sample):
        return None
    if query.pid != hit.pid:
        return "wrong"
    own = query.camid == hit.camid != UNKNOWN_CAMERA
    return "own camera" if own and camera_filter else "right"


class _Sheet:
    """One sheet; `unit`, in which its parts are measured, is a 24th of a picture's height."""

    def __init__(self, rows: Sequence[Sequence[_Cell]], title: str, height: int) -> None:
        self.rows, self.title, self.height = rows, title, height
        images = [cell.image for row in rows for cell in row if cell.image]
        aspect = median(image.width / image.height for image in images) if images else 0.5
        self.width = round(height * min(max(aspect, 0.5), 1.25))
        self.unit = height / 24
        self.margin, self.gap = round(4 * self.unit), round(2.2 * self.unit)
        self.sizes = {
            name: max(7.0, size * self.unit)
            for name, size in {"title": 2.6, "score": 1.7, "small": 1.3}.items()
        }
        self.top = round((8.5 if title else 4) * self.unit + 3.5 * self.unit)
        self.row_height = round(height + 7.5 * self.unit)
        self.columns = max(2, *(len(row) for row in rows))
        self.marks = [m for m in _LEGEND if any(c.mark == m for row in rows for c in row)]

    def draw(self) -> Image.Image:
        width = self.left(self.columns - 1) + self.width + self.margin
        text = max(self.text_width(self.title, "title"), self.legend_width())
        width = max(width, round(text) + 2 * self.margin)
        height = self.top + self.row_height * len(self.rows) + round(5 * self.unit)
        if width * height > MAX_PIXELS:
            raise UsageError(
                f"A rank sheet of {len(self.rows):,} rows would have {width * height / 1e6:,.0f} "
                f"million pixels, more than {MAX_PIXELS / 1e6:.0f}: draw fewer queries."
            )
        self.image = Image.new("RGB", (width, height), _PAPER)
        self.pen = ImageDraw.Draw(self.image)
        self.draw_head()
        for number, row in enumerate(self.rows):
            y = self.top + number * self.row_height
            for column, cell in enumerate(row):
                self.draw_cell(cell, self.left(column), y)
            if len(row) == 1:
                self.write((self.left(1), y + self.height / 2), "no match", "score", _FAINT, "lm")
        self.draw_legend(height - round(3.6 * self.unit))
        return self.image

    def left(self, column: int) -> int:
        """Return the left edge of a column; the query stands apart from its hits."""
        return self.margin + column * (self.width + self.gap) + (2 * self.gap if column else 0)

    def draw_head(self) -> None:
        if self.title:
            self.write((self.margin, round(3.2 * self.unit)), self.title, "title", _INK)
        y = self.top - round(2.8 * self.unit)
        for column in range(self.columns):
            centre = self.left(column) + self.width / 2
            self.write((centre, y), str(column) if column else "query", "small", _FAINT, "ma")
        x = self.left(1) - round(1.5 * self.gap)
        bottom = self.top + self.row_height * len(self.rows) - round(2.5 * self.unit)
        self.pen.line((x, self.top, x, bottom), fill=_LINE, width=max(1, round(self.unit / 8)))

    def draw_cell(self, cell: _Cell, x: int, y: int) -> None:
        """Draw a picture with frame and mark, and its cosine and label below."""
        right, bottom = x + self.width - 1, y + self.height - 1
        self.pen.rectangle((x, y, right, bottom), fill=_MAT)
        centre = x + self.width / 2
        if cell.image is None:
            font = lettering("cannot be read", self.sizes["small"])[1]
            at, text = (centre, y + self.height / 2), "cannot be\nread"
            self.pen.text(at, text, fill=_FAINT, font=font, anchor="mm", align="center")
        else:
            image = cell.image.copy()
            image.thumbnail((self.width, self.height), Image.Resampling.LANCZOS)
            corner = (x + (self.width - image.width) // 2, y + (self.height - image.height) // 2)
            self.image.paste(image, corner)
        if cell.mark:
            frame = max(1, round(0.32 * self.unit))
            around = (x - frame, y - frame, right + frame, bottom + frame)
            self.pen.rectangle(around, outline=_COLOURS[cell.mark], width=round(1.5 * frame))
            self.draw_mark(cell.mark, round(x + self.width), y)
        y += self.height + round(1.1 * self.unit)
        if cell.cosine is not None:
            self.write((centre, y), f"{cell.cosine:.3f}", "score", _INK, "ma")
            y += round(2.4 * self.unit)
        self.write((centre, y), self.shortened(cell.label), "small", _FAINT, "ma")

    def draw_mark(self, mark: Mark, x: int, y: int) -> None:
        """Draw a tick, a cross or a bar on a disc, four times as large for smooth edges."""
        size = max(9, round(3 * self.unit))
        disc = Image.new("RGBA", (4 * size, 4 * size))
        pen = ImageDraw.Draw(disc)
        pen.ellipse((0, 0, 4 * size - 1, 4 * size - 1), fill=(*_PAPER, 255))
        edge = (0.24 * size, 0.24 * size, 3.76 * size, 3.76 * size)
        pen.ellipse(edge, fill=(*_COLOURS[mark], 255))
        for stroke in _STROKES[mark]:
            points = [(4 * size * across, 4 * size * down) for across, down in stroke]
            pen.line(points, fill="white", width=round(0.5 * size), joint="curve")
        disc = disc.reduce(4)
        self.image.paste(disc, (x - round(0.62 * size), y - round(0.38 * size)), disc)

    def draw_legend(self, y: int) -> None:
        x, middle = self.margin, y + round(0.55 * self.unit)
        for mark in self.marks:
            self.draw_mark(mark, x + round(1.9 * self.unit), y + round(0.2 * self.unit))
            x += round(4 * self.unit)
            self.write((x, middle), _LEGEND[mark], "small", _FAINT, "lm")
            x += round(self.text_width(_LEGEND[mark], "small") + 3 * self.unit)
        self.write((x, middle), _NUMBERS, "small", _FAINT, "lm")

    def legend_width(self) -> float:
        """Return the width of the legend: texts, and room for the marks and between entries."""
        texts = [*(_LEGEND[mark] for mark in self.marks), _NUMBERS]
        return sum(self.text_width(t, "small") for t in texts) + 7 * self.unit * len(self.marks)

    def shortened(self, text: str) -> str:
        """Cut the middle out of a text wider than a picture."""
        shown, keep = text, len(text)
        while keep > 4 and self.text_width(shown, "small") > self.width + 0.6 * self.gap:
            keep -= 1
            shown = f"{text[: keep - keep // 2]}…{text[len(text) - keep // 2 :]}"
        return shown

    def text_width(self, text: str, size: str) -> float:
        shown, font = lettering(text, self.sizes[size])
        return font.getlength(shown)

    def write(
        self, at: tuple[float, float], text: str, size: str, colour: Colour, anchor: str = "la"
    ) -> None:
        """Draw a line of any script; `anchor` is Pillow's."""
        shown, font = lettering(text, self.sizes[size])
        self.pen.text(at, shown, fill=colour, font=font, anchor=anchor)
