"""View sheets: what pre-training sees of an image, a row for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from passreid.errors import UsageError
from passreid.show.lettering import lettering
from passreid.storage import replacing

Pixels = NDArray[np.uint8]
_PAPER, _INK = (251, 251, 249), (34, 36, 40)
_GAP, _APART = 6, 24  # between views, and between kinds of views


def view_sheet(
    rows: Sequence[tuple[Image.Image, Pixels, Pixels]],
    output: Path,
    *,
    areas: int,
    height: int = 192,
) -> Path:
    """Draw a PNG with a row for each image: itself, its global views, the local ones by area.

    Views keep their proportions to one another: a local view of half the height is drawn so.

    Args:
        rows: Image, global views uint8 (2, H, W, 3) and local views uint8 (V, h, w, 3).
        output: The file to write; an existing one is replaced.
        areas: Areas the local views come from, in order; 0 for the whole image.
        height: Of a global view on the sheet in pixels.

    Raises:
        UsageError: No rows.
    """
    if not rows:
        raise UsageError("A view sheet needs at least one image.")
    scale = height / rows[0][1].shape[1]
    head = height // 8
    size = height / 12
    drawn = [_row(image, views, local, areas, scale) for image, views, local in rows]
    width = _APART + max(x + tile.width for row in drawn for x, _, tile in row)
    sheet = Image.new("RGB", (width, head + len(rows) * (height + _GAP) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(drawn):
        top = head + _GAP + number * (height + _GAP)
        for x, title, tile in row:
            if number == 0 and title:
                shown, font = lettering(title, size)
                draw.text((x, head / 2), shown, fill=_INK, font=font, anchor="lm")
            sheet.paste(tile, (x, top + (height - tile.height) // 2))
    with replacing(output) as temporary:
        sheet.save(temporary, format="PNG")
    return output


def _row(
    image: Image.Image, views: Pixels, local: Pixels, areas: int, scale: float
) -> list[tuple[int, str, Image.Image]]:
    """Place a row's pictures: (left edge, title above or "", picture)."""
    height = round(views.shape[1] * scale)
    original = image.resize((max(round(image.width * height / image.height), 1), height))
    groups = [("image", [original]), ("global views", [_tile(v, scale) for v in views])]
    if len(local):
        each = len(local) // max(areas, 1)
        for start in range(0, len(local), each):
            title = f"area {start // each + 1}" if areas else "local views"
            groups.append((title, [_tile(v, scale) for v in local[start : start + each]]))
    placed, x = [], _APART
    for title, tiles in groups:
        for number, tile in enumerate(tiles):
            placed.append((x, title if number == 0 else "", tile))
            x += tile.width + _GAP
        x += _APART - _GAP
    return placed


def _tile(view: Pixels, scale: float) -> Image.Image:
    height, width = view.shape[:2]
    return Image.fromarray(view).resize(
        (round(width * scale), round(height * scale)), Image.Resampling.LANCZOS
    )
