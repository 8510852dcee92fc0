"""Enrolling over HTTP: how files become entries."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from passreid.errors import OutputError
from passreid.gallery import Entry
from passreid.server.batching import Batcher
from tests.server.conftest import enrol, png


def test_files_are_added_some_at_a_time_and_told_one_by_one(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol(client, 2)
    engine = client.app.state.engine  # type: ignore[attr-defined]
    real = engine.gallery.add
    added: list[int] = []

    def watched(entries: list[Entry]) -> Any:
        added.append(len(entries))
        return real(entries)

    monkeypatch.setattr(engine.gallery, "add", watched)
    lines = enrol(client, *range(1, 9), 9, 1, 9)
    assert added == [7, 1]
    assert [line["event"] for line in lines[:3]] == ["added", "known", "added"]
    assert [line["event"] for line in lines[7:]] == ["added", "added", "known", "known", "done"]
    assert (lines[-1]["added"], lines[-1]["known"]) == (8, 3)
    assert [line["index"] for line in lines[:-1]] == list(range(11))
    assert 'passreid_entries_total{event="enrolled"} 9.0' in client.get("/metrics").text


def test_what_is_known_is_not_embedded_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = enrol(client, 1)
    engine = client.app.state.engine  # type: ignore[attr-defined]

    async def embed(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(engine, "embed", embed)
    again, done = enrol(client, 1)
    assert (again["event"], again["id"]) == ("known", first["id"])
    assert (done["event"], done["added"], done["known"]) == ("done", 0, 1)


def test_what_is_said_of_a_file_is_kept(client: TestClient) -> None:
    (line, _) = enrol(client, 1, about={"source": "gate", "time": "20261123", "payload": {"n": 1}})
    kept = client.get(f"/v1/entries/{line['id']}").json()
    assert (kept["source"], kept["time"], kept["payload"]) == ("gate", 1795392000, {"n": 1})


@pytest.mark.parametrize("said", [1, 3])
def test_each_file_is_described_or_none(client: TestClient, said: int) -> None:
    files = [("files", (f"{seed}.png", png(seed))) for seed in (1, 2)]
    answer = client.post("/v1/entries", files=files, data={"about": json.dumps([{}] * said)})
    assert answer.status_code == 422
    assert answer.json()["detail"] == f"about: describes {said} files, but 2 were sent."


def test_an_entry_without_a_thumbnail_says_so(client: TestClient) -> None:
    answer = client.post("/v1/entries", files={"files": png(1)}, data={"thumbnails": "false"})
    entry = json.loads(answer.text.splitlines()[0])["id"]
    for answer in (
        client.get(f"/v1/entries/{entry}/thumbnail"),
        client.post("/v1/attention", data={"entry": entry}),
    ):
        assert answer.status_code == 404
        assert answer.json()["detail"] == "This entry was enrolled without a thumbnail."


def test_an_enrolment_ends_early_where_the_service_stops(client: TestClient) -> None:
    client.app.state.engine.stopping = True  # type: ignore[attr-defined]
    (last,) = enrol(client, 1)
    assert (last["event"], last["added"]) == ("stopped", 0)
    assert last["reason"] == "The service is stopping; send the rest again."


def test_enrolling_waits_where_searching_is_refused(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Batcher, "pending", property(lambda self: self._queue.maxsize))
    assert client.post("/v1/search", files={"images": png(1)}).status_code == 429
    assert enrol(client, 1)[-1]["added"] == 1


def test_an_enrolment_that_cannot_be_recorded_is_not_done(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = client.app.state.engine.audit_log  # type: ignore[attr-defined]
    real = audit.write

    def write(action: str, **facts: Any) -> None:
        if action == "enrolled":
            raise OutputError("the disk is full")
        real(action, **facts)

    monkeypatch.setattr(audit, "write", write)
    _, last = enrol(client, 1)
    assert (last["event"], last["reason"], last["added"]) == ("stopped", "the disk is full", 1)
