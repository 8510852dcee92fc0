"""Rank sheets: each query with its hits, right and wrong ones marked.

A frame is green with a tick where the hit shows the query's person, red with a cross where it shows
another, and grey with a bar where an evaluation leaves it out (same person, same camera). Without
labels nothing is framed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal, TypeAlias

from PIL import Image, ImageDraw

from passreid.data.dataset import UNKNOWN_CAMERA, Sample
from passreid.errors import ImageError, UsageError
from passreid.images import ImageInput, describe, read_image
from passreid.show.lettering import lettering
from passreid.storage import replacing

SheetImage: TypeAlias = Sample | ImageInput
Verdict: TypeAlias = Literal["right", "wrong", "own camera"]
Colour: TypeAlias = tuple[int, int, int]

MAX_PIXELS = 120_000_000
_PAPER: Colour = (251, 251, 249)
_MAT: Colour = (232, 232, 229)
_INK: Colour = (34, 36, 40)
_FAINT: Colour = (112, 116, 122)
_LINE: Colour = (214, 214, 210)
# Green and red of clearly different lightness, for eyes that do not tell the hues apart.
_COLOURS: Mapping[Verdict, Colour] = {
    "right": (20, 150, 92),
    "wrong": (196, 44, 40),
    "own camera": (128, 140, 158),
}
_LEGEND: Mapping[Verdict, str] = {
    "right": "same person",
    "wrong": "another person",
    "own camera": "own camera, does not count",
}
_NUMBERS = "numbers: cosine"
_MARK, _APART = 4, 3  # room for a mark of the legend and between its entries, in units


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
        queries: Pictures; a `Sample` also says who is on it and which camera took it.
        results: For each query its hits with their cosines; an empty row says "no match".
        output: The file to write; an existing one is replaced.
        title: A line above the rows.
        people: pid -> name, for people who are not called by numbers.
        cameras: camid -> name, for cameras that are not called by this number.
        camera_filter: Whether hits of the query's person by its own camera do not count.
        height: Of a picture on the sheet in pixels; everything else scales with it.

    Returns:
        `output`.

    Raises:
        UsageError: No query, another number of results, or more rows than one picture can hold.
    """
    if not queries or len(queries) != len(results):
        raise UsageError(
            f"A rank sheet needs a result for each query: {len(queries)} queries and "
            f"{len(results)} results were given."
        )
    cells = [
        [_cell(query, None, None, height)]
        + [
            _cell(hit, similarity, _verdict(query, hit, camera_filter), height)
            for hit, similarity in hits
        ]
        for query, hits in zip(queries, results, strict=True)
    ]
    sheet = _Sheet(cells, _Names(people or {}, cameras or {}), title, height).draw()
    path = Path(output)
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG")
    return path


@dataclass(frozen=True)
class _Cell:
    """One picture on the sheet; `image` is None where it could not be read."""

    source: SheetImage
    image: Image.Image | None
    similarity: float | None
    verdict: Verdict | None


def _cell(
    source: SheetImage, similarity: float | None, verdict: Verdict | None, height: int
) -> _Cell:
    try:
        image = read_image(source.path if isinstance(source, Sample) else source)
    except ImageError:
        return _Cell(source, None, similarity, verdict)
    scale = height / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return _Cell(source, image.resize(size, Image.Resampling.LANCZOS), similarity, verdict)


def _verdict(query: SheetImage, hit: SheetImage, camera_filter: bool) -> Verdict | None:
    """Judge a hit of a query; None where one of the two has no label."""
    if not isinstance(query, Sample) or not isinstance(hit, Sample):
        return None
    if query.pid != hit.pid:
        return "wrong"
    own = query.camid == hit.camid != UNKNOWN_CAMERA
    return "own camera" if own and camera_filter else "right"


@dataclass(frozen=True)
class _Names:
    """pid -> name and camid -> name of those not called by these numbers."""

    people: Mapping[int, str]
    cameras: Mapping[int, str]

    def label(self, sample: Sample) -> str:
        """Person and, where it is known, camera."""
        person = self.people.get(sample.pid, f"pid {sample.pid}")
        if sample.camid == UNKNOWN_CAMERA:
            return person
        return f"{person}, cam {self.cameras.get(sample.camid, sample.camid)}"


class _Sheet:
    """Measures of one sheet, and the drawing of its parts."""

    def __init__(
        self,
        rows: Sequence[Sequence[_Cell]],
        names: _Names,
        title: str,
        height: int,
    ) -> None:
        self.rows = rows
        self.names = names
        self.title = title
        self.height = height
        images = [cell.image for row in rows for cell in row if cell.image]
        aspect = median(image.width / image.height for image in images) if images else 0.5
        self.width = round(height * min(max(aspect, 0.5), 1.25))
        self.unit = height / 24
        self.margin = round(4 * self.unit)
        self.gap = round(2.2 * self.unit)
        self.frame = max(1, round(0.32 * self.unit))
        self.sizes = {
            name: max(7.0, size * self.unit)
            for name, size in {"title": 2.6, "score": 1.7, "small": 1.3}.items()
        }
        self.top = round((8.5 if title else 4) * self.unit + 3.5 * self.unit)
        self.row_height = round(height + 7.5 * self.unit)
        self.columns = max(2, *(len(row) for row in rows))
        self.verdicts = [v for v in _LEGEND if any(c.verdict == v for row in rows for c in row)]

    def draw(self) -> Image.Image:
        """Draw the sheet."""
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
        self.head()
        for index, row in enumerate(self.rows):
            self.row(row, self.top + index * self.row_height)
        self.legend(height - round(3.6 * self.unit))
        return self.image

    def left(self, column: int) -> int:
        """Left edge of a column's pictures; the query stands a little apart."""
        apart = 0 if column == 0 else 2 * self.gap
        return self.margin + column * (self.width + self.gap) + apart

    def head(self) -> None:
        """The title, and what each column holds."""
        if self.title:
            at = (self.margin, round(3.2 * self.unit))
            self.write(at, self.title, "title", _INK)
        y = self.top - round(2.8 * self.unit)
        for column in range(self.columns):
            text = "query" if column == 0 else str(column)
            centre = self.left(column) + self.width / 2
            self.write((centre, y), text, "small", _FAINT, "ma")
        x = self.left(1) - round(1.5 * self.gap)
        bottom = self.top + self.row_height * len(self.rows) - round(2.5 * self.unit)
        self.pen.line((x, self.top, x, bottom), fill=_LINE, width=max(1, round(self.unit / 8)))

    def row(self, cells: Sequence[_Cell], y: int) -> None:
        """A query and its hits."""
        for column, cell in enumerate(cells):
            self.cell(cell, self.left(column), y)
        if len(cells) == 1:
            at = (self.left(1), y + self.height / 2)
            self.write(at, "no match", "score", _FAINT, "lm")

    def cell(self, cell: _Cell, x: int, y: int) -> None:
        """A picture with its frame and mark, its cosine and its labels."""
        box = (x, y, x + self.width - 1, y + self.height - 1)
        self.pen.rectangle(box, fill=_MAT)
        centre = x + self.width / 2
        if cell.image is None:
            at, text = (centre, y + self.height / 2), "cannot be\nread"
            font = lettering("cannot be read", self.sizes["small"])[1]
            self.pen.text(at, text, fill=_FAINT, font=font, anchor="mm", align="center")
        else:
            image = cell.image.copy()
            image.thumbnail((self.width, self.height), Image.Resampling.LANCZOS)
            corner = (x + (self.width - image.width) // 2, y + (self.height - image.height) // 2)
            self.image.paste(image, corner)
        if cell.verdict:
            around = (x - self.frame, y - self.frame, box[2] + self.frame, box[3] + self.frame)
            width = round(1.5 * self.frame)
            self.pen.rectangle(around, outline=_COLOURS[cell.verdict], width=width)
            self.mark(cell.verdict, round(x + self.width), y)
        y += self.height + round(1.1 * self.unit)
        if cell.similarity is not None:
            text = f"{cell.similarity:.3f}"
            self.write((centre, y), text, "score", _INK, "ma")
            y += round(2.4 * self.unit)
        label = self.fitted(self.label(cell.source))
        self.write((centre, y), label, "small", _FAINT, "ma")

    def label(self, source: SheetImage) -> str:
        """Person and camera, or the file's name where there are no labels."""
        if isinstance(source, Sample):
            return self.names.label(source)
        return Path(describe(source)).name if isinstance(source, (str, os.PathLike)) else ""

    def mark(self, verdict: Verdict, x: int, y: int) -> None:
        """A tick, a cross or a bar on a disc, so that nothing hangs on the colour alone."""
        size = max(9, round(3 * self.unit))
        disc = Image.new("RGBA", (4 * size, 4 * size))
        pen = ImageDraw.Draw(disc)
        pen.ellipse((0, 0, 4 * size - 1, 4 * size - 1), fill=(*_PAPER, 255))
        pen.ellipse(_scaled(((0.06, 0.06), (0.94, 0.94)), size), fill=(*_COLOURS[verdict], 255))
        for stroke in _STROKES[verdict]:
            points = _scaled(stroke, size)
            pen.line(points, fill="white", width=round(0.5 * size), joint="curve")
        disc = disc.reduce(4)
        self.image.paste(disc, (x - round(0.62 * size), y - round(0.38 * size)), disc)

    def legend(self, y: int) -> None:
        """Explain the marks and numbers on this sheet."""
        x = self.margin
        for verdict in self.verdicts:
            self.mark(verdict, x + round(1.9 * self.unit), y + round(0.2 * self.unit))
            x += round(_MARK * self.unit)
            at = (x, y + round(0.55 * self.unit))
            self.write(at, _LEGEND[verdict], "small", _FAINT, "lm")
            x += round(self.text_width(_LEGEND[verdict], "small") + _APART * self.unit)
        at = (x, y + round(0.55 * self.unit))
        self.write(at, _NUMBERS, "small", _FAINT, "lm")

    def legend_width(self) -> float:
        """Width of the legend in pixels."""
        marked = [self.text_width(_LEGEND[v], "small") for v in self.verdicts]
        marks = len(marked) * (_MARK + _APART) * self.unit
        return marks + sum(marked) + self.text_width(_NUMBERS, "small")

    def fitted(self, text: str) -> str:
        """The text, its middle left out where it is wider than a picture."""
        room = self.width + 0.6 * self.gap
        keep = len(text)
        shown = text
        while keep > 4 and self.text_width(shown, "small") > room:
            keep -= 1
            shown = f"{text[: keep - keep // 2]}…{text[len(text) - keep // 2 :]}"
        return shown

    def text_width(self, text: str, size: str) -> float:
        """Width of a line in pixels."""
        shown, font = lettering(text, self.sizes[size])
        return font.getlength(shown)

    def write(
        self, at: tuple[float, float], text: str, size: str, colour: Colour, anchor: str = "la"
    ) -> None:
        """Draw a line of any script; Pillow's anchors say which point of it lies at `at`."""
        shown, font = lettering(text, self.sizes[size])
        self.pen.text(at, shown, fill=colour, font=font, anchor=anchor)


_STROKES: Mapping[Verdict, Sequence[Sequence[tuple[float, float]]]] = {
    "right": (((0.26, 0.52), (0.44, 0.69), (0.75, 0.33)),),
    "wrong": (((0.31, 0.31), (0.69, 0.69)), ((0.31, 0.69), (0.69, 0.31))),
    "own camera": (((0.28, 0.5), (0.72, 0.5)),),
}


def _scaled(points: Sequence[tuple[float, float]], size: int) -> list[tuple[float, float]]:
    """Points of a unit square on a disc drawn four times as large."""
    return [(4 * size * x, 4 * size * y) for x, y in points]
