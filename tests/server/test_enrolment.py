"""Enrolling over HTTP: how files become entries."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from passreid.gallery import Entry
from tests.server.conftest import enrol


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
