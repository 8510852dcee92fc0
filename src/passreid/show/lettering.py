"""Text in any script: DejaVu Sans, which ships with the package, then fonts of this machine.

A character that none of them has is drawn as its code (``\\u5f20``), not as an empty box, which
would look the same for every name.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from PIL import ImageFont

from passreid.listing import printable

_SHIPPED = str(Path(__file__).with_name("fonts") / "DejaVuSans.ttf")
# By the names that Linux, Windows and macOS give them; Pillow looks in the folders for fonts.
_OTHERS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "msyh.ttc",
    "malgun.ttf",
    "Nirmala.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "Arial Unicode.ttf",
    "unifont.otf",
)
_MISSING = "\U0010ffff"  # in no font
_PROBE = 24  # pixels at which glyphs are compared


def lettering(text: str, size: float) -> tuple[str, ImageFont.FreeTypeFont]:
    """Return a line as it can be drawn, and the font that has most of its characters.

    Args:
        text: Any text; what is not printable is escaped, as in messages.
        size: Of the font in pixels.
    """
    line = printable(text)
    missing = _lacks(_SHIPPED, line)
    path = _SHIPPED
    if missing:
        path = min((_SHIPPED, *_installed()), key=lambda each: len(_lacks(each, line)))
        missing = _lacks(path, line)
    shown = "".join(c.encode("unicode_escape").decode() if c in missing else c for c in line)
    return shown, _font(path, size)


@cache
def _font(path: str, size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@cache
def _installed() -> tuple[str, ...]:
    """List the fonts of this machine that are known to hold further scripts."""
    found = []
    for name in _OTHERS:
        try:
            found.append(str(ImageFont.truetype(name, _PROBE).path))
        except OSError:
            continue
    return tuple(found)


def _lacks(path: str, text: str) -> set[str]:
    return {character for character in text if not _has(path, character)}


@cache
def _has(path: str, character: str) -> bool:
    # Glyph by glyph: shaping would set a lone accent on a circle.
    font = ImageFont.truetype(path, _PROBE, layout_engine=ImageFont.Layout.BASIC)
    drawn, box = font.getmask(character), font.getmask(_MISSING)
    return drawn.size != box.size or bytes(drawn) != bytes(box)
