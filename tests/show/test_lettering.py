"""Names of any script on a sheet: glyphs of a font that has them, or codes, never equal boxes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from passreid.data import Sample
from passreid.show import lettering as module
from passreid.show.lettering import lettering
from passreid.show.ranksheet import rank_sheet


def drawn(text: str) -> bytes:
    shown, font = lettering(text, 20)
    image = Image.new("L", (400, 40))
    ImageDraw.Draw(image).text((2, 2), shown, fill=255, font=font)
    return np.asarray(image).tobytes()


@pytest.mark.parametrize(
    "text",
    ["José", "Žižek", "Владимир", "Ελένη", "שרה", "فاطمة", "Nguyễn", "ქეთევან", "Łódź – naïve"],
)
def test_scripts_of_the_shipped_font_are_drawn_as_they_are(text: str) -> None:
    shown, font = lettering(text, 20)
    assert shown == text and str(font.path) == module._SHIPPED


@pytest.mark.parametrize(
    "text", ["张", "张伟", "山田太郎", "김민준", "ประยุทธ์", "🙂", "a\U000e0041b"]
)
def test_no_character_is_an_empty_box(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for fonts in (module._installed(), ()):
        monkeypatch.setattr(module, "_installed", lambda fonts=fonts: fonts)
        shown, font = lettering(text, 20)
        assert not module._lacks(str(font.path), shown)
    assert shown == "".join(c if c.isascii() else c.encode("unicode_escape").decode() for c in text)


@pytest.mark.parametrize(
    ("one", "other"),
    [("张", "李"), ("é", "è"), ("Ж", "Щ"), ("x\ny", "x\ty"), ("caf\udce9", "caf\udce8")],
)
def test_different_names_look_different(one: str, other: str) -> None:
    assert drawn(one) != drawn(other)


def test_what_is_not_printable_is_escaped() -> None:
    assert lettering("x\ny\x1b[31m", 20)[0] == r"x\ny\x1b[31m"
    assert lettering(os.fsdecode(b"caf\xe9"), 20)[0] == r"caf\udce9"


def test_a_font_of_this_machine_is_taken_where_it_has_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_installed", lambda: ("other.ttf",))
    monkeypatch.setattr(module, "_has", lambda path, c: path == "other.ttf" or c.isascii())
    opened: list[str] = []
    monkeypatch.setattr(module, "_font", lambda path, size: opened.append(path))
    assert [lettering(name, 20)[0] for name in ("张伟", "Zhang")] == ["张伟", "Zhang"]
    assert opened == ["other.ttf", module._SHIPPED]


def test_a_sheet_holds_names_of_any_script(tmp_path: Path) -> None:
    names = ["José 张.png", "Владимир.png", "x\ny\x1b[31m.png", os.fsdecode(b"caf\xe9.png")]
    for name in names:
        Image.new("RGB", (40, 80), (90, 110, 200)).save(tmp_path / "a.png")
        (tmp_path / "a.png").rename(tmp_path / name)
    paths = [str(tmp_path / name) for name in names]
    sheet = rank_sheet(paths, [[(path, 0.5)] for path in paths], tmp_path / "sheet.png")
    people = dict(enumerate(names))
    samples = [Sample(Path(path), pid, 0) for pid, path in enumerate(paths)]
    hits = [[(sample, 0.5)] for sample in samples]
    labelled = rank_sheet(samples, hits, tmp_path / "b.png", people=people, title="فاطمة\n张")
    for path in (sheet, labelled):
        with Image.open(path) as image:
            assert image.width > 200
