"""`clone` and `worker`: a new physical clone for every test, and one for all tests of a worker."""

from __future__ import annotations

from collections.abc import Sequence

from clonedb.clone import Clone
from clonedb.isolation.server_changes import settle
from clonedb.isolation.strategy import Origin
from clonedb.postgres.clients import Session
from clonedb.postgres.server import Server
from clonedb.rewind.rewinder import why_not
from clonedb.rewind.server_changes import ServerWatch
from clonedb.rewind.server_state import ServerState

__all__ = ["CloneEach", "CloneWorker"]

_AHEAD = 3  # a second and a third serve tests that come faster than clones for a while


class CloneEach:
    """`clone`: a new physical clone for every test, dropped after it.

    On a server that clonedb runs, what the test changed of the whole server is undone.
    """

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._watch = ServerWatch(origin.server) if _is_readable(origin.server) else None
        self._before: dict[Clone, ServerState] = {}

    def acquire(self) -> Clone:
        """A new clone, which may have been made ahead."""
        clone = self._origin.one_of_many(_AHEAD)
        if self._watch is not None:
            self._before[clone] = self._watch.state()
        return clone

    def release(self, clone: Clone) -> Sequence[Session]:
        """Drop it, behind the test."""
        left_open = () if clone.kept else clone.end_sessions()
        before = self._before.pop(clone, None)
        if self._watch is not None and before is not None and clone.oid is not None:
            found = self._watch.changes(clone.oid, before, before.position)
            if found is not None:
                settle(self._origin, clone, found)
        self._origin.drop(clone)
        return left_open

    def give_way(self) -> None:
        """Nothing is held for later."""

    def close(self) -> None:
        """Nothing is left to do."""


def _is_readable(server: Server) -> bool:
    """Whether the server is clonedb's own, and shows its WAL."""
    return server.embedded and why_not(server) is None


class CloneWorker:
    """`worker`: one clone for all tests of a worker, never reset; the connections to it may stay open, too."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._clone: Clone | None = None

    def acquire(self) -> Clone:
        """The worker's clone, made on first need."""
        if self._clone is None:
            self._clone = self._origin.make()
        return self._clone

    def release(self, clone: Clone) -> Sequence[Session]:
        """Leave it as it is, for the next test; if the test renamed, dropped or closed it, there will be another."""
        if not clone.is_sound():
            self.close()
        return ()

    def give_way(self) -> None:
        """It is to be the same one until the end."""

    def close(self) -> None:
        """Drop it."""
        clone, self._clone = self._clone, None
        if clone is not None:
            clone.drop()
