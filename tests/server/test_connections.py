"""Connections that send or read nothing cost neither the service nor other clients."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

pytest.importorskip("uvicorn")

import uvicorn

from passreid.errors import UsageError
from passreid.server.connections import Connection, ConnectionLimits
from passreid.server.serving import allowed_connections
from passreid.server.settings import Settings

pytestmark = [pytest.mark.loopback, pytest.mark.enable_socket]
PATIENCE_S = 0.4
ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer at once; /slow after twice the patience, /large with 64 MB."""
    assert scope["type"] == "http"
    if scope["path"] == "/slow":
        await asyncio.sleep(2 * PATIENCE_S)
    body = b"x" * (64 << 20 if scope["path"] == "/large" else 2)
    length = str(len(body)).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]}
    )
    for start in range(0, len(body), 1 << 16):
        part = body[start : start + (1 << 16)]
        more = start + len(part) < len(body)
        await send({"type": "http.response.body", "body": part, "more_body": more})


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    """A server of three connections."""
    limits = ConnectionLimits(connections=3, timeout_s=PATIENCE_S)
    config = uvicorn.Config(
        application,
        http=partial(Connection, limits=limits),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        timeout_keep_alive=15,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join()


def closed_after(connection: socket.socket, dripping: bytes = b"") -> float:
    """Seconds until the other side closes, while a byte is sent now and then."""
    began = time.monotonic()
    connection.settimeout(PATIENCE_S / 8)
    while time.monotonic() < began + 20 * PATIENCE_S:
        try:
            if dripping:
                connection.sendall(dripping)
            if connection.recv(1 << 16) == b"":
                return time.monotonic() - began
        except TimeoutError:
            continue
        except OSError:
            return time.monotonic() - began
    raise AssertionError("it stays open")


@pytest.mark.parametrize(
    ("first", "dripping"),
    [
        (b"", b""),
        (ASK, b""),
        (ASK, b"X-A: b\r\n"),
        (ASK + b"\r\n", b"GET"),
        (ASK + b"Content-Length: 1000000\r\n\r\n", b"x"),
    ],
    ids=["nothing", "half", "endless headers", "a second request", "a body unread"],
)
def test_a_connection_without_a_whole_request_is_closed(
    address: tuple[str, int], first: bytes, dripping: bytes
) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(first)
        assert PATIENCE_S * 0.7 < closed_after(connection, dripping) < 6 * PATIENCE_S


def test_a_slow_answer_is_not_cut_off_and_the_connection_serves_again(
    address: tuple[str, int],
) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        for path in (b"/slow", b"/", b"/slow"):
            connection.sendall(ASK.replace(b"/ ", path + b" ") + b"\r\n")
            answer = b""
            while not answer.endswith(b"xx"):
                answer += connection.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 200 OK")
            time.sleep(PATIENCE_S / 2)


def test_a_client_that_reads_no_answer_is_cut_off_one_that_reads_slowly_is_not(
    address: tuple[str, int],
) -> None:
    ask = ASK.replace(b"/ ", b"/large ") + b"\r\n"
    with socket.create_connection(address, timeout=30) as deaf:
        deaf.sendall(ask)
        time.sleep(4 * PATIENCE_S)
        received = 0
        try:
            while block := deaf.recv(1 << 20):
                received += len(block)
        except ConnectionResetError:
            pass
        assert received < 64 << 20
    with socket.create_connection(address, timeout=30) as slow:
        slow.sendall(ask)
        received = 0
        while received < 64 << 20:
            received += len(slow.recv(8 << 20, socket.MSG_WAITALL))
            time.sleep(PATIENCE_S / 4)


def test_a_new_connection_takes_the_place_of_the_longest_idle_one(address: tuple[str, int]) -> None:
    """So that no flood of silent connections keeps anybody out."""
    idle = [socket.create_connection(address, timeout=30) for _ in range(3)]
    for _ in range(20):
        time.sleep(0.01)
        new = socket.create_connection(address, timeout=30)
        new.sendall(ASK + b"\r\n")
        assert new.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
        idle.append(new)
    for connection in idle[:20]:
        connection.settimeout(5)
        with suppress(ConnectionResetError):
            while connection.recv(1 << 16):
                pass
    for connection in idle:
        connection.close()


def test_a_connection_too_many_is_told_so_while_all_others_are_served(
    address: tuple[str, int],
) -> None:
    served = [socket.create_connection(address, timeout=30) for _ in range(3)]
    for connection in served:
        connection.sendall(ASK.replace(b"/ ", b"/slow ") + b"\r\n")
    time.sleep(PATIENCE_S / 2)
    for _ in range(20):
        with socket.create_connection(address, timeout=30) as one_more:
            assert one_more.recv(1 << 16).startswith(b"HTTP/1.1 503 Service Unavailable")
    for connection in served:
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
        connection.close()
    with socket.create_connection(address, timeout=30) as again:
        again.sendall(ASK + b"\r\n")
        assert again.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("limits", "allowed", "raised"),
    [
        ((1024, 1024), 640, 1024),
        ((1024, 524_288), 1000, 5480),
        ((65_536, 65_536), 1000, 65_536),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 1000, resource.RLIM_INFINITY),
        ((256, resource.RLIM_INFINITY), 1000, 5480),
    ],
)
def test_connections_stay_below_the_limit_on_open_files(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], allowed: int, raised: int
) -> None:
    now = [limits]
    monkeypatch.setattr(resource, "getrlimit", lambda _: now[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, values: now.append(values))
    assert allowed_connections(Settings()) == allowed
    assert now[-1][0] == raised


def test_too_few_open_files_are_an_error_that_names_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (300, 300))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with pytest.raises(UsageError, match=r"may open 300 files, too few.*ulimit -n\) to 5480"):
        allowed_connections(Settings())
