"""Fields and filters of the API, each for what it says and no other."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from passreid.embed import Embedder
from passreid.errors import EmbeddingError, GalleryError, OutputError, PassreidError, UsageError
from passreid.images import ImageLimits
from passreid.server import engine as server_engine
from passreid.server.images import read_crops
from tests.server.conftest import Start, enrol, png

FILTERS = {"cameras": "camera", "people": "person", "tracklets": "tracklet", "sources": "source"}


def test_each_filter_chooses_by_its_own_field(client: TestClient) -> None:
    abouts = [{field: f"{field} {n}" for field in FILTERS.values()} for n in range(4)]
    ids = [line.get("id") for line in enrol(client, *range(4), about=abouts)]
    for n, (name, field) in enumerate(FILTERS.items()):
        value = f"{field} {n}"
        page = client.get("/v1/entries", params={name: value}).json()
        assert (page["count"], page["entries"][0][field]) == (1, value)
        found = client.post("/v1/search", files={"images": png(3)}, data={name: value}).json()
        assert found["searched"] == 4 - n
        for shown in (page["entries"], found["hits"]):
            assert [entry["id"] for entry in shown] == [ids[n]]
        assert client.post("/v1/forget", json={name: [value]}).json() == {"forgotten": 1}
    enrol(client, *range(4))
    assert client.post("/v1/forget", json={"ids": ids[1:3]}).json() == {"forgotten": 2}
    assert {e["id"] for e in client.get("/v1/entries").json()["entries"]} == {ids[0], ids[3]}


def test_an_entry_is_shown_with_its_hash_and_the_way_to_its_thumbnail(client: TestClient) -> None:
    enrol(client, 1)
    (entry,) = client.get("/v1/entries").json()["entries"]
    assert entry["content_hash"] == hashlib.sha256(png(1)).hexdigest()
    assert client.get(f"/{entry['thumbnail']}").headers["content-type"] == "image/jpeg"


@pytest.mark.parametrize(
    "said",
    [{"time": -1}, {"time": 1e12}, {"person": ""}, {"person": "x" * 201}, {"payload": [1]}],
)
def test_what_cannot_be_said_of_an_entry(client: TestClient, said: dict[str, Any]) -> None:
    entry = enrol(client, 1)[0]["id"]
    answer = client.patch(f"/v1/entries/{entry}", json=said)
    assert (answer.status_code, answer.json()["detail"].partition(":")[0]) == (422, *said)


def test_filters_and_pages_have_bounds(client: TestClient) -> None:
    for said in ({"people": ["p"] * 201}, {"since": "5"}):
        assert client.post("/v1/forget", json=said).status_code == 422
    for limit, status in ((1000, 200), (1001, 422)):
        assert client.get("/v1/entries", params={"limit": limit}).status_code == status


def test_hits_are_as_many_as_asked_for(client: TestClient) -> None:
    abouts = [{"camera": f"c{n % 2}"} for n in range(4)]
    ids = [line.get("id") for line in enrol(client, *range(4), about=abouts)]
    for more in ({}, {"cameras": "c1"}):  # with itself among the nearest, and without
        data = {"entry": ids[0], "top_k": 1} | more
        (hit,) = client.post("/v1/search", data=data).json()["hits"]
        assert hit["id"] != ids[0]


def test_several_pictures_are_searched_as_one_track(client: TestClient) -> None:
    enrol(client, 1, 2, 3)
    files = [("images", png(1)), ("images", png(2))]
    hits = client.post("/v1/search", files=files).json()["hits"]
    embedded = client.post("/v1/embed", files=files).json()["embeddings"]
    rows = [np.array(item["embedding"]) for item in embedded]
    one, two = (row / np.linalg.norm(row) for row in rows)
    mean = (one + two) / np.linalg.norm(one + two)
    found = sorted(hit["cosine"] for hit in hits)[-2:]
    assert found == pytest.approx(sorted([mean @ one, mean @ two]), abs=1e-3)
    assert max(found) < 0.999
    whole, boxed = (
        client.post("/v1/search", files={"images": png(1)}, data=data).json()["hits"]
        for data in ({}, {"box": "[0, 0, 20, 50]"})
    )
    assert boxed[0]["cosine"] < whole[0]["cosine"]


def test_requests_of_too_many_pictures_or_frames_are_refused(start: Start) -> None:
    client = start(max_files=2, max_pending=2)
    for route, field in (("search", "images"), ("embed", "images"), ("entries", "files")):
        several = [(field, (f"{n}.png", png(n))) for n in range(3)]
        assert client.post(f"/v1/{route}", files=several[:2]).status_code == 200
        answer = client.post(f"/v1/{route}", files=several)
        assert (answer.status_code, "At most 2 images" in answer.text) == (413, True)
    frames = [("images", png(1)), ("images", png(2))]
    for route, data in (
        ("search", {"box": "[0, 0, 9, 9]"}),
        ("embed", {"boxes": "[[0, 0, 9, 9]]"}),
    ):
        answer = client.post(f"/v1/{route}", files=frames, data=data)
        assert (answer.status_code, "to one frame; send one" in answer.text) == (422, True)
    crowd = {"boxes": json.dumps([[0, 0, 20, 50]] * 3)}
    assert client.post("/v1/embed", files=frames[:1], data=crowd).status_code == 429


def test_boxes_say_their_unit_on_every_route(client: TestClient) -> None:
    frame = png(1)  # 40 x 90
    routes = (
        ("embed", "images", "boxes"),
        ("search", "images", "box"),
        ("attention", "image", "box"),
    )
    for route, field, name in routes:
        answers = []
        for box, unit in (([10, 9, 30, 72], "xyxy"), ([0.25, 0.1, 0.5, 0.7], "xywhn")):
            value = json.dumps([box] if name == "boxes" else box)
            data = {name: value, "box_format": unit}
            answer = client.post(f"/v1/{route}", files={field: frame}, data=data)
            assert answer.status_code == 200, answer.text
            answers.append(answer.json())
        for key in answers[0].keys() - {"seconds", "embeddings"}:
            assert answers[0][key] == answers[1][key]
        if route == "embed":
            first, second = (answer["embeddings"][0]["embedding"] for answer in answers)
            assert first == pytest.approx(second, abs=1e-5)
        for box, unit, reason in (
            ([0.1, 0.2, 0.6, 0.95], "xyxy", "box_format='xyxyn'"),
            ([10, 9, 30, 72], "cxcywhn", "box_format='cxcywh'"),
            ([10, 9, 13, 72], "xyxy", "3 x 63 pixels"),
            ([30, 9, 10, 72], "xyxy", "box_format='xywh'"),
            ([10, 9, 30, 72], "corners", "box_format: "),
        ):
            value = json.dumps([box] if name == "boxes" else box)
            data = {name: value, "box_format": unit}
            answer = client.post(f"/v1/{route}", files={field: frame}, data=data)
            assert (answer.status_code, reason in answer.json()["detail"]) == (422, True), route


def test_embeddings_are_told_whose_they_are(client: TestClient, embedder: Embedder) -> None:
    boxes = [[0, 0, 20, 50], [5, 10, 40, 80]]
    files = {"images": ("frame.png", png(1))}
    answer = client.post("/v1/embed", files=files, data={"boxes": json.dumps(boxes)}).json()
    assert [item["box"] for item in answer["embeddings"]] == boxes
    assert [item["source"] for item in answer["embeddings"]] == ["frame.png"] * 2
    assert (answer["dim"], answer["model"]) == (embedder.dim, client.app.state.engine.identity)  # type: ignore[attr-defined]


def test_pictures_without_a_name_are_numbered(client: TestClient) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="images"; filename=""\r\n\r\n'
    content = b"".join(head + png(n) + b"\r\n" for n in (1, 2)) + b"--x--\r\n"
    send = {"content-type": "multipart/form-data; boundary=x"}
    answer = client.post("/v1/embed", content=content, headers=send).json()
    assert [item["source"] for item in answer["embeddings"]] == ["picture 0", "picture 1"]


def test_two_people_are_compared(client: TestClient, embedder: Embedder) -> None:
    first, second = embedder([png(1), png(2)])
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    answer = client.post("/v1/compare", files={"a": png(1), "b": png(2)}).json()
    assert answer["cosine"] == pytest.approx(float(cosine), abs=1e-4)


def test_the_service_says_what_it_is_and_allows(start: Start, embedder: Embedder) -> None:
    limits = ImageLimits(max_bytes=9000, max_pixels=1000)
    client = start(limits=limits, max_request_bytes=20_000, max_files=3, retention_days=5)
    told = client.get("/v1/info").json()
    wanted = {"file_bytes": 9000, "request_bytes": 20_000, "pixels": 1000, "files": 3}
    assert (told["limits"], told["retention_days"]) == (wanted, 5)
    model = told["model"]
    assert (model["height"], model["width"]) == embedder.card.architecture.image_size
    known = embedder.calibration
    assert known is not None
    assert told["calibration"]["points"] == [vars(point) for point in known.points]


def test_no_probability_of_embeddings_that_were_not_calibrated(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = client.app.state.engine  # type: ignore[attr-defined]
    monkeypatch.setattr(engine, "embedder", replace(engine.embedder, flip=True))
    assert client.get("/v1/info").json()["calibration"] is None


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (GalleryError("as it is said"), 503),
        (OutputError("as it is said"), 503),
        (EmbeddingError("as it is said"), 500),
        (UsageError("as it is said"), 422),
    ],
)
def test_errors_are_answered_by_their_kind_and_logged_where_they_are_ours(
    client: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: PassreidError,
    status: int,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(client.app.state.engine.gallery, "page", fails)  # type: ignore[attr-defined]
    answer = client.get("/v1/entries")
    assert (answer.status_code, answer.json()["detail"]) == (status, "as it is said")
    assert ("GET /v1/entries" in caplog.text) is (status >= 500)


def test_pictures_that_take_too_long_end_in_429_and_readiness_tells(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start(decode_timeout_s=0.1)
    ends, decode = threading.Event(), read_crops

    def slow(file: Any, name: str, **options: Any) -> Any:
        if name == "slow.png":
            assert ends.wait(60)
        return decode(file, name, **options)

    monkeypatch.setattr(server_engine, "read_crops", slow)

    def ask(name: str) -> Any:
        return client.post("/v1/embed", files={"images": (name, png(1))})

    first = ask("slow.png")
    assert (first.status_code, client.get("/readyz").status_code) == (422, 200)
    assert ask("quick.png").status_code == 200  # one of two threads is left
    assert ask("slow.png").status_code == 422
    answer = client.get("/readyz")
    assert (answer.status_code, "Every decoder is busy" in answer.text) == (503, True)
    assert client.get("/healthz").status_code == 200
    for route, field in (("embed", "images"), ("search", "images"), ("attention", "image")):
        answer = client.post(f"/v1/{route}", files={field: ("quick.png", png(1))})
        assert (answer.status_code, int(answer.headers["retry-after"])) == (429, 1)
    stream = client.post("/v1/entries", files={"files": ("quick.png", png(1))}).text
    (last,) = map(json.loads, stream.splitlines())
    assert (last["event"], last["reason"][:23], last["skipped"]) == (
        "stopped",
        "The service is busy; re",
        0,
    )
    ends.set()
    until = time.monotonic() + 60
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert ask("quick.png").status_code == 200


def test_a_gallery_that_does_not_answer_is_not_ready(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = client.app.state.engine  # type: ignore[attr-defined]
    answers = threading.Event()

    def hang() -> int:
        answers.wait(60)
        return 0

    monkeypatch.setattr(server_engine, "_READY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(engine.gallery, "count", hang)
    answer = client.get("/readyz")
    assert (answer.status_code, "did not answer within 0.05 s" in answer.text) == (503, True)
    answers.set()


BOMBS = {
    "list": b'{"ids": [' + b'"x",' * 300_000 + b'"x"]}',
    "text": b'{"people": ["' + b"x" * 1_100_000 + b'"]}',
    "nested": b'{"payload": ' + b"[" * 550_000 + b"]" * 550_000 + b"}",
    "space": b'{"everything": true' + b" " * 1_100_000 + b"}",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_bodies_without_pictures_are_bounded(client: TestClient, bomb: bytes) -> None:
    entry = enrol(client, 1)[0]["id"]
    send = {"content-type": "application/json"}
    for method, path in (("POST", "/v1/forget"), ("PATCH", f"/v1/entries/{entry}")):
        for content in (bomb, iter([bomb[:5_000], bomb[5_000:]])):
            answer = client.request(method, path, content=content, headers=send)
            assert (answer.status_code, "longer than 1,048,576" in answer.text) == (413, True)
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = client.post("/v1/search", content=b"people=" + bomb, headers=form)
    assert answer.status_code == 413
    assert client.get("/v1/entries").json()["count"] == 1


def test_as_many_ids_as_allowed_fit_into_a_body(client: TestClient) -> None:
    ids = [str(uuid.uuid4()) for _ in range(10_000)]
    assert client.post("/v1/forget", json={"ids": ids}).json() == {"forgotten": 0}


def test_a_payload_is_bounded_wherever_it_is_given(client: TestClient) -> None:
    fits, room = {"note": ""}, 256 * 2**10
    fits["note"] = "ä" * ((room - len(json.dumps(fits))) // 2)
    large = {"note": fits["note"] + "xx"}
    entry = enrol(client, 1, about={"payload": fits})[0]["id"]
    assert client.get(f"/v1/entries/{entry}").json()["payload"] == fits
    files = [("files", ("2.png", png(2)))]
    for about in ({"payload": large}, [{"payload": large}], {"payload": {"list": [0] * 100_000}}):
        answer = client.post("/v1/entries", files=files, data={"about": json.dumps(about)})
        said = answer.json()["detail"]
        assert (answer.status_code, "must be at most 262,144 bytes as JSON" in said) == (422, True)
    answer = client.patch(f"/v1/entries/{entry}", json={"payload": large})
    assert (answer.status_code, "payload: must be at most" in answer.json()["detail"]) == (
        422,
        True,
    )
    assert client.patch(f"/v1/entries/{entry}", json={"payload": fits}).status_code == 200
    assert client.get("/v1/entries").json()["count"] == 1


def test_a_picture_that_takes_too_long_is_refused(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start(decode_timeout_s=0.05)
    monkeypatch.setattr(server_engine, "read_crops", lambda *_, **__: time.sleep(0.5))
    answer = client.post("/v1/embed", files={"images": ("slow.png", png(1))})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("slow.png: takes longer than 0.05 s to decode")
