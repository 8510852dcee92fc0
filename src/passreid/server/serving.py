"""Run the application: a socket that is surely free, and a stop that finishes what it began."""

from __future__ import annotations

import logging
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from passreid.errors import UsageError
from passreid.server.settings import parse_address

_STOP_S = 20


class _Server(uvicorn.Server):
    """uvicorn, whose application hears of a signal at once and not only when all is over."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.state.engine.stopping = True
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """Open the socket before anything is loaded, so that a taken port is known at once.

    Args:
        host: An address or a name.
        port: 0 takes a free one.

    Raises:
        UsageError: The port is taken, or the address is not this machine's.
    """
    address = parse_address(host)
    family = socket.AF_INET6 if address is not None and address.version == 6 else socket.AF_INET
    try:
        opened = socket.create_server((host.strip("[]"), port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
        raise UsageError(
            f"{host}:{port}: cannot listen there ({reason}); choose another --port or --host."
        ) from None
    # asyncio sends at once only where a socket names its protocol, and connections take the
    # listener's; else the end of each answer waits 40 ms for the client's acknowledgement.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, opened.detach())


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Answer until a signal; then no new connections, and at most 20 s for those there are."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_STOP_S,
    )
    _Server(config, app).run(sockets=[listener])
