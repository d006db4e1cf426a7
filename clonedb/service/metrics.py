"""What the service has done and has, as Prometheus reads it."""

from __future__ import annotations

import time
from collections import Counter as Count
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from starlette.responses import Response

from clonedb.service.contract import (
    DiscardedError,
    NoSuchTemplateError,
    UnavailableError,
)

if TYPE_CHECKING:
    from clonedb.service.contract import Cloning, Lease

__all__ = ["Metrics"]

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10, 60)
_STATES = ("building", "preparing", "ready", "discarded")
_RESULTS = (
    (NoSuchTemplateError, "unknown"),
    (DiscardedError, "discarded"),
    (UnavailableError, "unavailable"),
)


class Metrics:
    """The numbers of one service; gauges are taken when they are asked for."""

    def __init__(self, service: Cloning) -> None:
        self._service = service
        self._registry = CollectorRegistry()
        self._gets = Counter(
            "clonedb_gets",
            "Databases asked for, by what came of it.",
            ["result"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "clonedb_get_seconds",
            "Seconds until a database was handed out.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._templates = Gauge(
            "clonedb_templates", "Templates, by state.", ["state"], registry=self._registry
        )
        self._clones = Gauge(
            "clonedb_clones",
            "Databases made of templates, by state.",
            ["state"],
            registry=self._registry,
        )
        self._waiting = Gauge(
            "clonedb_waiting", "Callers that wait for a database.", registry=self._registry
        )
        self._sessions = Gauge(
            "clonedb_server_sessions", "Sessions of the server.", registry=self._registry
        )
        self._bytes = Gauge(
            "clonedb_bytes", "Bytes of the service's databases.", registry=self._registry
        )
        self._events = Gauge(
            "clonedb_events",
            "Events of the last 200, by kind.",
            ["kind"],
            registry=self._registry,
        )

    async def acquire(
        self, hash_: str, holder: str, *, wait: float, project: str | None = None
    ) -> Lease:
        """As `Cloning.acquire`, and counted."""
        begun = time.perf_counter()
        try:
            lease = await self._service.acquire(hash_, holder, wait=wait, project=project)
        except Exception as error:
            kinds = (name for kind, name in _RESULTS if isinstance(error, kind))
            self._gets.labels(next(kinds, "failed")).inc()
            raise
        self._gets.labels("handed_out").inc()
        self._seconds.observe(time.perf_counter() - begun)
        return lease

    async def reply(self) -> Response:
        """All of them; without what only the server knows while it does not answer."""
        templates = self._service.templates()
        states = Count[str](one.state for one in templates)
        for state in _STATES:
            self._templates.labels(state).set(states[state])
        kept = sum(one.kept for one in self._service.leases())
        self._clones.labels("ready").set(sum(one.ready for one in templates))
        self._clones.labels("leased").set(len(self._service.leases()) - kept)
        self._clones.labels("kept").set(kept)
        self._waiting.set(sum(one.waiting for one in templates))
        for kind, count in Count(one.kind for one in self._service.events()).items():
            self._events.labels(kind).set(count)
        try:
            known = await self._service.ping()
        except UnavailableError:
            known = {}
        self._sessions.set(known.get("sessions", float("nan")))
        self._bytes.set(known.get("bytes", float("nan")))
        return Response(
            generate_latest(self._registry), headers={"content-type": CONTENT_TYPE_LATEST}
        )
