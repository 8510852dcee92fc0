"""The application: routes behind the guard, the web page, and the API documentation."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles

from passreid.embed import Embedder
from passreid.gallery.engine import Gallery
from passreid.server import routes_enrol, routes_gallery, routes_model, routes_people
from passreid.server.api_docs import render_docs
from passreid.server.engine import Engine
from passreid.server.errors import MEDIA_TYPE, Problem, add_error_handlers
from passreid.server.guard import Guard
from passreid.server.responses import EnrolLine, Health
from passreid.server.settings import Settings

PAGE = Path(__file__).with_name("page")
ROUTERS = (
    routes_model.router,
    routes_gallery.router,
    routes_enrol.router,
    routes_people.router,
)
_PROBLEMS = {
    "400": "The request cannot be parsed.",
    "401": "The token is missing or wrong.",
    "403": "The request comes from a page of another origin.",
    "404": "Not found.",
    "408": "The body took too long.",
    "413": "The request is too large.",
    "421": "The host name is not this service's.",
    "422": "A field or an image is invalid.",
    "429": "The service is busy; Retry-After says how long to wait.",
    "500": "Internal error.",
    "503": "The gallery cannot be reached, or the service is full or stopping.",
}


def create_app(embedder: Embedder, gallery: Gallery, settings: Settings | None = None) -> FastAPI:
    """Build the application; it closes the gallery when it stops."""
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
        description="Enrol, search and compare images of people.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load their scripts from a CDN
        redoc_url=None,
    )
    app.state.engine = engine
    add_error_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    _add_operations(app, engine)
    app.mount("/page", StaticFiles(directory=PAGE))
    app.add_middleware(
        Guard, settings=settings, bodies=engine.bodies, observe=engine.metrics.observe_request
    )
    _extend_openapi(app)
    return app


def _add_operations(app: FastAPI, engine: Engine) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(render_docs(app.openapi()))

    @app.get("/healthz", response_model=Health, tags=["operations"], summary="Liveness")
    async def healthz() -> Any:
        """Answer while the event loop runs."""
        return {"status": "ok"}

    @app.get("/readyz", response_model=Health, tags=["operations"], summary="Readiness")
    async def readyz() -> Any:
        """Answer 200 while images can be decoded and the gallery answers."""
        await engine.check_ready()
        return {"status": "ok"}

    @app.get(
        "/metrics",
        tags=["operations"],
        summary="Prometheus metrics",
        response_class=Response,
        responses={200: {"description": "Metrics as text.", "content": {"text/plain": {}}}},
    )
    async def metrics() -> Response:
        """Return counts, latencies and queue lengths for Prometheus."""
        return Response(await engine.render_metrics(), media_type="text/plain; version=0.0.4")


def _extend_openapi(app: FastAPI) -> None:
    """Add what FastAPI cannot know: problems, the lines of an enrolment, the token."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        schema = generate()
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

    app.openapi = openapi  # type: ignore[method-assign]
