"""Prometheus metrics, in a registry per application."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope

_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS", "PUT"})
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters, histograms and gauges of one service."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter("passreid_requests", "Answers.", labels, registry=r)
        self._latency = Histogram(
            "passreid_request_seconds", "First header to last byte.", ("route",), registry=r
        )
        self._batches = Histogram(
            "passreid_batch_crops", "Crops per run of the network.", buckets=_SIZES, registry=r
        )
        self._network = Counter("passreid_network_seconds", "Network time.", registry=r)
        self.events = Counter(
            "passreid_entries", "Entries enrolled and forgotten.", ("event",), registry=r
        )

    def observe_request(self, scope: Scope, status: int, seconds: float) -> None:
        """Count an answer under its route's template, so that ids create no new series."""
        route = getattr(scope.get("route"), "path", "") or "other"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def observe_batch(self, crops: int, seconds: float) -> None:
        """Count a run of the network."""
        self._batches.observe(crops)
        self._network.inc(seconds)

    def watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read at each scrape."""
        Gauge(f"passreid_{name}", meaning, registry=self.registry).set_function(value)

    def render(self) -> bytes:
        """Return Prometheus's text format."""
        return generate_latest(self.registry)
