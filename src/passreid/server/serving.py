"""Run the application with uvicorn, with limits on connections and a graceful stop."""

from __future__ import annotations

import logging
import socket
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from passreid.errors import UsageError
from passreid.server.connections import Connection, ConnectionLimits
from passreid.server.settings import Settings, parse_address

_STOP_S = 20
_BACKLOG = 128  # asyncio accepts this many connections at once before their number is checked
_OTHER_FILES = 256  # the gallery's, libraries, logs


class _Server(uvicorn.Server):
    """uvicorn that marks the engine as stopping as soon as a signal arrives."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.state.engine.stopping = True
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """Open the socket before anything is loaded, so that a port in use is reported at once.

    Port 0 takes a free one.
    """
    address = parse_address(host)
    family = socket.AF_INET6 if address is not None and address.version == 6 else socket.AF_INET
    try:
        opened = socket.create_server((host.strip("[]"), port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
        raise UsageError(
            f"{host}:{port}: cannot listen there ({reason}); choose another --port or --host."
        ) from None
    # asyncio sets TCP_NODELAY only where the socket names its protocol, which connections inherit;
    # without it the end of each answer waits 40 ms for the client's acknowledgement.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, opened.detach())


def allowed_connections(settings: Settings) -> int:
    """Raise the limit on open files as far as needed; return the connections it allows."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return settings.max_connections
    spooled = settings.max_waiting * settings.max_files  # large uploads are temporary files
    wanted = settings.max_connections + _BACKLOG + _OTHER_FILES + spooled
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    left = settings.max_connections
    if soft != resource.RLIM_INFINITY:
        left = min(left, soft - _BACKLOG - _OTHER_FILES)
    if left < 1:
        raise UsageError(
            f"This process may open {soft} files, too few to serve; raise the limit (ulimit -n) to "
            f"{wanted} or more."
        )
    return left


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve until a signal, then give running requests 20 s to finish."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    settings: Settings = app.state.engine.settings
    limits = ConnectionLimits(allowed_connections(settings), settings.headers_timeout_s)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        http=partial(Connection, limits=limits),  # type: ignore[arg-type]  # makes one, as a class
        ws="none",
        backlog=_BACKLOG,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_STOP_S,
    )
    _Server(config, app).run(sockets=[listener])
