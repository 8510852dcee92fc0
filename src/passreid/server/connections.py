"""Limits on connections: their number, and their time while no request is being answered."""

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
class ConnectionLimits:
    """Limits that all connections share.

    Attributes:
        connections: Most at once.
        timeout_s: Seconds for a request's headers to arrive, or for a client to resume reading.
        open: Open connections; the first has waited longest for a request.
    """

    connections: int
    timeout_s: float
    open: dict[Connection, None] = field(default_factory=dict, init=False)


class Connection(H11Protocol):
    """uvicorn's connection with limits.

    uvicorn itself waits for headers forever, and accepts connections until file descriptors run
    out. Here a new connection replaces the one that has been idle longest.
    """

    def __init__(self, *args: Any, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self._headers_timer: asyncio.TimerHandle | None = None
        self._reading_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept, closing the longest idle connection if needed; 503 if none is idle."""
        super().connection_made(transport)
        if len(self._limits.open) >= self._limits.connections:
            idle = next((each for each in self._limits.open if each.idle), None)
            if idle is None:
                transport.write(_FULL)
                transport.close()
                return
            idle.drop()
        self._await_request()

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def drop(self) -> None:
        """Close at once."""
        self._limits.open.pop(self, None)
        self.transport.abort()

    def on_response_complete(self) -> None:
        """Await the next request."""
        super().on_response_complete()
        self._await_request()

    def pause_writing(self) -> None:
        """Close the connection unless its client resumes reading in time."""
        super().pause_writing()
        self._reading_timer = self.loop.call_later(self._limits.timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Continue an answer."""
        super().resume_writing()
        _cancel(self._reading_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._limits.open.pop(self, None)
        _cancel(self._headers_timer)
        _cancel(self._reading_timer)

    def _await_request(self) -> None:
        self._limits.open.pop(self, None)
        self._limits.open[self] = None  # moves it to the end
        _cancel(self._headers_timer)
        self._headers_timer = self.loop.call_later(self._limits.timeout_s, self._on_timeout)

    def _on_timeout(self) -> None:
        if self.idle:
            self.drop()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
