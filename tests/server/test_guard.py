"""Who is let in, and how much."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from passreid.images import ImageLimits
from tests.server.conftest import Start, png

TOKEN = "a-token-that-is-long-enough"


def test_a_token_is_asked_for_everywhere_but_the_page_and_health(start: Start) -> None:
    client = start(host="0.0.0.0", token=TOKEN)
    assert client.get("/").status_code == 200
    assert client.get("/healthz").status_code == 200
    for path in ("/v1/info", "/metrics", "/v1/entries"):
        assert client.get(path).status_code == 401
        wrong = client.get(path, headers={b"Authorization": "Bearer é".encode("latin-1")})
        assert wrong.status_code == 401
        right = client.get(path, headers={"Authorization": f"Bearer {TOKEN}"})
        assert right.status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "[::1"}, 421),
        ({"host": "localhost:8008"}, 200),
        ({"host": "[::1]:8008"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_foreign_names_and_pages_are_refused(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    assert client.get("/v1/info", headers=headers).status_code == status


def test_allowed_names_are_those_of_any_case(start: Start) -> None:
    client = start(allowed_hosts=("ReID.example.org",))
    for host in ("reid.example.org", "REID.example.org:8008"):
        assert client.get("/v1/info", headers={"host": host}).status_code == 200


def test_every_answer_carries_the_security_headers(client: TestClient) -> None:
    for path in ("/", "/v1/info", "/nope"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


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


def test_a_full_house_is_told_when_to_come_back(client: TestClient) -> None:
    room = client.app.state.engine.room  # type: ignore[attr-defined]
    room.taken = room.places
    answer = client.post("/v1/search", files={"images": png(1)})
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
    assert client.get("/v1/info").status_code == 200
    room.taken = 0
    assert client.post("/v1/search", files={"images": png(1)}).status_code == 200


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
