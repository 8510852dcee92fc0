"""Every failure is a JSON problem (RFC 9457) with one sentence, never a traceback."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from passreid.errors import (
    CalibrationError,
    EmbeddingError,
    GalleryError,
    ImageError,
    OutputError,
    PassreidError,
    UsageError,
)

log = logging.getLogger("passreid.server")

MEDIA_TYPE = "application/problem+json"
UNEXPECTED = "The service met an internal error; its log says more."
_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

# The first class that fits decides.
_STATUS: tuple[tuple[type[PassreidError], int], ...] = (
    (ImageError, 422),
    (CalibrationError, 422),
    (UsageError, 422),
    (GalleryError, 503),
    (OutputError, 503),
    (EmbeddingError, 500),
)


class Problem(BaseModel):
    """What went wrong, as RFC 9457 writes it."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field("about:blank", description="Always about:blank: the status says the kind.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="One sentence on what is wrong and what to do.")


class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault
    """A request is answered with a problem.

    Args:
        status: HTTP status.
        detail: One sentence.
        headers: Sent along.
    """

    def __init__(
        self, status: int, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


def busy(wait_s: int) -> Refusal:
    """Return the refusal of a request there is no room for."""
    return Refusal(
        429,
        f"The service is busy; come back in {wait_s} s.",
        headers={"Retry-After": str(wait_s)},
    )


def problem(status: int, detail: str) -> dict[str, Any]:
    """Return a problem as plain data."""
    title = HTTPStatus(status).phrase
    return Problem(type="about:blank", title=title, status=status, detail=detail).model_dump()


def status_of(error: PassreidError) -> int:
    """Return the HTTP status an error of passreid is answered with."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def respond(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return a problem as a response."""
    return JSONResponse(problem(status, detail), status, dict(headers or {}), MEDIA_TYPE)


def handle_problems(app: FastAPI) -> None:
    """Answer what the application refuses with a problem; the guard does so for what is left."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        return respond(error.status, error.detail, error.headers)

    @app.exception_handler(PassreidError)
    async def explained(request: Request, error: PassreidError) -> JSONResponse:
        status = status_of(error)
        if status >= 500:
            place = f"{request.method} {request.url.path}"
            log.error("%s (request %s): %s", place, request.state.request_id, error)
        return respond(status, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return respond(422, _first(error))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, Refusal):  # of the body, met while FastAPI read it
            return await refused(request, error.__cause__)
        detail, headers = str(error.detail), error.headers
        if error.status_code == 405:
            allowed = ", ".join(_allowed(request))
            detail, headers = f"This address takes {allowed} alone.", {"Allow": allowed}
        if error.status_code == 404 and detail == HTTPStatus(404).phrase:
            detail = "There is nothing at this address; the API is described at /openapi.json."
        return respond(error.status_code, detail, headers)


def _allowed(request: Request) -> list[str]:
    """Return the methods an address knows; the route that refused one names its own alone."""
    scopes = {method: {**request.scope, "method": method} for method in _METHODS}
    routes = request.app.routes
    return [
        method
        for method, scope in scopes.items()
        if any(route.matches(scope)[0] is Match.FULL for route in routes)
    ]


def _first(error: RequestValidationError) -> str:
    """The first of the errors in one sentence, without the input (it may be a picture)."""
    found = error.errors()
    if not found:
        return "The request does not fit the API."
    if found[0].get("type") == "json_invalid":
        return "The body is no JSON."
    where = [str(part) for part in found[0].get("loc", ()) if part not in ("body", "query", "path")]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{printable('.'.join(where)) or 'The request'}: {said_of(found[0])}{more}."


def said_of(error: Mapping[str, Any]) -> str:
    """Return the message of one of pydantic's errors, to follow a field's name."""
    said = str(error.get("msg", "is not valid")).removeprefix("Value error, ")
    return "must be a file, not text" if "Expected UploadFile" in said else said


def printable(name: str) -> str:
    """Return a client's name for something, safe to show in a message."""
    return "".join(c if c.isprintable() else "?" for c in name)[:100]
