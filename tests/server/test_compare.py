"""Comparing over HTTP: what the calibration tells, and what it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from tests.server.conftest import png

BOTH = {"a": png(1), "b": png(1)}


def test_compare_judges(client: TestClient) -> None:
    same = client.post("/v1/compare", files=BOTH).json()
    assert same["cosine"] > 0.999 and same["same_person"] is True
    assert same["false_accept_rate"] == 0.001
    asked = client.post("/v1/compare", files=BOTH, data={"false_accept_rate": 0.01}).json()
    assert asked["false_accept_rate"] == 0.01 and asked["threshold"] < same["threshold"]


def test_a_rate_that_was_not_measured(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = client.post("/v1/compare", files=BOTH, data={"false_accept_rate": 1e-6})
    assert answer.status_code == 422
    assert "0.01, 0.001, 0.0001" in answer.json()["detail"]
    engine = client.app.state.engine  # type: ignore[attr-defined]
    card = engine.embedder.card
    few = replace(card.calibration, points=card.calibration.points[:1])
    card = replace(card, calibration=few)
    monkeypatch.setattr(engine, "embedder", replace(engine.embedder, card=card))
    told = client.post("/v1/compare", files=BOTH).json()
    assert told["cosine"] > 0.999 and told["probability"] > 0.9
    assert (told["same_person"], told["threshold"], told["false_accept_rate"]) == (None,) * 3
