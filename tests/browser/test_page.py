"""The page in headless Chromium: what a person does, from enrolling to forgetting.

`PASSREID_SHOTS=folder` keeps pictures of the page, desktop and phone, light and dark.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from passreid.embed import Embedder
from tests.browser.conftest import PHONE, Serve, crops_of, enrol, shoot, sync_api

pytestmark = [pytest.mark.slow, pytest.mark.loopback, pytest.mark.enable_socket]

expect = sync_api.expect
TOKEN = "a-token-that-is-long-enough"


def bring(page: Any, kind: str, target: str, file: str) -> None:
    """Drop a file on an element, or paste it there."""
    data = base64.b64encode(Path(file).read_bytes()).decode()
    page.evaluate(
        """([kind, target, data]) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const box = new DataTransfer();
            box.items.add(new File([bytes], "brought.jpg", { type: "image/jpeg" }));
            const options = { bubbles: true, cancelable: true };
            const event = kind === "paste"
                ? new ClipboardEvent(kind, { ...options, clipboardData: box })
                : new DragEvent(kind, { ...options, dataTransfer: box });
            document.querySelector(target).dispatchEvent(event);
        }""",
        [kind, target, data],
    )


def test_a_person_enrols_searches_filters_and_forgets(
    page: Any, serve: Serve, tmp_path: Path
) -> None:
    crops = crops_of(tmp_path, people=40)[:50]
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    cards = page.locator(".card")

    page.goto(serve())
    expect(page.locator("#empty")).to_contain_text("The gallery is empty")
    shoot(page, "empty")

    told = enrol(page, [*crops, str(bad)], camera="door")
    expect(told).to_contain_text(f"Done: {len(crops)} added, 0 known already, 1 skipped")
    expect(page.locator("#skipped")).to_contain_text("bad.jpg: is not a JPEG")
    shoot(page, "enrolled")
    page.click("#enrol >> text=Close")
    expect(cards).to_have_count(len(crops))

    page.set_input_files("#file", crops[0])
    expect(cards.first.locator(".score")).to_have_text("strong match")
    expect(cards.first.locator(".cosine")).to_have_text(
        re.compile(r"^cosine 1\.000 · < \S+ strangers expected$")
    )
    expect(cards.first.locator(".where")).to_have_text("camera door")
    page.wait_for_timeout(500)
    shoot(page, "found")

    page.locator("[name=threshold]").fill("0.9")
    expect(page.locator("#shown-threshold")).to_have_text("cosine 0.90")
    expect(page.locator("#meaning")).to_contain_text("pairs of different people")
    page.wait_for_function("n => document.querySelectorAll('.card').length < n", arg=len(crops))
    page.click("[data-chip='cameras door']")
    expect(page.locator("[data-chip='cameras door']")).to_have_attribute("aria-pressed", "true")
    page.click("[data-chip='cameras door']")
    expect(page.locator("#empty")).to_contain_text("No picture fits")
    expect(page.locator("#active")).to_have_text("2 in use")
    shoot(page, "nobody")
    page.click("#empty-action")
    expect(cards).to_have_count(len(crops))
    page.fill("[name=until]", "2001-01-01T00:00")
    expect(page.locator("#empty")).to_contain_text("No picture fits")
    page.click("#clear")
    expect(cards).to_have_count(len(crops))

    cards.nth(1).locator(".again").click()
    expect(cards).to_have_count(len(crops) - 1)
    expect(page.locator("#box-hint")).to_be_hidden()

    cards.first.locator("input").check()
    page.click("#forget")
    shoot(page, "confirm")
    page.click("#confirm >> text=Keep")
    expect(page.locator("#about")).to_contain_text(f"{len(crops)} pictures")
    page.click("#forget")
    page.click("#confirm button[value=yes]")
    expect(page.locator("#about")).to_contain_text(f"{len(crops) - 1} pictures")
    expect(page.locator("#status")).to_contain_text("1 picture was forgotten.")

    page.set_input_files("#file", str(bad))
    expect(page.locator("#alert")).to_contain_text("bad.jpg: is not a picture")
    page.route("**/v1/search", lambda route: route.abort())
    page.click("#search")
    expect(page.locator("#alert")).to_contain_text("does not answer")
    shoot(page, "failed")


def test_a_picture_is_dropped_anywhere_pasted_and_taken_away(
    page: Any, serve: Serve, tmp_path: Path
) -> None:
    crops = crops_of(tmp_path, people=3)
    cards, title = page.locator(".card"), page.locator("#results-title")
    page.goto(serve())
    page.click("#open-enrol")
    bring(page, "drop", "#enrol-title", crops[0])
    expect(page.locator("#enrol-status")).to_contain_text("Done: 1 added")
    page.click("#enrol >> text=Close")
    expect(title).to_have_text("In the gallery")

    bring(page, "drop", "#results", crops[0])
    expect(title).to_have_text("Best matches")
    page.click("#remove")
    expect(title).to_have_text("In the gallery")
    expect(page.locator("#search")).to_be_disabled()
    bring(page, "paste", "body", crops[0])
    expect(cards.first.locator(".cosine")).to_contain_text("cosine 1.000")


def test_one_of_many_people_in_a_frame_is_picked_by_pointer_and_by_keys(
    page: Any, serve: Serve, tmp_path: Path
) -> None:
    crops = crops_of(tmp_path, people=4)[:4]
    frame = Image.new("RGB", (640, 360), "#556")
    for index, path in enumerate(crops):
        frame.paste(Image.open(path).resize((120, 240)), (30 + 150 * index, 60))
    frame.save(tmp_path / "frame.png")
    page.goto(serve())
    enrol(page, crops)
    page.click("#enrol >> text=Close")
    page.set_input_files("#file", str(tmp_path / "frame.png"))
    expect(page.locator("#status")).to_contain_text("4 results")

    # Crop 2 lies at x 330-450 of 640.
    place = page.locator("#frame").bounding_box()
    scale = place["width"] / 640
    page.mouse.move(place["x"] + 330 * scale, place["y"] + 60 * scale)
    page.mouse.down()
    page.mouse.move(place["x"] + 450 * scale, place["y"] + 300 * scale, steps=4)
    page.mouse.up()
    expect(page.locator(".card .name").first).to_have_text(Path(crops[2]).name)
    shoot(page, "frame")
    page.click("#whole")
    expect(page.locator("#whole")).to_be_hidden()
    expect(page.locator("#frame")).to_be_focused()

    page.keyboard.press("ArrowRight")
    expect(page.locator("#whole")).to_be_visible()
    with page.expect_response("**/v1/search") as answer:
        page.keyboard.press("Enter")
    assert answer.value.ok
    page.keyboard.press("Escape")
    expect(page.locator("#whole")).to_be_hidden()


def test_results_are_grouped_by_person_on_a_phone(page: Any, serve: Serve, tmp_path: Path) -> None:
    crops = crops_of(tmp_path, people=4)
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    page.goto(serve())
    people = sorted({Path(path).name[:4] for path in crops})
    for person in people:
        mine = [path for path in crops if Path(path).name.startswith(person)]
        enrol(page, mine, person=f"Person {person}")
        page.click("#enrol >> text=Close")
    expect(page.locator("#filter-box form")).to_be_hidden()
    page.set_input_files("#file", crops[0])
    expect(page.locator(".card .score").first).to_be_in_viewport()
    page.click("#filter-box summary")
    page.select_option("[name=group_by]", "person")
    expect(page.locator(".card .name")).to_have_count(len(people))
    shown = page.locator(".card .name").all_text_contents()
    assert sorted(shown) == [f"Person {person}" for person in people]
    shoot(page, "grouped")


def test_every_control_is_reached_by_keyboard_and_shows_it(
    page: Any, serve: Serve, tmp_path: Path
) -> None:
    page.goto(serve())
    enrol(page, crops_of(tmp_path, people=2)[:1])
    page.click("#enrol >> text=Close")
    expect(page.locator(".card")).to_have_count(1)
    page.set_input_files("#file", crops_of(tmp_path / "again", people=2)[0])
    expect(page.locator("#results-title")).to_have_text("Best matches")
    expect(page.get_by_role("slider", name="Lowest score")).to_be_visible()
    page.focus(".skip")
    seen = []
    for _ in range(50):
        page.keyboard.press("Tab")
        name = page.evaluate(
            "(() => { const at = document.activeElement;"
            "return at.id || at.name || at.className || at.type || at.tagName })()"
        )
        if name == "BODY":
            break
        seen.append(name)
        ring = page.evaluate(
            "(() => { const at = document.activeElement; const seen = at.className === 'unseen'"
            " ? at.nextElementSibling : at; return getComputedStyle(seen).outlineStyle })()"
        )
        assert ring != "none" or name == "skip", name
    wanted = ["to-search", "to-people", "open-compare", "language", "open-enrol", "frame", "file"]
    wanted += ["remove", "search", "threshold", "only_above"]
    wanted += ["group_by", "since", "until", "clear", "as-pictures", "as-timeline", "density"]
    wanted += ["export-html", "export-csv", "open", "checkbox", "again"]
    assert [name for name in dict.fromkeys(seen) if name in wanted] == wanted


def test_where_the_model_looks_is_shown_on_what_is_pointed_at(
    page: Any, serve: Serve, tmp_path: Path
) -> None:
    crops = crops_of(tmp_path, people=3)
    page.goto(serve())
    enrol(page, crops)
    page.click("#enrol >> text=Close")
    page.set_input_files("#file", crops[0])
    expect(page.locator("#results-title")).to_have_text("Best matches")
    heat = page.locator(".card canvas:visible")
    page.hover(".card >> nth=1")
    expect(heat).to_have_count(0)
    before = page.evaluate("document.querySelector('#frame').toDataURL()")
    page.click("#looks summary")
    page.select_option("#look", "part 2")
    page.hover(".card >> nth=2")
    expect(heat).to_have_count(1)
    page.wait_for_function(
        "was => document.querySelector('#frame').toDataURL() !== was", arg=before
    )
    page.focus(".card:nth-child(1) .again")
    expect(heat).to_have_count(2)
    page.locator("#density").fill("140")  # maps are drawn for pictures in view: bring all there
    page.check("#look-all")
    expect(heat).to_have_count(len(crops))
    shoot(page, "looks")
    page.select_option("#look", "")
    expect(heat).to_have_count(0)
    assert page.evaluate("document.querySelector('#frame').toDataURL()") == before


def test_a_model_that_cannot_show_where_it_looks_offers_nothing(
    page: Any, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Embedder, "attends", property(lambda self: False))
    page.goto(serve())
    enrol(page, crops_of(tmp_path, people=2))
    page.click("#enrol >> text=Close")
    expect(page.locator("#looks")).to_be_hidden()


def test_a_token_is_asked_for_and_kept_for_the_tab(page: Any, serve: Serve) -> None:
    address = serve(token=TOKEN)
    page.goto(address)
    expect(page.locator("#login-title")).to_have_text("This service asks for a token")
    shoot(page, "login")
    page.fill("#token", "another-token-that-is-wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#login-title")).to_have_text("The service refuses this token")
    expect(page.locator("#login")).to_be_visible()
    expect(page.locator("#token")).to_have_value("")
    page.fill("#token", "half a tok")
    page.keyboard.press("Escape")  # gives up, and sends nothing
    expect(page.locator("#login")).to_be_hidden()
    page.reload()
    expect(page.locator("#login")).to_be_visible()
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#empty")).to_contain_text("The gallery is empty")
    page.reload()
    expect(page.locator("#empty")).to_contain_text("The gallery is empty")


@pytest.mark.parametrize(
    ("token", "written"),
    [("twenty/per/cent:20%!", "twenty%2Fper%2Fcent%3A20%25!"), ("20%-of-all-tokens", None)],
)
def test_a_token_in_the_address_leaves_it_and_lets_in(
    page: Any, serve: Serve, token: str, written: str | None
) -> None:
    address = serve(token=token)
    page.goto(f"{address}#token={written or token}")
    expect(page.locator("#empty")).to_contain_text("The gallery is empty")
    assert "token" not in page.url
