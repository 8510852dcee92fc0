"""The application: routes behind the guard, the page, and how it starts and stops."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from passreid.embed import Embedder
from passreid.gallery.engine import Gallery
from passreid.server import (
    attention_routes,
    enrol_routes,
    entry_routes,
    model_routes,
    search_routes,
)
from passreid.server.engine import Engine
from passreid.server.guard import Guard
from passreid.server.problems import MEDIA_TYPE, Problem, handle_problems
from passreid.server.schemas import EnrolLine, Health
from passreid.server.settings import Settings

PAGE = Path(__file__).with_name("page")
_PROBLEMS = {
    "400": "The request cannot be read.",
    "401": "The token is missing or wrong.",
    "403": "A page of another origin asked.",
    "404": "There is no such thing.",
    "408": "The body took too long.",
    "413": "The request is too large.",
    "421": "The host name is not this service's.",
    "422": "A field or a picture cannot be used.",
    "429": "The service is busy; Retry-After says how long to wait.",
    "500": "An internal error.",
    "503": "The gallery cannot be reached, or the service is full or stopping.",
}


def create_app(embedder: Embedder, gallery: Gallery, settings: Settings | None = None) -> FastAPI:
    """Build the application.

    Args:
        embedder: A loaded model.
        gallery: An open gallery of that model's embeddings; closed when the application stops.
        settings: Bounds and safety; None is loopback without a token.

    Raises:
        OutputError: The audit log cannot be written.
    """
    settings = settings or Settings()
    engine = Engine(embedder, gallery, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await engine.stop()

    app = FastAPI(
        title="passreid",
        version=importlib.metadata.version("passreid"),
        description="Enrol, search and compare pictures of people.",
        lifespan=lifespan,
        docs_url=None,  # both load their scripts from elsewhere
        redoc_url=None,
    )
    app.state.engine = engine
    handle_problems(app)
    for module in (model_routes, attention_routes, search_routes, enrol_routes, entry_routes):
        app.include_router(module.router)
    _add_operations(app, engine)
    app.mount("/page", StaticFiles(directory=PAGE))
    app.add_middleware(
        Guard, settings=settings, room=engine.room, observe=engine.metrics.observe_request
    )
    _describe(app)
    return app


def _add_operations(app: FastAPI, engine: Engine) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    @app.get("/healthz", response_model=Health, tags=["operations"], summary="The process lives")
    async def healthz() -> Any:
        """Answer as long as the event loop turns."""
        return {"status": "ok"}

    @app.get("/readyz", response_model=Health, tags=["operations"], summary="Send requests here")
    async def readyz() -> Any:
        """Answer 200 while pictures can be decoded, the gallery answers and nothing is stopping."""
        await engine.check_ready()
        return {"status": "ok"}

    @app.get(
        "/metrics",
        tags=["operations"],
        summary="Prometheus metrics",
        response_class=Response,
        responses={200: {"description": "Metrics as text.", "content": {"text/plain": {}}}},
    )
    async def metrics(request: Request) -> Response:
        """Counts, latencies and queues for Prometheus."""
        return Response(await engine.measure(), media_type="text/plain; version=0.0.4")


def _describe(app: FastAPI) -> None:
    """Add to the description what FastAPI cannot know: problems, the stream's lines, the token."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        schema = plain()
        parts = schema["components"]
        for model in (Problem, EnrolLine):
            parts["schemas"][model.__name__] = model.model_json_schema()
        for name in ("HTTPValidationError", "ValidationError"):
            parts["schemas"].pop(name, None)
        parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{}, {"token": []}]
        content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        for path in schema["paths"].values():
            for operation in path.values():
                for status, meaning in _PROBLEMS.items():
                    operation["responses"][status] = {"description": meaning, "content": content}
        return schema

    app.openapi = described  # type: ignore[method-assign]
