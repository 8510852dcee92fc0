"""Who is let in, and how much."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import HTTPException
from starlette.testclient import TestClient

from passreid.images import ImageLimits
from passreid.server.guard import BodyLimiter, Guard, limit_body
from passreid.server.settings import Settings
from tests.server.conftest import Start, png

TOKEN = "a-token-that-is-long-enough"


def test_a_token_is_asked_for_everywhere_but_the_page_and_health(start: Start) -> None:
    client = start(host="0.0.0.0", token=TOKEN)
    for path in ("/", "/healthz", "/readyz", "/openapi.json", "/page/page.js"):
        assert client.get(path, headers={"host": "10.0.0.9"}).status_code == 200
    for path in ("/v1/info", "/metrics", "/v1/entries"):
        assert client.get(path).status_code == 401
        wrong = client.get(path, headers={b"Authorization": "Bearer é".encode("latin-1")})
        assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, "Bearer")
        assert client.get(path, headers={"Authorization": f"Basic {TOKEN}"}).status_code == 401
        for scheme in ("Bearer", "bearer"):
            right = client.get(path, headers={"Authorization": f"{scheme} {TOKEN}"})
            assert right.status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "[::1"}, 421),
        ({"host": "10.0.0.9"}, 421),
        ([("host", "127.0.0.1"), ("host", "evil.example")], 421),
        ({"host": "localhost:8008"}, 200),
        ({"host": "[::1]:8008"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1.evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_foreign_names_and_pages_are_refused(client: TestClient, headers: Any, status: int) -> None:
    assert client.get("/v1/info", headers=headers).status_code == status


def test_a_form_of_another_origin_is_refused(client: TestClient) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    answer = client.post("/v1/forget", headers=headers, json={"everything": True})
    assert answer.status_code == 403


def test_allowed_names_are_those_of_any_case(start: Start) -> None:
    client = start(allowed_hosts=("ReID.example.org",))
    for host in ("reid.example.org", "REID.example.org:8008"):
        assert client.get("/v1/info", headers={"host": host}).status_code == 200


def test_every_answer_carries_the_security_headers(client: TestClient) -> None:
    for path in ("/", "/v1/info", "/nope"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["permissions-policy"].startswith("camera=()")
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == ("no-cache" if path == "/" else "no-store")


def test_long_bodies_and_large_pictures_are_refused(start: Start) -> None:
    client = start(max_request_bytes=20_000, limits=ImageLimits(max_bytes=9000, max_pixels=1000))
    assert client.post("/v1/search", files={"images": b"x" * 30_000}).status_code == 413
    begin = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    chunked = client.post(
        "/v1/search",
        content=(begin if part == 0 else b"x" * 5000 for part in range(9)),
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert (chunked.status_code, "longer than" in chunked.json()["detail"]) == (413, True)
    assert "pixels" in client.post("/v1/search", files={"images": png(1)}).json()["detail"]


def test_a_body_may_be_as_long_as_it_may_be(start: Start) -> None:
    body = b'{"everything": true}'
    client = start(max_request_bytes=len(body))
    send = {"content-type": "application/json"}
    for content, status in ((body, 200), (body + b" ", 413)):
        assert client.post("/v1/forget", content=content, headers=send).status_code == status
        parts = iter([content[:5], content[5:]])
        assert client.post("/v1/forget", content=parts, headers=send).status_code == status
    odd = client.post("/v1/forget", content=body, headers=send | {"content-length": "many"})
    assert (odd.status_code, odd.json()["detail"]) == (400, "Content-Length is not a number.")


def test_a_body_may_take_as_long_as_it_may_take() -> None:
    messages: list[dict[str, Any]] = [{"body": b"x", "more_body": more} for more in (True, False)]

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        await asyncio.sleep(0.2)
        return {"type": "http.disconnect"}

    async def read(parts: int) -> Any:
        reading = limit_body(receive, 1000, 0.05)
        return [await reading() for _ in range(parts)][-1]

    assert asyncio.run(read(3)) == {"type": "http.disconnect"}  # all is there: no hurry
    messages.append({"body": b"x", "more_body": True})
    with pytest.raises(HTTPException, match=r"did not arrive within 0\.05 s") as refused:
        asyncio.run(read(2))
    assert refused.value.status_code == 408


def test_what_fails_after_its_first_byte_is_not_answered_twice() -> None:
    seen: list[Any] = []

    async def late(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("late")

    async def gone(*_: Any) -> None:
        return

    async def send(message: Any) -> None:
        seen.append(message["type"])

    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/"}
    scope["headers"] = [(b"host", b"localhost")]
    settings, room = Settings(), BodyLimiter(1, lambda: 1)

    def ask(app: Any) -> None:
        guard = Guard(
            app, settings=settings, bodies=room, observe=lambda _, status, __: seen.append(status)
        )
        asyncio.run(guard(dict(scope), gone, send))  # type: ignore[arg-type]

    with pytest.raises(RuntimeError, match="late"):
        ask(late)
    ask(gone)
    assert seen == ["http.response.start", 200, 499]


def test_a_full_house_is_told_when_to_come_back(start: Start) -> None:
    client = start(max_waiting=3)
    room = client.app.state.engine.bodies  # type: ignore[attr-defined]
    room.taken = 3
    answer = client.post("/v1/search", files={"images": png(1)})
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
    assert client.patch("/v1/entries/x", json={}).status_code == 429
    told = client.get("/metrics").text
    assert "passreid_requests_under_way 3.0" in told
    assert "passreid_requests_refused 2.0" in told
    room.taken = 2
    assert client.post("/v1/search", files={"images": png(1)}).status_code == 200
    assert room.taken == 2


def test_an_internal_error_is_counted_and_found_in_the_log(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("as the engine raises")

    gallery = client.app.state.engine.gallery  # type: ignore[attr-defined]
    monkeypatch.setattr(gallery, "page", fails)
    answer = client.get("/v1/entries")
    assert (answer.status_code, answer.json()["title"]) == (500, "Internal Server Error")
    assert "as the engine raises" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert f"(request {answer.headers['x-request-id']})" in caplog.text
    assert "as the engine raises" in caplog.text
    counted = 'passreid_requests_total{method="GET",route="/v1/entries",status="500"} 1.0'
    assert counted in client.get("/metrics").text
