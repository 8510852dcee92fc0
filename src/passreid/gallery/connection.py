"""The way to a Qdrant server: where it is, a client of it, requests that are tried again."""

from __future__ import annotations

import os
import random
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from passreid.errors import GalleryError, UsageError

_TRIES = 5
_T = TypeVar("_T")


class Address(NamedTuple):
    """Where a collection is: the server's address, and its name there."""

    server: str
    collection: str


def address(url: str) -> Address:
    """Take ``http(s)://host:port/collection`` apart.

    Raises:
        UsageError: It is none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 6333
    except ValueError as error:
        raise UsageError(f"{url}: is no address ({error}).") from None
    name = parts.path.strip("/")
    if parts.scheme not in ("http", "https") or not parts.hostname or not name or "/" in name:
        raise UsageError(f"{url}: write a server's gallery as http://host:6333/people.")
    if parts.username or parts.query or parts.fragment:
        raise UsageError(
            f"{url}: only host, port and name belong there; give the key as api_key or in "
            "PASSREID_QDRANT_API_KEY."
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Address(f"{parts.scheme}://{host}:{port}", name)


def connect(where: Address, api_key: str | None) -> QdrantClient:
    """Return a client of a server; nothing is sent yet.

    Raises:
        UsageError: A key would go over an open connection to another machine.
    """
    key = api_key or os.environ.get("PASSREID_QDRANT_API_KEY") or None
    host = urlsplit(where.server).hostname
    if key and where.server.startswith("http:") and host not in ("localhost", "127.0.0.1", "::1"):
        raise UsageError(f"{where.server}: a key needs https, or everybody on the way reads it.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a key to this machine itself without TLS
        return QdrantClient(url=where.server, api_key=key, timeout=60, check_compatibility=False)


def repeated(request: Callable[[], _T], name: str, *, pause: float = 0.2) -> _T:
    """Do a request, again after pauses that double where the server or the network failed.

    Raises:
        GalleryError: It failed too often, or for another reason.
    """
    for attempt in range(_TRIES):
        try:
            return request()
        except ResponseHandlingException as error:
            said = f"the server does not answer ({error})"
        except UnexpectedResponse as error:
            said = f"the server answers {error.status_code} ({error.reason_phrase})"
            if error.status_code in (401, 403):
                said += "; set PASSREID_QDRANT_API_KEY"
            if error.status_code is None or error.status_code not in (429, 500, 502, 503, 504):
                break
        if attempt + 1 < _TRIES:
            # Many clients that failed together should not come back together.
            time.sleep(pause * 2**attempt * random.uniform(0.5, 1))
    raise GalleryError(f"{name}: {said}.")
