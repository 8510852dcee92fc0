"""What people do with what they found: look closer, share, compare, name people, export."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Serve, crops_of, enrol, shoot, sync_api

pytestmark = [pytest.mark.slow, pytest.mark.loopback, pytest.mark.enable_socket]

expect = sync_api.expect


def serious_findings(page: Any) -> list[str]:
    """Run axe-core where PASSREID_AXE says it is; empty without it."""
    script = os.environ.get("PASSREID_AXE")
    if not script:
        return []
    page.evaluate(Path(script).read_text())  # the page's CSP forbids a script element
    found = page.evaluate("axe.run().then((found) => found.violations)")
    return [
        f"{each['id']}: {each['nodes'][0]['html']}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def test_a_result_is_looked_at_shared_and_gone_back_to(
    page: Any, serve: Serve, tmp_path: Path
) -> None:
    page.goto(serve())
    page.click("#samples")
    expect(page.locator("#enrol-status")).to_contain_text("Done: ", timeout=60_000)
    expect(page.locator("#guessed")).to_contain_text("cameras")
    page.click("#enrol-close")
    cards = page.locator(".card")
    total = cards.count()
    cards.first.locator(".again").click()
    expect(page.locator("#results-title")).to_have_text("Best matches")
    expect(cards).to_have_count(total - 1)
    expect(page.locator(".cut")).to_contain_text("the line")
    assert "%" not in page.locator("#grid").inner_text()
    shared = page.url
    assert "entry=" in shared
    shoot(page, "results")
    assert serious_findings(page) == []

    cards.first.locator(".open").click()
    expect(page.locator("#lightbox-place")).to_have_text(f"1 of {total - 1}")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#lightbox-place")).to_have_text(f"2 of {total - 1}")
    expect(page.locator("#lightbox-details")).to_contain_text("Strangers at or above this score")
    shoot(page, "lightbox")
    assert serious_findings(page) == []
    camera = page.locator("#not-camera").inner_text().removeprefix("Not camera ")
    page.click("#not-camera")
    expect(page.locator(".card .where", has_text=f"camera {camera}")).to_have_count(0)
    assert f"not_cameras={camera}" in page.url
    page.go_back()
    expect(cards).to_have_count(total - 1)
    assert page.url == shared
    page.click("#as-timeline")
    expect(page.locator("#timeline .dot")).to_have_count(total - 1)
    shoot(page, "timeline")
    page.goto("about:blank")
    page.goto(shared)
    expect(page.locator("#results-title")).to_have_text("Best matches")
    expect(cards).to_have_count(total - 1)


def test_the_keyboard_alone_finds_compares_and_names(
    page: Any, serve: Serve, tmp_path: Path
) -> None:
    page.goto(serve())
    enrol(page, crops_of(tmp_path, people=4))
    page.keyboard.press("Escape")

    def press(selector: str, key: str = "Enter") -> None:
        """Tab until the element has the focus, then press a key on it."""
        for _ in range(120):
            if page.evaluate("text => document.activeElement.matches(text)", selector):
                page.keyboard.press(key)
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{selector} is not reached")

    press(".card:nth-child(1) .again")
    expect(page.locator("#results-title")).to_have_text("Best matches")
    page.wait_for_selector(".cut")
    found = page.locator(".card")
    expect(found.first).to_be_visible()
    press(".card .pick input", "Space")
    page.keyboard.press("Tab")
    press(".card .pick input", "Space")
    press("#compare-selected")
    expect(page.locator("#verdict")).to_contain_text("cosine")
    page.wait_for_function("document.querySelector('#image-b').naturalWidth")
    shoot(page, "compare")
    page.keyboard.press("Escape")
    press("#to-people")
    expect(page.locator("#people-status")).to_contain_text("appearance is not identity")
    press(".tile .new-name", "A")
    page.keyboard.type("da")
    page.keyboard.press("Enter")
    expect(page.locator(".tile h3").first).to_have_text("Ada")


def test_people_are_merged_split_undone_and_exported(
    page: Any, serve: Serve, tmp_path: Path
) -> None:
    page.goto(serve())
    crops = crops_of(tmp_path, people=12)
    enrol(page, crops)
    page.click("#enrol-close")
    page.click("#to-people")
    tiles = page.locator(".tile")
    expect(tiles.first).to_be_visible()
    assert page.locator(".tile .pictures img").count() == len(crops)
    before = tiles.count()
    assert before >= 2
    tiles.nth(0).locator(".choose").check()
    tiles.nth(1).locator(".choose").check()
    page.click("#merge")
    expect(tiles).to_have_count(before - 1)
    expect(tiles.first.locator("h3")).to_have_text("Person 1")
    page.wait_for_timeout(300)
    shoot(page, "people")
    assert serious_findings(page) == []
    tiles.first.locator(".pictures input").first.check()
    tiles.first.locator(".split").click()
    expect(page.locator(".tile h3", has_text="Person 2")).to_have_count(1)
    page.click("#undo")
    expect(page.locator(".tile h3", has_text="Person 2")).to_have_count(0)
    page.click("#undo")
    expect(tiles).to_have_count(before)
    expect(page.locator("#undo")).to_be_disabled()

    with page.expect_download() as saved:
        tiles.first.locator(".as-html").click()
    report = Path(saved.value.path()).read_text()
    assert "Appearance is not identity" in report and "data:image/jpeg;base64," in report
    assert not re.search(r"(src|href)=\"?https?:", report)  # self-contained
    with page.expect_download() as saved:
        tiles.first.locator(".as-csv").click()
    table = Path(saved.value.path()).read_text(encoding="utf-8-sig")
    assert "Appearance is not identity" in table and "rank,band,cosine" in table


def test_two_files_are_compared(page: Any, serve: Serve, tmp_path: Path) -> None:
    crops = crops_of(tmp_path, people=3)
    page.goto(serve())
    page.click("#open-compare")
    page.set_input_files("#file-a", crops[0])
    page.set_input_files("#file-b", crops[0])
    expect(page.locator("#verdict")).to_contain_text("Look like the same person: cosine 1.000")
    page.click("#maps summary")
    expect(page.locator("#maps canvas:visible")).to_have_count(2)


def test_the_page_is_chinese_where_that_is_chosen(page: Any, serve: Serve, tmp_path: Path) -> None:
    page.goto(serve())
    enrol(page, crops_of(tmp_path, people=3))
    page.click("#enrol-close")
    page.select_option("#language", "zh")
    expect(page.locator("#results-title")).to_have_text("图库")
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    page.locator(".card .again").first.click()
    expect(page.locator("#results-title")).to_have_text("最佳匹配")
    shoot(page, "chinese")
    page.select_option("#language", "en")
    expect(page.locator("#results-title")).to_have_text("Best matches")


@pytest.mark.parametrize(
    ("name", "camera", "dated"),
    [
        ("0001_c1s1_000151_00.jpg", "c1", False),
        ("lobby/cam02_2026-01-23_14-05-09.jpg", "cam2", True),
        ("20260123_140509.png", None, True),
        ("IMG_4711.jpg", None, False),
    ],
)
def test_camera_and_time_are_guessed_from_names(
    page: Any, serve: Serve, name: str, camera: str | None, dated: bool
) -> None:
    page.goto(serve())
    found = page.evaluate("name => import('/page/guess.js').then((m) => m.guess(name))", name)
    assert found.get("camera") == camera
    assert ("time" in found) is dated
