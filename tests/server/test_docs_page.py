"""/docs: API documentation that loads nothing from other hosts."""

from __future__ import annotations

import re

from starlette.testclient import TestClient


def test_docs_list_every_route_and_field(client: TestClient) -> None:
    html = client.get("/docs").text
    schema = client.get("/openapi.json").json()
    for path, methods in schema["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in html
    for name, model in schema["components"]["schemas"].items():
        assert f'<h3 id="{name}">' in html
        assert all(f"<code>{field}</code>" in html for field in model.get("properties", {}))


def test_docs_load_nothing_from_other_hosts(client: TestClient) -> None:
    answer = client.get("/docs")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<script" not in answer.text and "//" not in answer.text.partition("<main>")[0]
    for address in re.findall(r'(?:src|href)="([^"#]+)"', answer.text):
        assert client.get(f"/{address}").status_code == 200


def test_links_in_docs_lead_somewhere(client: TestClient) -> None:
    html = client.get("/docs").text
    targets = set(re.findall(r'id="([^"]+)"', html))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= targets


def test_docs_need_no_token(start: object) -> None:
    client = start(host="0.0.0.0", token="a-token-that-is-long-enough")  # type: ignore[operator]
    assert client.get("/docs", headers={"host": "10.0.0.9"}).status_code == 200
