"""Connections of the service: bounded in number, and in time while no request is being answered."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from uvicorn.protocols.http.h11_impl import H11Protocol

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)


class Bounds(NamedTuple):
    """Connections at once; seconds for a request's headers, or for a client to read on."""

    connections: int
    patience_s: float


class Connection(H11Protocol):
    """uvicorn's connection, closed when its client sends no whole headers or reads no answer.

    uvicorn alone waits for headers forever, and accepts connections until there are no more file
    descriptors.

    Args:
        bounds: When to close it.
        options: As uvicorn passes them.
    """

    def __init__(self, *args: Any, bounds: Bounds, **options: Any) -> None:
        super().__init__(*args, **options)
        self._bounds = bounds
        self._waiting: asyncio.TimerHandle | None = None  # for headers
        self._stalled: asyncio.TimerHandle | None = None  # for the client to read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse a connection beyond the bound; give any other time to send headers."""
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections:
            transport.write(_FULL)
            transport.close()
            return
        self._wait_for_headers()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._wait_for_headers()

    def pause_writing(self) -> None:
        """Give a client that does not read its answer time to do so."""
        super().pause_writing()
        self._stalled = self.loop.call_later(self._bounds.patience_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on with an answer."""
        super().resume_writing()
        _cancel(self._stalled)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop both clocks."""
        super().connection_lost(exc)
        _cancel(self._waiting)
        _cancel(self._stalled)

    def _wait_for_headers(self) -> None:
        _cancel(self._waiting)
        self._waiting = self.loop.call_later(self._bounds.patience_s, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
