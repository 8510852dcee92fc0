"""Retention, upkeep, metrics and readiness: what whoever runs the service relies on."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from passreid.embed import Embedder
from passreid.errors import GalleryError, OutputError, UsageError
from passreid.gallery import Entry, Where, identity, open_gallery
from passreid.server import engine as server_engine
from passreid.server.app import create_app
from passreid.server.serving import listen
from passreid.server.settings import Settings
from tests.server.conftest import Start, enrol, png


def test_entries_that_no_retention_reaches_are_counted(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, embedder: Embedder
) -> None:
    gallery = open_gallery(
        str(tmp_path / "g.gallery"), model=identity(embedder), dim=embedder.dim, create=True
    )
    rows = embedder([png(1), png(2)])
    gallery.add(
        Entry(content_hash=str(n), embedding=row, time=time.time() if n else None)
        for n, row in enumerate(rows)
    )
    gallery.close()
    with caplog.at_level("WARNING"):
        client = start(retention_days=1)
        assert client.get("/readyz").status_code == 200
        until = time.monotonic() + 10
        while not caplog.records and time.monotonic() < until:
            time.sleep(0.01)
    assert "Retention: 1 entries have no time and are kept." in caplog.text


def test_retention_forgets_what_is_old(start: Start, tmp_path: Path) -> None:
    client = start(retention_days=1, audit=tmp_path / "audit.jsonl")
    enrol(client, 1, 2, about=[{"time": 1e9}, {}])
    engine = client.app.state.engine  # type: ignore[attr-defined]
    assert client.portal is not None
    assert client.portal.call(engine.enforce_retention, 1.0) == 1
    told = json.loads((tmp_path / "audit.jsonl").read_text().splitlines()[-1])
    assert (told["action"], told["forgotten"]) == ("retention", 1)
    assert 'passreid_entries_total{event="forgotten"} 1.0' in client.get("/metrics").text
    gallery = client.get("/v1/info").json()["gallery"]
    assert (gallery["count"], gallery["name"]) == (1, "g.gallery")


@pytest.mark.parametrize(("days", "pause", "compacts"), [(0.1, 864, 864), (100, 3600, 86400)])
def test_upkeep_comes_the_more_often_the_shorter_the_retention(
    start: Start, monkeypatch: pytest.MonkeyPatch, days: float, pause: float, compacts: float
) -> None:
    client = start(retention_days=days)
    engine = client.app.state.engine  # type: ignore[attr-defined]
    bytes_left(monkeypatch, engine.gallery)
    slept: list[float] = []

    async def once(seconds: float) -> None:
        slept.append(seconds)
        raise asyncio.CancelledError

    assert client.portal is not None
    client.portal.call(engine._maintenance.cancel)
    enrol(client, 1, about={"time": 1e9})
    monkeypatch.setattr(asyncio, "sleep", once)
    with pytest.raises(CancelledError):
        client.portal.call(engine._maintain)
    assert slept == [pytest.approx(pause)]
    assert engine._next_compaction - time.monotonic() == pytest.approx(compacts, abs=60)


def test_a_service_that_stops_lets_go_of_gallery_and_audit(
    tmp_path: Path, embedder: Embedder
) -> None:
    made: dict[str, Any] = {"model": identity(embedder), "dim": embedder.dim, "create": True}
    settings = Settings(audit=tmp_path / "audit.jsonl")
    app = create_app(embedder, open_gallery(tmp_path / "g", **made), settings)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.get("/readyz").status_code == 200
    open_gallery(tmp_path / "g", **made).close()
    assert app.state.engine.audit_log._file is None


def test_a_compaction_that_failed_is_made_up_for(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start(retention_days=1)
    enrol(client, 1, 2, about=[{"time": 1e9}, {}])
    engine = client.app.state.engine  # type: ignore[attr-defined]
    left = bytes_left(monkeypatch, engine.gallery)
    failures, done = [OutputError("full")], []

    def compact() -> None:
        if failures:
            raise failures.pop()
        left.clear()
        done.append(1)

    monkeypatch.setattr(engine.gallery, "compact", compact)
    assert client.portal is not None
    with pytest.raises(OutputError):
        client.portal.call(engine.enforce_retention, 1.0)
    for _ in range(2):
        assert client.portal.call(engine.enforce_retention, 1.0) == 0
    assert done == [1]
    assert client.post("/v1/forget", json={"everything": True}).json() == {"forgotten": 1}
    assert client.portal.call(engine.enforce_retention, 1.0) == 0
    assert done == [1]  # not every hour
    engine._next_compaction -= 8640.0  # a tenth of a day later
    assert client.portal.call(engine.enforce_retention, 1.0) == 0
    assert done == [1, 1]


def test_metrics_count_requests_by_route(client: TestClient) -> None:
    enrol(client, 1)
    client.get("/v1/entries/81f63fc9-21df-504a-ae92-26b5fb8e5ebf")
    text = client.get("/metrics").text
    assert (
        'passreid_requests_total{method="GET",route="/v1/entries/{entry}",status="404"} 1' in text
    )
    assert "passreid_gallery_entries 1.0" in text
    assert "version=0.0.4" in client.get("/metrics").headers["content-type"]


def test_metrics_are_told_while_the_gallery_does_not_answer(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = client.app.state.engine  # type: ignore[attr-defined]
    assert "passreid_gallery_up 1.0" in client.get("/metrics").text
    monkeypatch.setattr(server_engine, "_COUNT_TIMEOUT_S", 0.05)
    answers, asked = threading.Event(), []

    def hang() -> int:
        asked.append(1)
        answers.wait(60)
        raise GalleryError("gone")

    monkeypatch.setattr(engine.gallery, "count", hang)
    for _ in range(6):  # more than the gallery has threads
        answer = client.get("/metrics")
        assert answer.status_code == 200
        assert "passreid_gallery_up 0.0" in answer.text
        assert "passreid_gallery_entries NaN" in answer.text
    assert len(asked) == 1
    answers.set()
    monkeypatch.setattr(server_engine, "_COUNT_TIMEOUT_S", 10)
    for _ in range(2):
        assert "passreid_gallery_up 0.0" in client.get("/metrics").text  # it refuses
    assert client.get("/readyz").status_code == 503
    monkeypatch.undo()
    assert "passreid_gallery_up 1.0" in client.get("/metrics").text


def test_probes_of_a_gallery_that_hangs_leave_its_threads_to_others(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = client.app.state.engine  # type: ignore[attr-defined]
    hangs, answers, count = threading.Event(), threading.Event(), engine.gallery.count

    def hang(*where: Where) -> int:
        if not where:
            hangs.set()
            answers.wait(60)
        return int(count(*where))

    monkeypatch.setattr(engine.gallery, "count", hang)
    with ThreadPoolExecutor(6) as pool:  # more than the gallery has threads
        probes = [pool.submit(client.get, "/readyz") for _ in range(6)]
        assert hangs.wait(60)
        assert client.get("/v1/entries").status_code == 200
        assert not any(probe.done() for probe in probes)
        answers.set()
        assert [probe.result().status_code for probe in probes] == [200] * 6


def bytes_left(monkeypatch: pytest.MonkeyPatch, gallery: Any) -> list[int]:
    """Let each removal leave bytes behind, as it does on a server."""
    left: list[int] = []
    remove = gallery.remove

    def removed(*where: Where, **more: Any) -> int:
        if count := remove(*where, **more):
            left.append(1)
        return int(count)

    monkeypatch.setattr(gallery, "remove", removed)
    monkeypatch.setattr(gallery, "to_compact", lambda: bool(left))
    return left


def test_what_is_forgotten_leaves_the_disk_without_a_retention_too(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start()
    engine = client.app.state.engine  # type: ignore[attr-defined]
    assert client.portal is not None
    client.portal.call(engine._maintenance.cancel)
    done: list[int] = []
    slept: list[float] = []
    left = bytes_left(monkeypatch, engine.gallery)

    async def until_the_fourth(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 4:
            raise asyncio.CancelledError

    def compact() -> None:
        done.append(1)
        if len(done) == 1:
            raise RuntimeError("as the engine raises")
        left.clear()

    monkeypatch.setattr(engine.gallery, "compact", compact)
    enrol(client, 1)
    assert client.post("/v1/forget", json={"everything": True}).json() == {"forgotten": 1}
    monkeypatch.setattr(asyncio, "sleep", until_the_fourth)
    with pytest.raises(CancelledError):
        client.portal.call(engine._maintain)
    assert slept == [3600.0] * 4
    assert len(done) == 2  # again after it failed, and not without need


def test_readiness_ends_when_the_service_stops(client: TestClient) -> None:
    assert client.get("/readyz").status_code == 200
    client.app.state.engine.stopping = True  # type: ignore[attr-defined]
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


@pytest.mark.loopback
@pytest.mark.enable_socket
def test_a_port_that_is_taken_is_said_once() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UsageError, match=r"cannot listen there \(Address already in use\);"):
            listen("127.0.0.1", port)
