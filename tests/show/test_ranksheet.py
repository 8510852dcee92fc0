"""Rank sheets: frames and marks by the rules, labels, pictures that are missing, whole files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from passreid.data import Sample
from passreid.errors import OutputError, UsageError
from passreid.show import ranksheet
from passreid.show.ranksheet import rank_sheet

GREEN, RED, GREY = (ranksheet._COLOURS[v] for v in ("right", "wrong", "own camera"))


def picture(folder: Path, name: str, size: tuple[int, int] = (64, 128)) -> Path:
    Image.new("RGB", size, (90, 110, 200)).save(folder / name)
    return folder / name


def amount(sheet: Path, colour: tuple[int, int, int]) -> int:
    """How many pixels have exactly this colour."""
    with Image.open(sheet) as image:
        return int((np.asarray(image) == colour).all(2).sum())


def draw(
    folder: Path,
    query: tuple[int, int],
    hits: list[tuple[int, int]],
    *,
    camera_filter: bool = True,
) -> Path:
    path = picture(folder, "a.png")
    results = [(Sample(path, *hit), 0.9 - i / 10) for i, hit in enumerate(hits)]
    sheet = folder / "sheet.png"
    return rank_sheet([Sample(path, *query)], [results], sheet, camera_filter=camera_filter)


@pytest.mark.parametrize(
    ("hit", "colour"),
    [((7, 1), GREEN), ((8, 0), RED), ((8, 1), RED), ((7, 0), GREY), ((7, -1), GREEN)],
)
def test_frames_follow_the_rules_of_the_measure(
    tmp_path: Path, hit: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    sheet = draw(tmp_path, (7, 0), [hit])
    for other in (GREEN, RED, GREY):
        assert (amount(sheet, other) > 500) == (other == colour)


def test_unknown_cameras_are_not_the_same_camera(tmp_path: Path) -> None:
    assert amount(draw(tmp_path, (7, -1), [(7, -1)]), GREEN) > 500


def test_the_own_camera_counts_without_the_camera_filter(tmp_path: Path) -> None:
    sheet = draw(tmp_path, (7, 0), [(7, 0)], camera_filter=False)
    assert amount(sheet, GREEN) > 500
    assert amount(sheet, GREY) == 0


def test_marks_differ_without_their_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranksheet, "_COLOURS", dict.fromkeys(ranksheet._COLOURS, GREY))
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda *_, **__: None)
    drawn = [
        np.asarray(Image.open(draw(tmp_path, (7, 0), [hit]))).astype(int)[:290, :300]
        for hit in ((7, 1), (8, 1), (7, 0))
    ]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (np.abs(drawn[a] - drawn[b]).max(2) > 60).sum() > 20


def test_nothing_is_framed_without_labels(tmp_path: Path) -> None:
    path = picture(tmp_path, "a.png")
    sheet = rank_sheet([path], [[(str(path), 0.5)]], tmp_path / "sheet.png")
    assert not any(amount(sheet, colour) for colour in (GREEN, RED, GREY))


def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that will be drawn."""
    texts: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _, __, text, **___: texts.append(text))
    return texts


def test_cosines_labels_and_title_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = shown(monkeypatch)
    path = picture(tmp_path, "a.png")
    rank_sheet(
        [Sample(path, 7, 2), path],
        [[(Sample(path, 7, 0), 0.98765), (Sample(path, 9), -0.1)], []],
        tmp_path / "sheet.png",
        title="Hello",
        people={9: "Ada"},
        cameras={0: "gate"},
    )
    for text in ("Hello", "query", "1", "2", "0.988", "-0.100", "pid 7, cam 2", "Ada", "a.png"):
        assert text in texts
    assert "pid 7, cam gate" in texts
    assert texts.count("no match") == 1
    assert "same person" in texts and "own camera, does not count" not in texts


def test_long_names_lose_their_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = shown(monkeypatch)
    path = picture(tmp_path, f"first{'x' * 80}last.png")
    rank_sheet([path], [[(path, 0.5)]], tmp_path / "sheet.png")
    (name, _) = [text for text in texts if "…" in text]
    assert name.startswith("first") and name.endswith(".png")
    assert len(name) < 30


def test_a_picture_that_cannot_be_read_is_a_gap_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = shown(monkeypatch)
    path = picture(tmp_path, "a.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    missing, broken = tmp_path / "missing.png", tmp_path / "broken.png"
    rank_sheet([missing], [[(broken, 0.5), (path, 0.4)]], tmp_path / "sheet.png")
    assert texts.count("cannot be\nread") == 2


def test_pictures_of_any_shape_and_kind_fit(tmp_path: Path) -> None:
    wide, tall = picture(tmp_path, "w.png", (400, 50)), picture(tmp_path, "t.png", (10, 300))
    inside = Image.new("RGB", (64, 128))
    sheet = rank_sheet([wide, inside], [[(tall, 0.5)], [(wide, 0.5)]], tmp_path / "sheet.png")
    with Image.open(sheet) as image:
        pixels = np.asarray(image).astype(int)
        border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[0], pixels[-1]])
    assert (border == ranksheet._PAPER).all()


@pytest.mark.parametrize("height", [48, 96, 384])
def test_everything_scales_with_the_pictures(tmp_path: Path, height: int) -> None:
    path = picture(tmp_path, "a.png")
    query = Sample(path, 1, 0)
    rank_sheet([query], [[(query, 1.0)] * 5], tmp_path / "usual.png")
    rank_sheet([query], [[(query, 1.0)] * 5], tmp_path / "other.png", height=height)
    with Image.open(tmp_path / "usual.png") as usual, Image.open(tmp_path / "other.png") as other:
        assert other.width / usual.width == pytest.approx(height / 192, rel=0.06)
        assert other.height / usual.height == pytest.approx(height / 192, rel=0.06)


def test_a_long_title_and_the_legend_fit_on_a_narrow_sheet(tmp_path: Path) -> None:
    sample = Sample(picture(tmp_path, "a.png"), 1, 0)
    hits = [[(replace(sample, camid=1), 0.9)], [(sample, 0.9)], [(replace(sample, pid=2), 0.9)]]
    sheet = rank_sheet([sample] * 3, hits, tmp_path / "s.png", title="A title " * 12)
    with Image.open(sheet) as image:
        assert (np.asarray(image)[:, -8:] == ranksheet._PAPER).all()


def test_wrong_numbers_of_rows_are_wrong_usage(tmp_path: Path) -> None:
    path = picture(tmp_path, "a.png")
    with pytest.raises(UsageError, match="2 queries and 1 results"):
        rank_sheet([path, path], [[]], tmp_path / "sheet.png")
    with pytest.raises(UsageError, match="0 queries"):
        rank_sheet([], [], tmp_path / "sheet.png")


def test_a_sheet_that_would_not_fit_in_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranksheet, "MAX_PIXELS", 1000)
    path = picture(tmp_path, "a.png")
    with pytest.raises(UsageError, match="draw fewer queries"):
        rank_sheet([path], [[]], tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_an_existing_sheet_survives_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = picture(tmp_path, "a.png")
    sheet = rank_sheet([path], [[]], tmp_path / "new" / "sheet.png")
    before = sheet.read_bytes()

    def full(_: Image.Image, file: Path, *__: object) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match="disk full"):
        rank_sheet([path], [[]], sheet)
    assert sheet.read_bytes() == before
    assert [file.name for file in sheet.parent.iterdir()] == ["sheet.png"]
