"""Collecting in the background what earlier runs left on a server."""

from __future__ import annotations

import contextlib
import threading

from clonedb.clones.gc import collect
from clonedb.postgres.server import Server

__all__ = ["Collector"]


class Collector:
    """Collects in the background, once, so that no test waits for it."""

    def __init__(self, server: Server, *, seconds: float = 10.0) -> None:
        self._server = server
        self._seconds = seconds
        self._thread = threading.Thread(target=self._collect, name="clonedb-gc", daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        with contextlib.suppress(Exception):  # leftovers are no reason to fail a test
            collect(self._server, seconds=self._seconds)

    def join(self) -> None:
        """Wait until it is done, no longer than its time."""
        self._thread.join(self._seconds)
