"""Collecting in the background what earlier runs left on a server."""

from __future__ import annotations

import contextlib
import sys
import threading

from clonedb.postgres.server import Server

__all__ = ["Collector"]

_HEAD_START = 0.008  # seconds that a test's first clone has before leftovers are collected
_LONGEST = 10.0  # seconds that collecting may take


class Collector:
    """Collects once, in a thread, so that no test waits for it.

    It begins a moment later: sooner, importing and asking for it would take the interpreter
    from the thread that makes the first clone, 4 ms of a run's time.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        if (
            "pyfakefs" in sys.modules
        ):  # a test's fake file system has no module that the thread could import
            import clonedb.clones.gc  # noqa: F401

        self._thread = threading.Timer(_HEAD_START, self._collect)
        self._thread.name, self._thread.daemon = "clonedb-gc", True
        self._thread.start()

    def _collect(self) -> None:
        from clonedb.clones.gc import collect

        with contextlib.suppress(Exception):  # leftovers are no reason to fail a test
            collect(self._server, seconds=_LONGEST)

    def join(self) -> None:
        """Wait until it is done, no longer than its time."""
        self._thread.join(_LONGEST)
