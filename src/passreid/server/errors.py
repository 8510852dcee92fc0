"""Answer every failure with a JSON problem (RFC 9457): one sentence, never a traceback."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.routing import Match

from passreid.errors import CalibrationError as Uncalibrated
from passreid.errors import GalleryError, ImageError, OutputError, PassreidError, UsageError

log = logging.getLogger("passreid.server")

MEDIA_TYPE = "application/problem+json"
UNEXPECTED = "Internal error; the service's log has the details."
_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
_OF_THE_CLIENT = (ImageError, Uncalibrated, UsageError)
_UNAVAILABLE = (GalleryError, OutputError)
_NOT_NAMES = ("body", "query", "path", "one", "each")  # parts of a location that name no field


class Problem(BaseModel):
    """A failure, as RFC 9457 describes it."""

    type: str = Field("about:blank", description="Always about:blank: the status is the kind.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong and what to do, in one sentence.")


def busy(wait_s: int) -> HTTPException:
    """Return the 429 that tells a client when to retry."""
    detail = f"The service is busy; retry in {wait_s} s."
    return HTTPException(429, detail, {"Retry-After": str(wait_s)})


def problem_response(
    status: int, detail: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return a problem as a response."""
    problem = Problem(
        type="about:blank", title=HTTPStatus(status).phrase, status=status, detail=detail
    )
    return JSONResponse(problem.model_dump(), status, headers, MEDIA_TYPE)


def add_error_handlers(app: FastAPI) -> None:
    """Turn the exceptions of routes into problems; the guard handles those that remain."""

    @app.exception_handler(PassreidError)
    async def passreid_error(request: Request, error: PassreidError) -> JSONResponse:
        status = 422 if isinstance(error, _OF_THE_CLIENT) else 500
        status = 503 if isinstance(error, _UNAVAILABLE) else status
        if status >= 500:
            place = f"{request.method} {request.url.path}"
            log.error("%s (request %s): %s", place, request.state.request_id, error)
        return problem_response(status, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem_response(422, _first_error(error.errors()))

    @app.exception_handler(AnyHTTPException)
    async def http_error(request: Request, error: AnyHTTPException) -> JSONResponse:
        detail, headers = error.detail, error.headers
        if error.status_code == 405:
            allowed = ", ".join(_allowed_methods(request))
            detail, headers = f"This address accepts {allowed} only.", {"Allow": allowed}
        if error.status_code == 404 and detail == HTTPStatus(404).phrase:
            detail = "There is nothing at this address; /docs lists the API."
        return problem_response(error.status_code, detail, headers)


def _allowed_methods(request: Request) -> list[str]:
    """List the methods of an address; a 405 of Starlette names those of one route only."""
    return [
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]


def _first_error(errors: Any) -> str:
    """Describe the first validation error, without its input (which may be an image)."""
    first = errors[0]
    if first["type"] == "json_invalid" and len(first["loc"]) < 3 and first["loc"][0] == "body":
        field = [part for part in first["loc"][1:] if isinstance(part, str)]
        return f"{field[0]}: is not valid JSON." if field else "The body is not valid JSON."
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "is not a field of this request; /docs lists its fields"
    elif "Expected UploadFile" in message:
        message = "must be a file, not text"
    where = ".".join(str(part) for part in first["loc"] if part not in _NOT_NAMES)
    name = "".join(c if c.isprintable() else "?" for c in where)[:100] or "The request"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{name}: {message}{more}."
