"""A gallery on a server: addresses, keys, retries, what is told apart from a gallery."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from passreid.errors import GalleryError, UsageError
from passreid.gallery import Entry, Where, open_gallery
from tests.gallery.drawn import DIM, MODEL, VECTORS, entries

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*local:UserWarning", "ignore:Local mode:UserWarning"
)
qdrant_client = pytest.importorskip("qdrant_client")
from qdrant_client.http.exceptions import (  # noqa: E402
    ResponseHandlingException,
    UnexpectedResponse,
)

from passreid.gallery import connection, remote  # noqa: E402
from passreid.gallery.points import INDEXED  # noqa: E402


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host:6333/people", ("http://host:6333", "people")),
        ("https://db.example.org/people/", ("https://db.example.org:6333", "people")),
        ("http://[::1]:7000/p", ("http://[::1]:7000", "p")),
    ],
)
def test_addresses(url: str, expected: tuple[str, str]) -> None:
    assert connection.address(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("http://host:6333", "http://host/a/b", "ftp://host/people"),
        *("http://k@host/p", "http://h/p?x", "http://h/p#x"),
    ],
)
def test_what_is_no_address_is_said(url: str) -> None:
    with pytest.raises(UsageError, match=r"write a server's gallery|only host, port and name"):
        open_gallery(url)


@pytest.mark.parametrize("url", ["http://host:99999/people", "http://host:x/p", "http://[::1/p"])
def test_a_port_or_host_that_cannot_be_is_said(url: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        open_gallery(url)


def test_a_key_does_not_travel_in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="a key needs https"):
        open_gallery("http://db.example.org/people", api_key="secret")
    monkeypatch.setenv("PASSREID_QDRANT_API_KEY", "secret")
    with pytest.raises(UsageError, match="a key needs https"):
        open_gallery("http://db.example.org/people")
    for host in ("localhost", "127.0.0.1", "[::1]"):
        connection.connect(connection.address(f"http://{host}:6333/people"), None).close()
    connection.connect(connection.address("https://db.example.org/people"), None).close()


def test_a_key_that_is_given_goes_before_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(connection, "QdrantClient", lambda **named: sent.append(named["api_key"]))
    monkeypatch.setenv("PASSREID_QDRANT_API_KEY", "of the environment")
    for key in ("given", None):
        connection.connect(connection.address("https://db.example.org/people"), key)
    assert sent == ["given", "of the environment"]


def refused(status: int) -> UnexpectedResponse:
    return UnexpectedResponse(status, "said so", b"", headers=qdrant_client_headers())


def qdrant_client_headers() -> Any:
    import httpx

    return httpx.Headers()


@pytest.mark.parametrize(
    ("failures", "calls", "message"),
    [
        ([refused(503), ResponseHandlingException(OSError("gone")), refused(429)], 4, None),
        ([refused(503)] * 9, 5, "answers 503"),
        ([ResponseHandlingException(OSError("gone"))] * 9, 5, "does not answer"),
        ([refused(403)], 1, "PASSREID_QDRANT_API_KEY"),
        ([refused(400)], 1, "answers 400"),
    ],
)
def test_what_may_pass_is_tried_again(
    failures: list[Exception], calls: int, message: str | None
) -> None:
    waiting, asked = list(failures), []

    def request() -> str:
        asked.append(1)
        if waiting:
            raise waiting.pop(0)
        return "done"

    if message is None:
        assert connection.repeated(request, "people", pause=0) == "done"
    else:
        with pytest.raises(GalleryError, match=message):
            connection.repeated(request, "people", pause=0)
    assert len(asked) == calls


def test_pauses_double_and_none_follows_the_last_try(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("random.uniform", lambda low, high: high)

    def request() -> None:
        raise refused(502)

    with pytest.raises(GalleryError, match="answers 502"):
        connection.repeated(request, "people")
    assert slept == pytest.approx([0.2, 0.4, 0.8, 1.6])


def test_a_collection_of_others_is_refused_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    client = qdrant_client.QdrantClient(":memory:")
    with pytest.raises(GalleryError, match="no such gallery"):
        remote.RemoteGallery(client, "people")
    vectors = qdrant_client.models.VectorParams(size=4, distance="Dot")
    client.create_collection("people", vectors)
    monkeypatch.setattr(client, "create_payload_index", pytest.fail)
    for use in (remote.RemoteGallery, partial(remote.RemoteGallery.create, model=MODEL, dim=4)):
        with pytest.raises(GalleryError, match="is no gallery of passreid"):
            use(client, "people")


def test_read_only_and_thumbnails() -> None:
    client = qdrant_client.QdrantClient(":memory:")
    remote.RemoteGallery.create(client, "people", model=MODEL, dim=DIM)
    remote.RemoteGallery.create(client, "people", model="another is not made", dim=3)
    gallery = remote.RemoteGallery(client, "people")
    gallery.add([Entry(content_hash="x", embedding=VECTORS[0], thumbnail=b"\xff\xd8")])
    assert gallery.page().entries[0].thumbnail is None
    (kept,) = gallery.get([entry.id for entry in gallery.page().entries])
    assert kept.thumbnail == b"\xff\xd8"
    assert gallery.search(VECTORS[0])[0].entry.thumbnail is None
    info = gallery.info()
    assert (info.count, info.dim, info.model, info.engine) == (1, DIM, MODEL, "qdrant")
    reader = remote.RemoteGallery(client, "people", read_only=True)
    changes = (
        lambda: reader.add(entries()),
        lambda: reader.remove(Where()),
        lambda: reader.update([kept.id], camera="x"),
        reader.compact,
    )
    for change in changes:
        with pytest.raises(GalleryError, match="read-only"):
            change()
    assert not gallery.to_compact()
    assert gallery.remove(Where(), everything=True) == 1
    assert gallery.count() == 0
    assert gallery.to_compact()
    gallery.compact()
    assert not gallery.to_compact()


def test_what_is_acknowledged_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    client = qdrant_client.QdrantClient(":memory:")
    remote.RemoteGallery.create(client, "people", model=MODEL, dim=DIM)
    gallery, waited = remote.RemoteGallery(client, "people"), []
    for name in ("upsert", "set_payload", "delete"):
        real = getattr(client, name)

        def watched(*given: Any, wait: bool, real: Any = real) -> Any:
            waited.append(wait)
            return real(*given, wait=wait)

        monkeypatch.setattr(client, name, watched)
    gallery.add(entries())
    gallery.update([entries()[0].id], person="found")
    gallery.remove(Where(people=("found",)))
    assert waited == [True] * 3


def test_searches_are_exact_where_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    client = qdrant_client.QdrantClient(":memory:")
    remote.RemoteGallery.create(client, "people", model=MODEL, dim=DIM)
    gallery, real = remote.RemoteGallery(client, "people"), client.query_points
    asked: list[bool] = []

    def watched(*given: Any, search_params: Any, **named: Any) -> Any:
        assert search_params.hnsw_ef == 256
        asked.append(search_params.exact)
        return real(*given, search_params=search_params, **named)

    monkeypatch.setattr(client, "query_points", watched)
    for where in (None, Where(cameras=("c1",))):
        for exact in (None, True):
            gallery.search(VECTORS[0], where=where, exact=exact)
    assert asked == [False, True, False, True]


def test_a_layout_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from passreid.gallery import Layout

    client, asked = qdrant_client.QdrantClient(":memory:"), []
    real = client.create_collection

    def watched(name: str, vectors: Any, **options: Any) -> Any:
        asked.append({"vectors": vectors, **options})
        return real(name, vectors, **options)

    monkeypatch.setattr(client, "create_collection", watched)
    layout = Layout(shards=6, replicas=2)
    remote.RemoteGallery.create(client, "people", model=MODEL, dim=DIM, layout=layout)
    (told,) = asked
    assert (told["shard_number"], told["replication_factor"]) == (6, 2)
    assert told["write_consistency_factor"] == 2
    assert told["vectors"].datatype == "float16"


def test_a_gallery_whose_making_was_cut_short_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    client = qdrant_client.QdrantClient(":memory:")
    made: list[str] = []

    def make_index(name: str, field: str, kind: Any, wait: bool) -> None:
        if len(made) == 3:
            made.append("")
            raise KeyboardInterrupt
        made.append(field)

    real = client.get_collection

    def told(name: str) -> Any:
        return real(name).model_copy(update={"payload_schema": dict.fromkeys(filter(None, made))})

    monkeypatch.setattr(client, "create_payload_index", make_index)
    monkeypatch.setattr(client, "get_collection", told)
    with pytest.raises(KeyboardInterrupt):
        remote.RemoteGallery.create(client, "people", model=MODEL, dim=DIM)
    for _ in range(2):
        remote.RemoteGallery.create(client, "people", model=MODEL, dim=DIM)
    made.remove("")
    assert sorted(made) == sorted({"time", *INDEXED})


def test_a_gallery_that_another_process_makes_first_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = qdrant_client.QdrantClient(":memory:")
    real = client.create_collection

    def made_twice(*arguments: Any, **named: Any) -> None:
        real(*arguments, **named)
        raise refused(409)

    monkeypatch.setattr(client, "create_collection", made_twice)
    remote.RemoteGallery.create(client, "people", model=MODEL, dim=DIM)
    assert remote.RemoteGallery(client, "people").model == MODEL


def test_a_gallery_that_cannot_be_made_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    client = qdrant_client.QdrantClient(":memory:")

    def refuse(*_: Any, **__: Any) -> None:
        raise refused(400)

    monkeypatch.setattr(client, "create_collection", refuse)
    with pytest.raises(GalleryError, match="answers 400"):
        remote.RemoteGallery.create(client, "people", model=MODEL, dim=DIM)


def test_a_file_has_no_shards(tmp_path: Any) -> None:
    from passreid.gallery import Layout

    for layout in (Layout(shards=2), Layout(replicas=2)):
        with pytest.raises(UsageError, match="shards and replicas are for a gallery on a server"):
            open_gallery(tmp_path / "g", model=MODEL, dim=DIM, create=True, layout=layout)
    assert not (tmp_path / "g").exists()


def test_a_layout_that_a_gallery_has_not_is_refused(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from passreid.gallery import Layout

    make = partial(open_gallery, model=MODEL, dim=DIM, create=True)
    pytest.importorskip("faiss")
    make(tmp_path / "g").close()
    make(tmp_path / "g", layout=Layout()).close()

    client = qdrant_client.QdrantClient(":memory:")
    monkeypatch.setattr(client, "close", lambda: None)
    monkeypatch.setattr(connection, "connect", lambda *_: client)
    real = client.get_collection

    def as_a_server_tells(name: str) -> Any:
        told = real(name)
        told.config.params.shard_number, told.config.params.replication_factor = 6, 2
        return told

    monkeypatch.setattr(client, "get_collection", as_a_server_tells)
    url = "http://host/people"
    make(url, layout=Layout(shards=6, replicas=2)).close()
    make(url).close()
    for layout, said in (
        (Layout(shards=12), "with 6 shards, not 12,"),
        (Layout(replicas=3), "with 2 replicas, not 3,"),
    ):
        with pytest.raises(GalleryError, match=f"was made {said} and stays so"):
            make(url, layout=layout)


def test_a_collection_that_does_not_name_its_model_is_refused() -> None:
    client = qdrant_client.QdrantClient(":memory:")
    vectors = qdrant_client.models.VectorParams(size=4, distance="Dot")
    wrong: list[dict[str, Any]] = [{}, {"model": ""}, {"model": 3}]
    for n, more in enumerate(wrong):
        client.create_collection(f"c{n}", vectors, metadata={"passreid_format": 1} | more)
        with pytest.raises(GalleryError, match="does not say whose embeddings it holds"):
            remote.RemoteGallery(client, f"c{n}")


@pytest.mark.parametrize(
    "held",
    [{}, {"content_hash": "x", "time": "noon"}, {"content_hash": "x", "mood": "good"}],
)
def test_points_that_others_wrote_are_told_in_a_sentence(held: dict[str, Any]) -> None:
    client = qdrant_client.QdrantClient(":memory:")
    remote.RemoteGallery.create(client, "people", model=MODEL, dim=DIM)
    id = entries()[0].id
    point = qdrant_client.models.PointStruct(id=id, vector=VECTORS[0].tolist(), payload=held)
    client.upsert("people", [point])
    gallery = remote.RemoteGallery(client, "people")
    for ask in (gallery.page, lambda: gallery.search(VECTORS[0]), lambda: gallery.get([id])):
        with pytest.raises(GalleryError, match=f"entry {id} on the server is not as passreid"):
            ask()
