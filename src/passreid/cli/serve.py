"""serve: the HTTP API and the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from passreid.cli.app import ModelOptions, app, note
from passreid.errors import MissingExtraError


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where the service listens, and for whom.

    Attributes:
        host: Address; anything but loopback needs a token.
        port: 0 takes a free one.
        token: What clients must send; better given as PASSREID_TOKEN, which `ps` does not show.
        allow_host: Host names the service goes by besides its address and localhost.
    """

    host: str = "127.0.0.1"
    port: int = 8008
    token: Annotated[str | None, Parameter(env_var="PASSREID_TOKEN", show_default=False)] = None
    allow_host: tuple[str, ...] = ()


@app.command
def serve(
    gallery: str,
    *,
    listening: Listening = Listening(),
    retention_days: float | None = None,
    audit: Path | None = None,
    options: ModelOptions = ModelOptions(),  # noqa: B008
) -> None:
    """Serve a gallery: an API under /v1 and a page to search it by dropping pictures.

    Example: passreid serve --gallery people.gallery

    Args:
        gallery: A gallery's file (made if it is not there) or the address of a Qdrant server.
        retention_days: Forget entries older than this, every hour; the default keeps them.
        audit: Append a JSON line for each enrolment, search and forgetting to this file.
    """
    try:
        from passreid.server.app import create_app
        from passreid.server.serving import listen
        from passreid.server.serving import serve as run
        from passreid.server.settings import Settings
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("passreid"):
            raise
        raise MissingExtraError("Serving", "serve") from None
    from passreid.gallery import identity, open_gallery

    settings = Settings(
        host=listening.host,
        token=listening.token,
        allowed_hosts=listening.allow_host,
        retention_days=retention_days,
        audit=audit,
    )
    with listen(listening.host, listening.port) as listener:
        embedder = options.load()
        opened = open_gallery(gallery, model=identity(embedder), dim=embedder.dim, create=True)
        application = create_app(embedder, opened, settings)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        note(
            f"Serving {gallery} with {embedder.card.name} on http://{shown}:{port}/ (Ctrl-C ends)."
        )
        run(application, listener)
