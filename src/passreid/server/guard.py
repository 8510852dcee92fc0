"""Checks that every request passes before a route sees it.

    security headers ─ Host ─ Origin ─ token ─ room for its body ─ bounded body ─▶ routes

- Host: a page whose name was rebound to this machine's address gets no answer (DNS rebinding).
- Origin: a page of another origin cannot make a browser send requests; there are no cookies either.
- Token: compared in constant time.
- Room: more requests with a body than `max_waiting` get 429 before a byte of the body is read.

Unexpected exceptions are answered here too, so that they carry the headers and are counted as 500.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from passreid.server.problems import UNEXPECTED, Refusal, busy, respond
from passreid.server.settings import Settings, is_loopback, parse_address

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_OPEN = ("/healthz", "/readyz", "/openapi.json", "/")  # need no token: they hold nothing secret
_WITH_BODY = ("POST", "PUT", "PATCH")
_GONE = 499  # counted when the client leaves before an answer
log = logging.getLogger("passreid.server")


@dataclass
class Room:
    """Counts requests with a body: those under way, and those refused.

    Attributes:
        places: Most at once.
        wait_s: Gives the seconds a refused client should wait.
        taken, refused: Requests under way, and refused so far.
    """

    places: int
    wait_s: Callable[[], int]
    taken: int = field(default=0, init=False)
    refused: int = field(default=0, init=False)


class Guard:
    """ASGI middleware around the whole application.

    Args:
        app: The guarded application.
        settings: Token, hosts and bounds.
        room: Counts requests with a body.
        observe: Called with each answer's scope, status and seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        room: Room,
        observe: Callable[[Scope, int, float], None],
    ) -> None:
        self._app = app
        self._settings = settings
        self._room = room
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status, request_id = time.perf_counter(), _GONE, uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(scope, message)
            await send(message)

        try:
            await self._admit(scope, receive, sending)
        except Exception:
            if status != _GONE:  # the answer has begun
                raise
            log.exception("%s %s (request %s)", scope["method"], scope["path"], request_id)
            await respond(500, UNEXPECTED)(scope, receive, sending)
        finally:
            self._observe(scope, status, time.perf_counter() - began)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        takes_place = scope["method"] in _WITH_BODY
        try:
            check_host(headers, self._settings)
            check_origin(headers, scope["method"])
            check_token(headers, scope["path"], self._settings.token)
            most = longest(headers, self._settings)
            check_length(headers, most)
            if takes_place and self._room.taken >= self._room.places:
                self._room.refused += 1
                raise busy(self._room.wait_s())
        except Refusal as refusal:
            answer = respond(refusal.status, refusal.detail, refusal.headers)
            return await answer(scope, receive, send)
        if not takes_place:
            return await self._app(scope, receive, send)
        self._room.taken += 1
        try:
            await self._app(scope, bounded(receive, self._settings, most), send)
        finally:
            self._room.taken -= 1

    @staticmethod
    def _add_headers(scope: Scope, message: Message) -> None:
        headers = MutableHeaders(scope=message)
        for name, value in SECURITY_HEADERS.items():
            headers[name] = value
        headers["X-Request-ID"] = scope["state"]["request_id"]
        headers.setdefault("Cache-Control", "no-store")


def check_host(headers: Headers, settings: Settings) -> None:
    """Reject requests whose Host is not a name of this service.

    A plain IP address cannot be rebound, so it is accepted where the service listens beyond
    loopback.

    Raises:
        Refusal: 421.
    """
    host = (urlsplit("//" + headers.get("host", "")).hostname or "") if _sane(headers) else ""
    known = {name.lower() for name in ("localhost", settings.host, *settings.allowed_hosts)}
    if host in known or is_loopback(host):
        return
    if not settings.local and parse_address(host) is not None:
        return
    raise Refusal(
        421,
        "This service does not go by the host name of the request; "
        "if it should, start it with --allow-host NAME.",
    )


def _sane(headers: Headers) -> bool:
    """Whether there is one Host and it parses (an unbalanced bracket makes `urlsplit` raise)."""
    hosts = headers.getlist("host")
    if len(hosts) != 1:
        return False
    try:
        return urlsplit("//" + hosts[0]).hostname is not None
    except ValueError:
        return False


def check_origin(headers: Headers, method: str) -> None:
    """Reject what a browser sends for a page of another origin.

    Raises:
        Refusal: 403.
    """
    site = headers.get("sec-fetch-site", "none")
    navigates = headers.get("sec-fetch-mode") == "navigate" and method == "GET"
    origin = headers.get("origin")
    foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
    if foreign or (site not in ("same-origin", "none") and not navigates):
        raise Refusal(403, "Pages of other origins may not use this service.")


def check_token(headers: Headers, path: str, token: str | None) -> None:
    """Reject requests without the token, if there is one.

    Raises:
        Refusal: 401.
    """
    if token is None or path in _OPEN or path.startswith("/page/"):
        return
    scheme, _, given = headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode(), token.encode())
    if scheme.lower() != "bearer" or not same:
        raise Refusal(
            401,
            "A token is needed: send it as 'Authorization: Bearer TOKEN'.",
            headers={"WWW-Authenticate": "Bearer"},
        )


def check_length(headers: Headers, most: int) -> None:
    """Reject a body whose Content-Length is too large.

    Raises:
        Refusal: 400 or 413.
    """
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise Refusal(400, "Content-Length is not a number.")
    if len(length) > 15 or int(length) > most:
        raise _too_long(most)


def longest(headers: Headers, settings: Settings) -> int:
    """Return how many bytes a body may have: only forms of several parts carry pictures."""
    if headers.get("content-type", "").strip().lower().startswith("multipart/form-data"):
        return settings.max_request_bytes
    return min(settings.max_json_bytes, settings.max_request_bytes)


def bounded(receive: Receive, settings: Settings, most: int | None = None) -> Receive:
    """Bound the length of a body, and the time it may take to arrive.

    Args:
        receive: Gives the body's messages.
        settings: Bounds.
        most: Bytes; None is `max_request_bytes`.

    Raises:
        Refusal: 413 or 408, from the call that goes too far.
    """
    most = settings.max_request_bytes if most is None else most
    left, complete = most, False
    until = time.monotonic() + settings.upload_timeout_s

    async def reading() -> Message:
        nonlocal left, complete
        if complete:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
        except asyncio.TimeoutError:
            raise Refusal(
                408, f"The body did not arrive within {settings.upload_timeout_s:g} s."
            ) from None
        left -= len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if left < 0:
            raise _too_long(most)
        return message

    return reading


def _too_long(most: int) -> Refusal:
    return Refusal(413, f"The body is longer than {most:,} bytes; send less in one request.")
