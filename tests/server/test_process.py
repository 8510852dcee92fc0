"""A service in a process of its own: the example client, a kill in the middle of an enrolment."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.server.conftest import png
from tests.small import picture

pytestmark = [pytest.mark.slow, pytest.mark.loopback, pytest.mark.enable_socket]
CLIENT = Path(__file__).parents[2] / "examples" / "client.py"
TOKEN = "a-token-that-is-long-enough"
ASK = {"Authorization": f"Bearer {TOKEN}"}


@contextmanager
def service(
    gallery: Path, token: str | None = TOKEN
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "passreid", "serve", "--gallery", str(gallery), "--port", "0"]
    environment = os.environ | ({"PASSREID_TOKEN": token} if token else {})
    log = gallery.with_suffix(".log")
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file, text=True, env=environment)
    try:
        while not (found := re.search(r"http://[\d.:]+", log.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        transport = httpx.HTTPTransport(retries=5)
        with httpx.Client(transport=transport, timeout=60) as client:
            assert client.get(f"{found.group()}/readyz").is_success
        yield found.group(), process
    finally:
        process.kill()
        process.wait()


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    gallery = tmp_path / "people.gallery"
    files = [("files", (f"{seed}.png", png(seed))) for seed in range(48)]
    promised: list[str] = []
    with service(gallery) as (address, process):
        url = f"{address}/v1/entries"
        try:
            with httpx.stream("POST", url, files=files, headers=ASK, timeout=60) as answer:
                for line in answer.iter_lines():
                    promised += filter(None, [json.loads(line).get("id")])
                    if len(promised) == 3:
                        process.kill()
        except httpx.HTTPError:
            pass
    assert len(promised) >= 3
    with service(gallery) as (address, _), httpx.Client(headers=ASK, timeout=60) as client:
        for entry in promised:
            assert client.get(f"{address}/v1/entries/{entry}").status_code == 200
        again = client.post(f"{address}/v1/entries", files=files).text.splitlines()
        last = json.loads(again[-1])
        assert last["added"] + last["known"] == len(files) and last["known"] >= len(promised)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_what_the_guide_says_to_curl_works(tmp_path: Path) -> None:
    guide = (CLIENT.parents[1] / "docs" / "how-to" / "serve.md").read_text()
    lines = [line.strip() for line in guide.splitlines() if line.startswith("    curl ")]
    assert len(lines) >= 5
    for seed, name in enumerate(("query.jpg", "frame.jpg", "a.jpg", "b.jpg")):
        Image.fromarray(picture(seed, 320, 240)).save(tmp_path / name)
    with service(tmp_path / "people.gallery", token=None) as (address, _):
        for line in lines:
            command = shlex.split(line.replace("http://127.0.0.1:8008", address))
            command[1:1] = ["--fail-with-body", "--silent", "--show-error"]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            for answer in done.stdout.splitlines():
                json.loads(answer)


def test_the_example_client_enrols_and_searches(tmp_path: Path) -> None:
    crops = tmp_path / "crops"
    crops.mkdir()
    for seed in range(3):
        (crops / f"{seed}.jpg").write_bytes(png(seed))
    with service(tmp_path / "people.gallery") as (address, _):
        done = subprocess.run(
            [sys.executable, str(CLIENT), address, str(crops), str(crops / "1.jpg")],
            env=os.environ | {"PASSREID_TOKEN": TOKEN},
            capture_output=True,
            text=True,
            check=True,
        )
    assert re.search(r"^  1 \+1\.000 .* 1\.jpg$", done.stdout, re.MULTILINE), done.stdout
