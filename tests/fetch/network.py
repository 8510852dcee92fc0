"""A network that is a script: answers, names, and who was asked."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import Any

import httpcore

from passreid.fetch import Network, download, is_public

URL = "https://pictures.example/a.jpg"
PUBLIC = "93.184.216.34"


class Recorder(httpcore.NetworkBackend):
    """Answers each connection with the next script and notes where it was asked to connect."""

    def __init__(self, *scripts: bytes, refuses: Sequence[str] = ()) -> None:
        self.scripts = list(scripts)
        self.refuses = refuses
        self.connected: list[tuple[str, int]] = []
        self.verified: list[str | None] = []
        self.sent = b""

    def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.NetworkStream:
        self.connected.append((host, port))
        if host in self.refuses:
            raise httpcore.ConnectError(f"{host} refuses")
        return RecordedStream(self, self.scripts.pop(0))


class RecordedStream(httpcore.MockStream):
    def __init__(self, recorder: Recorder, script: bytes) -> None:
        super().__init__([script])
        self.recorder = recorder

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.recorder.sent += buffer

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: Any = None
    ) -> httpcore.NetworkStream:
        assert ssl_context.verify_mode is ssl.CERT_REQUIRED and ssl_context.check_hostname
        self.recorder.verified.append(server_hostname)
        return self


def answer(body: bytes, *, claims: int | None = None) -> bytes:
    length = len(body) if claims is None else claims
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + body


def redirect(location: str) -> bytes:
    return b"HTTP/1.1 302 Found\r\nlocation: %s\r\n\r\n" % location.encode()


def names(**hosts: str | list[str]) -> Callable[[str, int], list[str]]:
    """A resolver that knows only `hosts` (under .example) and counts nothing else."""

    def resolve(host: str, port: int) -> list[str]:
        found = hosts[host.removesuffix(".example")]
        return [found] if isinstance(found, str) else found

    return resolve


def get(
    backend: httpcore.NetworkBackend | None,
    resolve: Callable[[str, int], Sequence[str]],
    url: str = URL,
    is_allowed: Callable[[str], bool] = is_public,
    **options: Any,
) -> bytes:
    options = {"max_bytes": 1000, "timeout_s": 5.0, **options}
    network = Network(resolve, is_allowed, backend)
    return download(url, url, network=network, **options)
