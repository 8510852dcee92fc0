"""The API, asked as a client asks it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import Request, UploadFile
from starlette.testclient import TestClient

from passreid.embed import Embedder, load
from passreid.errors import OutputError
from passreid.gallery import Entry
from passreid.server import routes_enrol
from passreid.server.audit import AuditLog
from passreid.server.requests import About
from passreid.server.settings import Settings
from tests.server.conftest import enrol, png


def test_embeddings_are_those_of_the_embedder(client: TestClient, embedder: Embedder) -> None:
    files = [("images", (f"{seed}.png", png(seed))) for seed in (1, 2)]
    answer = client.post("/v1/embed", files=files).json()
    rows = [item["embedding"] for item in answer["embeddings"]]
    np.testing.assert_allclose(rows, embedder([png(1), png(2)]), atol=1e-5)


def test_boxes_of_a_frame_are_those_of_the_embedder(client: TestClient, embedder: Embedder) -> None:
    boxes: list[list[float]] = [[0, 0, 20, 50], [5.4, 10, 90, 80]]
    data = {"boxes": json.dumps(boxes)}
    answer = client.post("/v1/embed", files={"images": ("f.png", png(1))}, data=data).json()
    rows = [item["embedding"] for item in answer["embeddings"]]
    np.testing.assert_allclose(rows, embedder.boxes(png(1), boxes), atol=1e-5)


def test_enrolment_tells_of_each_file_and_is_idempotent(client: TestClient) -> None:
    files = [("files", ("a.png", png(1))), ("files", ("bad.jpg", b"no"))]
    answer = client.post("/v1/entries", files=files)
    first, second, last = map(json.loads, answer.text.splitlines())
    assert first["event"] == "added" and second["event"] == "skipped"
    assert "is not a JPEG" in second["reason"]
    assert last == {"event": "done", "added": 1, "known": 0, "skipped": 1}
    again = enrol(client, 1)
    assert again[0] == {"event": "known", "index": 0, "source": "1.png", "id": first["id"]}


def test_search_by_picture_and_by_entry_with_filters(client: TestClient) -> None:
    abouts = [{"camera": f"c{i % 2}", "person": f"p{i // 2}", "time": 1.6e9 + i} for i in range(6)]
    ids = [line.get("id") for line in enrol(client, *range(6), about=abouts)]
    hits = client.post("/v1/search", files={"images": png(2)}).json()["hits"]
    assert hits[0]["id"] == ids[2] and hits[0]["cosine"] > 0.999 and hits[0]["probability"] > 0.9
    assert (hits[0]["band"], hits[0]["is_bound"]) == ("strong", True)
    assert hits[0]["expected_strangers"] == pytest.approx(6 * hits[0]["false_match_rate"])
    filtered = client.post("/v1/search", files={"images": png(2)}, data={"not_cameras": "c0"})
    assert {hit["camera"] for hit in filtered.json()["hits"]} == {"c1"}
    late = client.post(
        "/v1/search",
        files={"images": png(2)},
        data={"since": 1600000003, "until": "2020-09-13T12:26:45Z"},
    )
    assert {hit["id"] for hit in late.json()["hits"]} == set(ids[3:5])
    grouped = client.post("/v1/search", files={"images": png(2)}, data={"group_by": "person"})
    assert sorted(hit["group"] for hit in grouped.json()["hits"]) == ["p0", "p1", "p2"]
    others = client.post("/v1/search", data={"entry": ids[2]}).json()["hits"]
    assert len(others) == 5 and ids[2] not in [hit["id"] for hit in others]
    boxed = client.post("/v1/search", data={"entry": ids[2], "box": "[0, 0, 9, 9]"})
    assert (boxed.status_code, boxed.json()["detail"][:5]) == (422, "box: ")
    grouped = client.post("/v1/search", data={"entry": ids[2], "group_by": "person"}).json()["hits"]
    assert {hit["group"]: hit["id"] for hit in grouped}["p1"] == ids[3]
    assert len(grouped) == 3
    sure = client.post("/v1/search", files={"images": png(2)}, data={"min_score": 0.999})
    assert [hit["id"] for hit in sure.json()["hits"]] == [ids[2]]


def test_entries_are_listed_shown_changed_and_forgotten(client: TestClient) -> None:
    ids = [line["id"] for line in enrol(client, 1, 2, 3)[:3]]
    page = client.get("/v1/entries", params={"limit": 2}).json()
    rest = client.get("/v1/entries", params={"limit": 2, "after": page["next"]}).json()
    assert {each["id"] for each in page["entries"] + rest["entries"]} == set(ids)
    assert page["count"] == 3 and rest["next"] is None
    assert client.get("/v1/entries", params={"after": ""}).status_code == 422
    thumbnail = client.get(f"/v1/entries/{ids[0]}/thumbnail")
    assert thumbnail.content.startswith(b"\xff\xd8") and thumbnail.headers["content-type"]
    assert thumbnail.headers["cache-control"] == "no-store"  # forgotten is forgotten
    changed = client.patch(f"/v1/entries/{ids[0]}", json={"person": "Ada"}).json()
    assert changed["person"] == "Ada"
    client.patch(f"/v1/entries/{ids[0]}", json={"camera": "door", "payload": {"a": 1}})
    cleared = {"person": None, "payload": None}
    changed = client.patch(f"/v1/entries/{ids[0]}", json=cleared).json()
    assert (changed["person"], changed["payload"], changed["camera"]) == (None, {}, "door")
    assert changed["time"] is not None
    assert client.delete(f"/v1/entries/{ids[0]}").json() == {"forgotten": 1}
    assert client.get(f"/v1/entries/{ids[0]}").status_code == 404
    assert client.delete(f"/v1/entries/{ids[0]}").status_code == 404
    assert client.post("/v1/forget", json={}).status_code == 422
    assert client.post("/v1/forget", json={"everything": 1}).status_code == 422
    assert client.post("/v1/forget", json={"everything": True}).json() == {"forgotten": 2}


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({}, "exactly one"),
        ({"entry": "no"}, "entry"),
        ({"top_k": "0"}, "top_k: "),
        ({"top_k": "501"}, "top_k: "),
        ({"top_k": "0", "min_score": "2"}, "(and 1 more)."),
        ({"a\nb" + "x" * 200: "1"}, f"a?b{'x' * 97}: is not a field"),
        ({"min_score": "nan"}, "min_score"),
        ({"box": "[1, 2, 3, 4], [1, 2, 3, 4]"}, "box: "),
        ({"box": "[1, 2, 3]"}, "box.3: "),
    ],
)
def test_bad_searches_are_problems(client: TestClient, data: dict[str, str], word: str) -> None:
    files = {"images": png(1)} if "box" in data else None
    answer = client.post("/v1/search", data=data, files=files)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert word in answer.json()["detail"]


@pytest.mark.parametrize("route", ["search", "entries", "embed", "compare", "attention"])
def test_unknown_form_fields_are_rejected(client: TestClient, route: str) -> None:
    """A misspelt filter would let every entry through."""
    files = {"images": png(1), "files": png(1), "image": png(1), "a": png(1), "b": png(1)}
    wanted = {"search": ["images"], "entries": ["files"], "embed": ["images"]}
    wanted |= {"compare": ["a", "b"], "attention": ["image"]}
    sent = {name: files[name] for name in wanted[route]}
    answer = client.post(f"/v1/{route}", files=sent, data={"camera": "door"})
    assert answer.status_code == 422
    expected = "camera: is not a field of this request; /docs lists its fields."
    assert answer.json()["detail"] == expected
    name = wanted[route][0]
    answer = client.post(f"/v1/{route}?{name}=x", files=sent)
    assert answer.json()["detail"] == f"'{name}' belongs in the form, not in the address."
    if route != "attention":
        assert client.post(f"/v1/{route}", files=sent).status_code == 200
        answer = client.post(f"/v1/{route}", data=dict.fromkeys(sent, "text"))
        assert "must be a file, not text" in answer.json()["detail"]


@pytest.mark.parametrize("said", ["2026", True])
def test_a_time_is_a_number(client: TestClient, said: Any) -> None:
    (line, _) = enrol(client, 1)
    answer = client.patch(f"/v1/entries/{line['id']}", json={"time": said})
    assert answer.status_code == 422
    data = {"about": json.dumps({"time": said})}
    answer = client.post("/v1/entries", files={"files": png(2)}, data=data)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("about.time: ")


def test_an_enrolment_that_fails_says_so_on_its_last_line(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = client.app.state.engine  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        patched.setattr(engine.gallery, "add", lambda entries: 1 / 0)
        (last,) = enrol(client, 1)
    assert (last["event"], last["added"]) == ("stopped", 0)
    assert "Internal error" in last["reason"]
    full = OutputError("people.gallery: the disk is full")
    monkeypatch.setattr(engine.gallery, "_connected", lambda: (_ for _ in ()).throw(full))
    (last,) = enrol(client, 1)
    assert (last["event"], last["reason"]) == ("stopped", str(full))


def test_payloads_that_json_cannot_carry_are_refused(client: TestClient) -> None:
    deep = '{"payload": ' + '{"a": ' * 150 + "1" + "}" * 151
    large = f'{{"payload": {{"n": {10**30}}}}}'
    half = '{"payload": {"a": "\\ud800"}}'
    for about in ('{"payload": {"a": NaN}}', half, "[", '{"x": 1}', deep, large):
        files = {"files": ("a.png", png(1))}
        assert client.post("/v1/entries", files=files, data={"about": about}).status_code == 422


def test_the_audit_log_says_what_was_done_without_pictures(
    client: TestClient, tmp_path: Path
) -> None:
    entry = enrol(client, 1)[0]["id"]
    client.post("/v1/search", data={"entry": entry, "not_cameras": "c"})
    client.patch(f"/v1/entries/{entry}", json={})
    client.patch(f"/v1/entries/{entry}", json={"person": "Ada"})
    client.delete(f"/v1/entries/{entry}")
    client.patch(f"/v1/entries/{entry}", json={"person": "Ada"})
    client.post("/v1/forget", json={"people": ["Ada"]})
    text = (tmp_path / "audit.jsonl").read_text()
    told = [json.loads(line) for line in text.splitlines()]
    actions = ["enrol", "enrolled", "search", "update", "forget", "forget"]
    assert [line["action"] for line in told] == actions
    assert (told[2]["filter"], told[2]["hits"]) == ({"not_cameras": ["c"]}, 0)
    assert (told[3]["ids"], told[3]["fields"]) == ([entry], ["person"])
    assert (told[4]["ids"], told[5]["filter"]) == ([entry], {"people": ["Ada"]})
    assert len(text) < 2000 and (tmp_path / "audit.jsonl").stat().st_mode & 0o77 == 0


def test_who_goes_in_the_middle_of_an_enrolment_is_recorded(
    client: TestClient, tmp_path: Path
) -> None:
    scope = {"type": "http", "app": client.app, "client": ("10.0.0.9", 1)}
    request = Request(scope | {"state": {"request_id": "gone"}})
    files = [(UploadFile(io.BytesIO(png(1))), About.model_validate({}))] * 9

    async def go_after_one_line() -> str:
        lines = routes_enrol.stream(request, files, True)
        first = await anext(lines)
        await lines.aclose()
        return first

    assert client.portal is not None
    line = json.loads(client.portal.call(go_after_one_line))
    (told,) = map(json.loads, (tmp_path / "audit.jsonl").read_text().splitlines())
    assert (told["action"], told["client"], told["added"]) == ("enrolled", "10.0.0.9", 1)
    assert line["id"] in told["ids"]


def test_who_goes_while_an_entry_is_written_is_recorded_with_it(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = client.app.state.engine  # type: ignore[attr-defined]
    scope = {"type": "http", "app": client.app, "client": ("10.0.0.9", 1)}
    request = Request(scope | {"state": {"request_id": "gone"}})
    begun, gone, written = threading.Event(), threading.Event(), threading.Event()
    real = engine.gallery.add

    def slow(entries: list[Entry]) -> Any:
        begun.set()
        gone.wait(60)
        added = real(entries)
        written.set()
        return added

    async def go() -> None:
        files = [(UploadFile(io.BytesIO(png(1))), About.model_validate({}))]
        line = asyncio.ensure_future(anext(routes_enrol.stream(request, files, True)))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        line.cancel()
        await asyncio.wait([line])
        gone.set()

    monkeypatch.setattr(engine.gallery, "add", slow)
    assert client.portal is not None
    client.portal.call(go)
    assert written.wait(60)
    (there,) = client.get("/v1/entries").json()["entries"]
    (told,) = map(json.loads, (tmp_path / "audit.jsonl").read_text().splitlines())
    assert told["ids"] == [there["id"]]


def test_an_audit_line_is_whole_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = AuditLog(tmp_path / "a.jsonl")
    real, room = os.write, [7, 5]

    def short(file: int, data: bytes) -> int:
        return real(file, data[: room.pop()]) if room else real(file, data)

    monkeypatch.setattr(os, "write", short)
    audit.write("search", client="c", request="r")
    audit.close()
    assert json.loads((tmp_path / "a.jsonl").read_text())["request"] == "r"


def test_a_wrong_method_is_told_all_right_ones(client: TestClient) -> None:
    (entry,) = [line["id"] for line in enrol(client, 1) if "id" in line]
    for path, methods in (("", "GET, POST"), (f"/{entry}", "DELETE, GET, PATCH")):
        answer = client.put(f"/v1/entries{path}")
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)
        assert answer.json()["detail"] == f"This address accepts {methods} only."
    answer = client.post("/v1/forget", content="{", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["detail"]) == (422, "The body is not valid JSON.")


def test_what_is_wrong_with_a_description_is_said_where_it_is(client: TestClient) -> None:
    files = [("files", ("1.png", png(1)))]
    for about, said in (
        ('"x"', "about: "),
        ('{"camera": 3}', "about.camera: "),
        ("7", "about: "),
        ('{"payload": {"x": NaN}}', "about.payload: must be plain JSON"),
    ):
        answer = client.post("/v1/entries", files=files, data={"about": about})
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith(said), answer.text
    entry = "00000000-0000-0000-0000-000000000000"
    answer = client.patch(f"/v1/entries/{entry}", json={"payload": {"x": 2**64}})
    assert answer.json()["detail"].startswith("payload: must be plain JSON"), answer.text


def test_forgetting_takes_no_other_type_for_a_time(client: TestClient) -> None:
    enrol(client, 1)
    for said in (True, "9e9"):
        assert client.post("/v1/forget", json={"until": said}).status_code == 422
    assert client.get("/v1/info").json()["gallery"]["count"] == 1
    assert client.post("/v1/forget", json={"until": 9_000_000_000}).json() == {"forgotten": 1}


def test_the_page_and_the_description_are_served(client: TestClient) -> None:
    assert "<h1>passreid</h1>" in client.get("/").text
    for name in (
        "page.js",
        "cards.js",
        "api.js",
        "query.js",
        "looks.js",
        "enrol.js",
        "labels.js",
        "page.css",
    ):
        assert client.get(f"/page/{name}").status_code == 200
    assert client.get("/redoc").status_code == 404
    assert client.get("/nope").json()["detail"].startswith("There is nothing at this address")
    schema = client.get("/openapi.json").json()
    assert not schema["components"]["schemas"].keys() & {"HTTPValidationError", "ValidationError"}
    for model in schema["components"]["schemas"].values():
        fields = model.get("properties", {}).values()
        assert all("description" in field or "$ref" in field for field in fields), model["title"]


def test_settings_that_would_never_work_are_refused() -> None:
    from passreid.errors import UsageError

    never: list[dict[str, Any]] = [{"retention_days": days} for days in (0, float("nan"), 1e300)]
    never += [{"token": token} for token in ("a" * 15, "é" * 16, "a b" * 16)]
    for wrong in (*never, {"max_pending": 1}, {"max_files": 0}, {"host": "0.0.0.0"}):
        with pytest.raises(UsageError):
            Settings(**wrong)
    assert Settings(host="[::1]", max_pending=64, max_files=64).local
    assert not Settings(host="10.0.0.9", token="a" * 16).local


def test_attention_of_a_picture_a_box_and_an_entry(client: TestClient, embedder: Embedder) -> None:
    answer = client.post("/v1/attention", files={"image": png(1)}).json()
    maps = np.array([look["grid"] for look in answer["tokens"]])
    np.testing.assert_allclose(maps, embedder.attend(png(1))[0], atol=1e-6)
    assert maps.shape[1:] == (answer["rows"], answer["columns"])
    assert [look["token"] for look in answer["tokens"]][:2] == ["CLS", "part 1"]
    data = {"box": "[0, 0, 20, 50]"}
    boxed = client.post("/v1/attention", files={"image": png(1)}, data=data).json()
    assert boxed["tokens"] != answer["tokens"]
    entry = enrol(client, 1)[0]["id"]
    kept = client.post("/v1/attention", data={"entry": entry}).json()
    np.testing.assert_allclose(np.sum([look["grid"] for look in kept["tokens"]]), len(maps), 1e-4)
    for wrong in ({}, {"entry": entry, "box": "[0, 0, 9, 9]"}):
        assert client.post("/v1/attention", data=wrong).status_code == 422


def test_a_model_without_an_attention_graph_says_so(client: TestClient, tmp_path: Path) -> None:
    engine = client.app.state.engine  # type: ignore[attr-defined]
    assert client.get("/v1/info").json()["model"]["attention"] is True
    for file in engine.embedder.source.iterdir():
        if file.name != "attention.onnx":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    engine.embedder = load(tmp_path)
    assert client.get("/v1/info").json()["model"]["attention"] is False
    answer = client.post("/v1/attention", files={"image": png(1)})
    assert answer.status_code == 404 and "passreid export" in answer.json()["detail"]
