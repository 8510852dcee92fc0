"""What Prometheus is told; a registry for each application, so that tests do not share counts."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope


class Metrics:
    """Counters, histograms and gauges of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "passreid_requests",
            "Answers, by route and status.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._latency = Histogram(
            "passreid_request_seconds",
            "From the first header to the last byte.",
            ("route",),
            registry=self.registry,
        )
        self._batches = Histogram(
            "passreid_batch_crops",
            "Crops in one run of the network.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self._network = Counter(
            "passreid_network_seconds", "Time the network has worked.", registry=self.registry
        )
        self.events = Counter(
            "passreid_entries",
            "Entries, by what happened to them.",
            ("event",),
            registry=self.registry,
        )

    def observe_request(self, scope: Scope, status: int, seconds: float) -> None:
        """Count an answer under its route's template, so that ids make no new series."""
        route = getattr(scope.get("route"), "path", "") or "other"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def observe_batch(self, crops: int, seconds: float) -> None:
        """Count a run of the network."""
        self._batches.observe(crops)
        self._network.inc(seconds)

    def watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read when Prometheus asks."""
        Gauge(f"passreid_{name}", meaning, registry=self.registry).set_function(value)

    def render(self) -> bytes:
        """Return Prometheus's text format."""
        return generate_latest(self.registry)


_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS", "PUT"})
