"""Servers with default settings, where most teams are: the ways and the peers once more, on such a one."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import ways
from benchmarks.apparatus.tables import Table

__all__ = ["measure"]


def measure(*, quick: bool) -> Iterator[Table]:
    """What the ways cost there, then what the peers do."""
    from benchmarks import peers

    yield from ways.ordinary(quick=quick)
    yield from peers.ordinary(quick=quick)
