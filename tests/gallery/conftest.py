"""A gallery of drawn entries on every engine there is."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from passreid.gallery import Gallery, open_gallery
from tests.gallery.drawn import DIM, MODEL, entries

ENGINES = ("file", "memory", "server")
"""SQLite; qdrant-client's own in memory; the server PASSREID_QDRANT_URL names."""


@contextmanager
def opened(engine: str, place: Path) -> Iterator[Gallery]:
    """Open an empty gallery."""
    if engine == "file":
        pytest.importorskip("faiss")
        with open_gallery(place, model=MODEL, dim=DIM, create=True) as gallery:
            yield gallery
        return
    client = pytest.importorskip("qdrant_client")
    if engine == "memory":
        from passreid.gallery.remote import RemoteGallery

        memory = client.QdrantClient(":memory:")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it has no index, and says so
            RemoteGallery.create(memory, "people", model=MODEL, dim=DIM)
            with RemoteGallery(memory, "people") as gallery:
                yield gallery
        return
    server = os.environ.get("PASSREID_QDRANT_URL")
    if not server:
        pytest.skip("PASSREID_QDRANT_URL names no Qdrant server")
    url = f"{server.rstrip('/')}/test-{uuid.uuid4().hex}"
    with open_gallery(url, model=MODEL, dim=DIM, create=True) as gallery:
        yield gallery
    from passreid.gallery.connection import address, connect

    connect(address(url), None).delete_collection(address(url).collection)


@pytest.fixture(params=ENGINES)
def everywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gallery]:
    """The gallery, one engine after the other."""
    if request.param == "server":
        request.getfixturevalue("socket_enabled")
    with opened(request.param, tmp_path / "g") as gallery:
        assert gallery.add(entries()) == (60, 0)
        yield gallery


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    """The gallery in a file."""
    with opened("file", tmp_path / "g") as gallery:
        assert gallery.add(entries()) == (60, 0)
        yield gallery
