"""Sessions with the maintenance database for threads that work at the same time: each uses one that is free."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from clonedb.postgres.background import OwnSession
from clonedb.postgres.server import Server

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Sessions"]

T = TypeVar("T")
P = ParamSpec("P")


class Sessions:
    """As many sessions as threads have worked at once; a `MaintenanceSession`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._free: list[OwnSession] = []
        self._holders: set[object] = set()
        self._closed = False

    def run(
        self,
        function: Callable[Concatenate[Connection[Any], P], T],
        /,
        *arguments: P.args,
        **named: P.kwargs,
    ) -> T:
        """Call a function with a session, which no other thread has meanwhile; what it raises is the caller's."""
        with self._lock:
            session = self._free.pop() if self._free else OwnSession(self._server)
        try:
            result = session.run(function, *arguments, **named)
        except BaseException:
            # it may be in the middle of a transaction, or have lost its server
            with contextlib.suppress(Exception):
                session.close()
            raise
        with self._lock:
            if not self._closed:
                self._free.append(session)
                return result
        session.close()

        return result

    def reserve(self, holder: object, most: int) -> bool:
        """Whether a holder may keep a session of another kind open, of `most` that all may have."""
        with self._lock:
            if holder not in self._holders and len(self._holders) >= most:
                return False
            self._holders.add(holder)
            return True

    def give_up(self, holder: object) -> None:
        """It has closed its session."""
        with self._lock:
            self._holders.discard(holder)

    def close(self) -> None:
        """End those that are free, and each other one when it is given back."""
        with self._lock:
            self._closed = True
            free, self._free = self._free, []
        for session in free:
            session.close()
