"""The page in headless Chromium: what a person does, from enrolling to forgetting.

`PASSREID_SHOTS=folder` keeps pictures of the page, desktop and phone, light and dark.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.loopback,
    pytest.mark.enable_socket,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    import uvicorn

    from passreid.embed import load
    from passreid.gallery import identity, open_gallery
    from passreid.server.app import create_app
    from passreid.server.serving import listen

    embedder = load()
    gallery = open_gallery(
        str(tmp_path / "people.gallery"), model=identity(embedder), dim=embedder.dim, create=True
    )
    config = uvicorn.Config(create_app(embedder, gallery), log_config=None)
    server = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture
def page() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.set_default_timeout(20_000)
        yield page
        browser.close()


def shoot(page: Any, name: str) -> None:
    if folder := os.environ.get("PASSREID_SHOTS"):
        for look in ("light", "dark"):
            page.emulate_media(color_scheme=look)
            for kind, size in {"desktop": (1280, 860), "phone": (390, 844)}.items():
                page.set_viewport_size({"width": size[0], "height": size[1]})
                page.wait_for_timeout(200)
                page.screenshot(path=f"{folder}/{name}-{kind}-{look}.png")
        page.set_viewport_size({"width": 1280, "height": 860})


def test_a_person_enrols_searches_filters_and_forgets(
    page: Any, address: str, tmp_path: Path
) -> None:
    from passreid.data import make_synthetic

    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    people = make_synthetic(tmp_path / "people", people=40, cameras=2, per_camera=2)
    crops = [str(sample.path) for sample in people.gallery][:50]
    crops += [str(sample.path) for sample in people.query][: 50 - len(crops)]
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")

    page.goto(address)
    sync_api.expect(page.locator("#empty")).to_contain_text("The gallery is empty")
    shoot(page, "empty")

    page.click("#open-enrol")
    page.fill("#enrol-camera", "door")
    page.set_input_files("#files", [*crops, str(bad)])
    told = page.locator("#enrol-status")
    sync_api.expect(told).to_contain_text(
        f"Done: {len(crops)} added, 0 known already, 1 skipped", timeout=60_000
    )
    sync_api.expect(page.locator("#skipped")).to_contain_text("bad.jpg: is not a JPEG")
    shoot(page, "enrolled")
    page.click("#enrol >> text=Close")
    sync_api.expect(page.locator(".card")).to_have_count(len(crops))

    page.set_input_files("#file", crops[0])
    first = page.locator(".card").first
    sync_api.expect(first.locator(".score")).to_contain_text("cosine 1.000")
    sync_api.expect(first.locator(".score")).to_contain_text("%")
    page.wait_for_timeout(500)
    shoot(page, "found")

    page.locator("[name=threshold]").fill("0.9")
    sync_api.expect(page.locator("#shown-threshold")).to_contain_text("cosine 0.90")
    page.wait_for_function("n => document.querySelectorAll('.card').length < n", arg=len(crops))
    page.fill("[name=cameras]", "roof")
    page.keyboard.press("Tab")
    sync_api.expect(page.locator("#empty")).to_contain_text("Nobody fits")
    shoot(page, "nobody")
    page.click("text=Clear filters")
    sync_api.expect(page.locator(".card")).to_have_count(len(crops))

    page.locator("#frame").focus()
    page.keyboard.press("ArrowRight")
    sync_api.expect(page.locator("#whole")).to_be_visible()
    page.click("#search")
    sync_api.expect(page.locator("#status")).to_contain_text("results")

    page.locator(".card .again").nth(1).click()
    sync_api.expect(page.locator(".card")).to_have_count(len(crops) - 1)

    page.locator(".card input").first.check()
    page.click("#forget")
    shoot(page, "confirm")
    page.click("#confirm >> text=Keep")
    sync_api.expect(page.locator("#about")).to_contain_text(f"{len(crops)} pictures")
    page.click("#forget")
    page.click("#confirm button[value=yes]")
    sync_api.expect(page.locator("#about")).to_contain_text(f"{len(crops) - 1} pictures")

    page.set_input_files("#file", str(bad))
    sync_api.expect(page.locator("#alert")).to_contain_text("bad.jpg: is not a picture")
    page.route("**/v1/search", lambda route: route.abort())
    page.click("#search")
    sync_api.expect(page.locator("#alert")).to_contain_text("does not answer")
    assert not problems
