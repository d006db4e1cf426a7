"""What the service has done and has, as Prometheus reads it."""

from __future__ import annotations

import time
from collections import Counter as Count
from collections.abc import Awaitable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from starlette.responses import Response

from clonedb.service.contract import (
    DiscardedError,
    DisconnectedError,
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
    (DisconnectedError, "disconnected"),
)
# what the service counts by itself: its name there, here, what it is, and its labels
_COUNTED = (
    (
        "events",
        "clonedb_events",
        "What happened, by kind; leases that expired among it.",
        ("kind",),
    ),
    (
        "resets",
        "clonedb_resets",
        "Databases that came back, by outcome and reason.",
        ("outcome", "reason"),
    ),
    ("builds", "clonedb_builds", "Templates that callers filled.", ()),
    ("build seconds", "clonedb_build_seconds", "Seconds that filling them took.", ()),
)


class Metrics:
    """The numbers of one service; what it has is looked at when it is asked for."""

    def __init__(self, service: Cloning) -> None:
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
        self._present = _Present(service)

        self._registry.register(self._present)

    async def counted(self, acquiring: Awaitable[Lease]) -> Lease:
        """What comes of asking for a database, counted."""
        begun = time.perf_counter()
        try:
            lease = await acquiring
        except Exception as error:
            kinds = (name for kind, name in _RESULTS if isinstance(error, kind))
            self._gets.labels(next(kinds, "failed")).inc()
            raise
        self._gets.labels("handed_out").inc()
        self._seconds.observe(time.perf_counter() - begun)
        return lease

    async def reply(self) -> Response:
        """All of them; without what only the server knows while it does not answer."""
        try:
            self._present.server = await self._present.service.ping()
        except UnavailableError:
            self._present.server = {}
        return Response(
            generate_latest(self._registry), headers={"content-type": CONTENT_TYPE_LATEST}
        )


class _Present(Collector):
    """What there is at the moment."""

    def __init__(self, service: Cloning) -> None:
        self.server: Mapping[str, float] = {}
        self.service = service

    def collect(self) -> Iterator[Metric]:
        templates, leases = self.service.templates(), self.service.leases()
        states = Count[str](one.state for one in templates)
        yield _gauge(
            "clonedb_templates", "Templates, by state.", {one: states[one] for one in _STATES}
        )
        kept = sum(one.kept for one in leases)
        clones = {
            "ready": sum(one.ready for one in templates),
            "leased": len(leases) - kept,
            "kept": kept,
        }
        yield _gauge("clonedb_clones", "Databases made of templates, by state.", clones)
        waiting = sum(one.waiting for one in templates)
        yield GaugeMetricFamily("clonedb_waiting", "Callers that wait for a database.", waiting)
        for name, told in (
            ("sessions", "Sessions of the server."),
            ("bytes", "Bytes of the databases."),
        ):
            if name in self.server:
                yield GaugeMetricFamily(f"clonedb_server_{name}", told, self.server[name])
        counts = self.service.counts()

        for counted, name, told, labels in _COUNTED:
            family = CounterMetricFamily(name, told, labels=labels)
            found = {what[1:]: count for what, count in counts.items() if what[0] == counted}
            for values, count in (found or ({} if labels else {(): 0.0})).items():
                family.add_metric(values, count)
            yield family


def _gauge(name: str, told: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, told, labels=("state",))
    for state, value in values.items():
        family.add_metric((state,), value)
    return family
