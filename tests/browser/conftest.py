"""A service with an empty gallery, and a page in headless Chromium that must meet no error."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from passreid.data import make_synthetic
from passreid.embed import Embedder

pytest.importorskip("fastapi")
sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium")
DESKTOP, PHONE = (1280, 860), (360, 780)

Serve = Callable[..., str]


@pytest.fixture
def serve(embedder: Embedder, tmp_path: Path) -> Iterator[Serve]:
    """Start a service with these settings; return its address."""
    running: list[Any] = []

    def start(**settings: Any) -> str:
        context = _running(embedder, tmp_path / "people.gallery", **settings)
        running.append(context)
        return context.__enter__()

    yield start
    for context in running:
        context.__exit__(None, None, None)


@contextmanager
def _running(embedder: Embedder, folder: Path, **settings: Any) -> Iterator[str]:
    import uvicorn

    from passreid.gallery import identity, open_gallery
    from passreid.server.app import create_app
    from passreid.server.serving import listen
    from passreid.server.settings import Settings

    gallery = open_gallery(str(folder), model=identity(embedder), dim=embedder.dim, create=True)
    config = uvicorn.Config(create_app(embedder, gallery, Settings(**settings)), log_config=None)
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
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    problems: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": DESKTOP[0], "height": DESKTOP[1]})
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        yield page
        browser.close()
    assert not problems


def shoot(page: Any, name: str) -> None:
    """Keep pictures of the page where PASSREID_SHOTS says; nothing may stick out at any width."""
    folder = os.environ.get("PASSREID_SHOTS")
    for width, height in (PHONE, DESKTOP):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, width)
        for look in ("dark", "light") if folder else ():
            page.emulate_media(color_scheme=look)
            page.wait_for_timeout(200)
            kind = "phone" if width == PHONE[0] else "desktop"
            page.screenshot(path=f"{folder}/{name}-{kind}-{look}.png")


def crops_of(folder: Path, *, people: int) -> list[str]:
    made = make_synthetic(folder / "people", people=people, cameras=2, per_camera=2)
    return [str(sample.path) for sample in (*made.gallery, *made.query)]


def enrol(page: Any, files: list[str], **fields: str) -> Any:
    page.click("#open-enrol")
    for name, text in fields.items():
        page.fill(f"#enrol-{name}", text)
    page.set_input_files("#files", files)
    told = page.locator("#enrol-status")
    sync_api.expect(told).to_contain_text("Done: ", timeout=60_000)
    return told
