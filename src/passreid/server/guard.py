"""Checks that every request passes before a route sees it.

    security headers - Host - Origin - token - place for its body - bounded body -> routes

- Host: a page whose name was rebound to this machine's address gets no answer (DNS rebinding).
- Origin: a page of another origin cannot use the browser to send requests.
- Token: compared in constant time.
- Place: requests with a body beyond `max_waiting` get 429 before their body is read.

Unexpected exceptions are answered here, so that they carry the headers and are counted as 500.
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

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from passreid.server.errors import UNEXPECTED, busy, problem_response
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
_PUBLIC = ("/healthz", "/readyz", "/openapi.json", "/docs", "/")  # hold nothing secret
_WITH_BODY = ("POST", "PUT", "PATCH")
_GONE = 499  # counted when the client leaves before an answer
log = logging.getLogger("passreid.server")


@dataclass
class BodyLimiter:
    """Counts requests with a body: in progress (at most `places`), and refused so far."""

    places: int
    wait_s: Callable[[], int]
    taken: int = field(default=0, init=False)
    refused: int = field(default=0, init=False)


class Guard:
    """ASGI middleware around the whole application.

    Args:
        observe: Called with each answer's scope, status and seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        bodies: BodyLimiter,
        observe: Callable[[Scope, int, float], None],
    ) -> None:
        self._app = app
        self._settings = settings
        self._bodies = bodies
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status, request_id = time.perf_counter(), _GONE, uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update({**SECURITY_HEADERS, "X-Request-ID": request_id})
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            await self._admit(scope, receive, send_with_headers)
        except Exception:
            if status != _GONE:  # the answer has begun
                raise
            log.exception("%s %s (request %s)", scope["method"], scope["path"], request_id)
            await problem_response(500, UNEXPECTED)(scope, receive, send_with_headers)
        finally:
            self._observe(scope, status, time.perf_counter() - began)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, bodies = Headers(scope=scope), self._bodies
        has_body = scope["method"] in _WITH_BODY
        try:
            _check_host(headers, self._settings)
            _check_origin(headers, scope["method"])
            _check_token(headers, scope["path"], self._settings.token)
            most = _check_length(headers, self._settings)
            if has_body and bodies.taken >= bodies.places:
                bodies.refused += 1
                raise busy(bodies.wait_s())
        except HTTPException as error:
            answer = problem_response(error.status_code, error.detail, error.headers)
            return await answer(scope, receive, send)
        if not has_body:
            return await self._app(scope, receive, send)
        bodies.taken += 1
        try:
            await self._app(scope, limit_body(receive, most, self._settings.upload_timeout_s), send)
        finally:
            bodies.taken -= 1


def _check_host(headers: Headers, settings: Settings) -> None:
    """Reject a Host that is not a name of this service with 421.

    A plain IP address cannot be rebound, so any is accepted when listening beyond loopback.
    """
    try:
        (header,) = headers.getlist("host")
        host = urlsplit("//" + header).hostname or ""
    except ValueError:  # none, several, or an unbalanced bracket
        host = ""
    known = {name.lower() for name in ("localhost", settings.host, *settings.allowed_hosts)}
    if host and (host in known or is_loopback(host)):
        return
    if not settings.local and parse_address(host) is not None:
        return
    raise HTTPException(
        421,
        "The request's host name is not one of this service; "
        "to allow it, start the service with --allow-host NAME.",
    )


def _check_origin(headers: Headers, method: str) -> None:
    """Reject what a browser sends on behalf of a page of another origin."""
    site = headers.get("sec-fetch-site", "none")
    navigates = headers.get("sec-fetch-mode") == "navigate" and method == "GET"
    origin = headers.get("origin")
    foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
    if foreign or (site not in ("same-origin", "none") and not navigates):
        raise HTTPException(403, "Pages of other origins may not use this service.")


def _check_token(headers: Headers, path: str, token: str | None) -> None:
    if token is None or path in _PUBLIC or path.startswith("/page/"):
        return
    scheme, _, given = headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode(), token.encode())
    if scheme.lower() != "bearer" or not same:
        detail = "A token is required: send the header 'Authorization: Bearer TOKEN'."
        raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})


def _check_length(headers: Headers, settings: Settings) -> int:
    """Reject a Content-Length that is too large; return the bytes that the body may have."""
    most = settings.max_request_bytes
    # Only multipart forms carry images; other bodies are parsed on the event loop.
    if not headers.get("content-type", "").strip().lower().startswith("multipart/form-data"):
        most = min(settings.max_json_bytes, most)
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise HTTPException(400, "Content-Length is not a number.")
    if len(length) > 15 or int(length) > most:
        raise _too_large(most)
    return most


def limit_body(receive: Receive, most: int, timeout_s: float) -> Receive:
    """Wrap `receive` so that it raises 413 beyond `most` bytes and 408 after `timeout_s`."""
    left, complete = most, False
    until = time.monotonic() + timeout_s

    async def limited() -> Message:
        nonlocal left, complete
        if complete:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
        except asyncio.TimeoutError:
            raise HTTPException(408, f"The body did not arrive within {timeout_s:g} s.") from None
        left -= len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if left < 0:
            raise _too_large(most)
        return message

    return limited


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"The body is longer than {most:,} bytes; send less per request.")
