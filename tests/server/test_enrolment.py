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
    lines = enrol(client, *range(1, 9), 1)
    assert added == [8, 1]
    assert [line["event"] for line in lines[:3]] == ["added", "known", "added"]
    assert [line["event"] for line in lines[7:]] == ["added", "known", "done"]
    assert (lines[-1]["added"], lines[-1]["known"]) == (7, 2)
