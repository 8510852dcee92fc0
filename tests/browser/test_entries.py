"""The page over what is in the gallery: labels, missing thumbnails, a search that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser.conftest import Serve, crops_of, enrol, shoot, sync_api

pytestmark = [pytest.mark.slow, pytest.mark.loopback, pytest.mark.enable_socket]

expect = sync_api.expect


def test_pictures_are_labelled_and_a_label_is_taken_back(
    page: Any, serve: Serve, tmp_path: Path
) -> None:
    crops = crops_of(tmp_path, people=3)[:3]
    page.goto(serve())
    page.click("#open-enrol")
    page.fill("#enrol-camera", "door")
    page.keyboard.press("Enter")
    expect(page.locator("#enrol")).to_be_visible()  # it is filled in before the pictures come
    page.click("#enrol >> text=Close")
    enrol(page, crops, camera="door")
    page.click("#enrol >> text=Close")
    expect(page.locator(".card")).to_have_count(3)
    boxes, names = page.locator(".card input"), page.locator(".card .name")
    files = names.all_text_contents()
    boxes.nth(0).check()
    boxes.nth(1).check()
    page.click("#label")
    shoot(page, "label")
    expect(page.locator("#label-camera")).to_have_value("door")
    page.fill("#label-person", "Ada")
    page.fill("#label-camera", "")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("2 pictures were labelled.")
    expect(names).to_have_text(["Ada", "Ada", files[2]])
    expect(page.locator(".card .where:visible")).to_have_text(["camera door"])
    expect(names.first).to_have_attribute("title", f"Ada ({files[0]})")

    for index in range(3):
        boxes.nth(index).check()
    page.set_viewport_size({"width": 360, "height": 500})
    boxes.nth(2).scroll_into_view_if_needed()
    for button in ("#label", "#forget"):  # also far below the heading they stand beside
        expect(page.locator(button)).to_be_in_viewport(ratio=1)
    page.click("#label")
    for name in ("person", "camera"):
        field = page.locator(f"#label-{name}")
        expect(field).to_have_value("")
        expect(field).to_have_attribute("placeholder", "several, kept")
    shoot(page, "label-several")
    expect(page.locator("#clear-tracklet")).to_be_hidden()
    page.click("#clear-camera")
    expect(page.locator("#label-camera")).to_have_attribute("placeholder", "unknown")
    page.fill("#label-tracklet", "7")
    page.click("#labels >> text=Save")
    expect(page.locator("#status")).to_contain_text("3 pictures were labelled.")
    expect(names).to_have_text(["Ada", "Ada", files[2]])
    expect(page.locator(".card .where:visible")).to_have_count(0)

    boxes.nth(0).check()
    page.click("#label")
    page.fill("#label-person", "nobody")
    page.click("#labels >> text=Cancel")
    page.click("#label")
    expect(page.locator("#label-tracklet")).to_have_value("7")
    page.fill("#label-person", "")
    page.click("#labels >> text=Save")
    expect(names).to_have_text([files[0], "Ada", files[2]])


def test_pictures_that_come_while_others_are_sent_are_enrolled_too(
    page: Any, serve: Serve, tmp_path: Path
) -> None:
    crops = crops_of(tmp_path, people=2)[:3]
    page.goto(serve())
    waiting: list[Any] = []
    page.route("**/v1/entries", lambda route: waiting.append(route), times=1)
    page.click("#open-enrol")
    page.fill("#enrol-camera", "door")
    with page.expect_request("**/v1/entries"):
        page.set_input_files("#files", crops[:1])
    page.fill("#enrol-camera", "roof")
    page.set_input_files("#files", crops[1:])
    expect(page.locator("#enrol-status")).to_have_text("2 more pictures will be sent…")
    waiting[0].continue_()
    expect(page.locator("#enrol-status")).to_have_text(
        "Done: 3 added, 0 known already, 0 skipped.", timeout=60_000
    )
    page.click("#enrol >> text=Close")
    where = page.locator(".card .where")
    expect(where).to_have_count(3)
    assert sorted(where.all_text_contents()) == ["camera door", "camera roof", "camera roof"]


def test_an_enrolment_that_breaks_off_is_not_done(page: Any, serve: Serve, tmp_path: Path) -> None:
    crops = crops_of(tmp_path, people=2)[:2]
    page.goto(serve())
    line = '{"event": "added", "index": 0, "source": "a.png"}\n{"event": "ad'
    page.route("**/v1/entries", lambda route: route.fulfill(body=line), times=1)
    page.click("#open-enrol")
    told = page.locator("#enrol-status")
    page.set_input_files("#files", crops)
    expect(told).to_have_text(
        "The connection broke off; choose the same pictures again. "
        "So far: 1 added, 0 known already, 0 skipped."
    )
    page.route("**/v1/entries", lambda route: route.abort(), times=1)
    page.set_input_files("#files", crops)
    expect(told).to_have_text(
        "The service does not answer. Is it still running? "
        "So far: 0 added, 0 known already, 0 skipped."
    )


def test_what_an_older_search_found_does_not_stand_beside_a_new_picture(
    page: Any, serve: Serve, tmp_path: Path
) -> None:
    crops = crops_of(tmp_path, people=3)
    large = tmp_path / "large.png"
    large.write_bytes(Path(crops[0]).read_bytes() + bytes(17 * 2**20))
    page.goto(serve())
    enrol(page, [*crops[:2], str(large)])
    expect(page.locator("#skipped")).to_contain_text("large.png: is larger than the 16 MiB")
    page.click("#enrol >> text=Close")
    page.set_input_files("#file", crops[0])
    expect(page.locator("#results-title")).to_have_text("Best matches")
    expect(page.locator(".card")).to_have_count(2)
    page.set_input_files("#file", str(large))
    expect(page.locator("#alert")).to_contain_text("large.png: is larger than the 16 MiB")
    expect(page.locator(".card")).to_have_count(2)  # it was not taken
    page.route("**/v1/search", lambda route: route.abort())
    page.set_input_files("#file", crops[1])
    expect(page.locator("#alert")).to_contain_text("does not answer")
    expect(page.locator(".card")).to_have_count(0)


def test_an_entry_without_a_thumbnail_is_searched_with(
    page: Any, serve: Serve, tmp_path: Path
) -> None:
    crops, address = crops_of(tmp_path, people=3), serve()
    for path in crops[:3]:
        files = {"files": ("a.jpg", Path(path).read_bytes())}
        assert httpx.post(f"{address}v1/entries", files=files, data={"thumbnails": "false"}).text
    page.goto(address)
    page.click(".card:nth-child(2) .again")
    expect(page.locator("#results-title")).to_have_text("Best matches")
    expect(page.locator(".card")).to_have_count(2)
    shoot(page, "without")
    assert page.evaluate(  # the words in place of the picture are not under the box to select it
        "parseFloat(getComputedStyle(document.querySelector('.card img')).paddingTop)"
        " >= document.querySelector('.card .pick').offsetHeight"
    )
