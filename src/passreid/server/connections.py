"""Connections of the service: bounded in number, and in time while no request is being answered."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)


@dataclass(frozen=True)
class Bounds:
    """Bounds that all connections of a service share.

    Attributes:
        connections: Most at once.
        patience_s: Seconds for a request's headers, or for a client to read on.
        order: Open connections, those first that have waited longest for a request.
    """

    connections: int
    patience_s: float
    order: dict[Connection, None] = field(default_factory=dict, init=False)


class Connection(H11Protocol):
    """uvicorn's connection, closed when its client sends no whole headers or reads no answer.

    uvicorn alone waits for headers forever, and accepts connections until there are no more file
    descriptors. Here a new connection takes the place of the one that has been idle longest.

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
        """Make room if need be, and wait for headers; refuse where all others are being served."""
        super().connection_made(transport)
        if len(self._bounds.order) >= self._bounds.connections:
            idle = next((each for each in self._bounds.order if each.idle), None)
            if idle is None:
                transport.write(_FULL)
                transport.close()
                return
            idle.drop()
        self._wait_for_headers()

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def drop(self) -> None:
        """Close at once, and give up the place."""
        self._bounds.order.pop(self, None)
        self.transport.abort()

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
        """Give up the place and stop both clocks."""
        super().connection_lost(exc)
        self._bounds.order.pop(self, None)
        _cancel(self._waiting)
        _cancel(self._stalled)

    def _wait_for_headers(self) -> None:
        self._bounds.order.pop(self, None)
        self._bounds.order[self] = None
        _cancel(self._waiting)
        self._waiting = self.loop.call_later(self._bounds.patience_s, self._give_up)

    def _give_up(self) -> None:
        if self.idle:
            self.drop()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
