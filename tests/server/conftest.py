"""An application over a gallery in memory, and pictures to send it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from passreid.embed import Embedder
from passreid.gallery import identity, open_gallery
from passreid.server.app import create_app
from passreid.server.settings import Settings
from tests.small import picture

Start = Callable[..., TestClient]


@pytest.fixture
def start(embedder: Embedder, tmp_path: Path) -> Iterator[Start]:
    running: list[TestClient] = []

    def call(**settings: Any) -> TestClient:
        gallery = open_gallery(
            str(tmp_path / "g.gallery"), model=identity(embedder), dim=embedder.dim, create=True
        )
        app = create_app(embedder, gallery, Settings(**settings))
        client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        running.append(client.__enter__())
        return client

    yield call
    for client in running:
        client.__exit__(None, None, None)


@pytest.fixture
def client(start: Start, tmp_path: Path) -> TestClient:
    return start(audit=tmp_path / "audit.jsonl")


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(seed)).save(file, "PNG")
    return file.getvalue()


def enrol(client: TestClient, *seeds: int, about: Any = None) -> list[dict[str, Any]]:
    files = [("files", (f"{seed}.png", png(seed))) for seed in seeds]
    data = {} if about is None else {"about": json.dumps(about)}
    answer = client.post("/v1/entries", files=files, data=data)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]
