"""`clone` and `worker`: a new physical clone for every test, and one for all tests of a worker."""

from __future__ import annotations

from collections.abc import Sequence

from clonedb.clones.clone import Clone
from clonedb.isolation.mode import CloneSource, Isolation
from clonedb.isolation.server_changes import settle
from clonedb.postgres.client_sessions import ClientSession
from clonedb.postgres.server import Server
from clonedb.rewind.rewinder import why_not
from clonedb.rewind.server_changes import find_changes
from clonedb.rewind.server_state import ServerState, read_state

__all__ = ["CloneEach", "CloneWorker"]

_AHEAD = 3  # a second and a third serve tests that come faster than clones for a while


class CloneEach(Isolation):
    """`clone`: a new physical clone for every test, dropped after it.

    On a server that clonedb runs, what the test changed of the whole server is undone.
    """

    def __init__(self, supply: CloneSource) -> None:
        self._supply = supply
        self._watches = _is_readable(supply.server)
        self._before: dict[Clone, ServerState] = {}
        self._last: ServerState | None = None

    def acquire(self) -> Clone:
        """A new clone, which may have been made ahead."""
        clone = self._supply.clone(ahead=_AHEAD)
        if self._watches:
            # the state after the last test is that before this one, if nothing was changed
            self._last = self._before[clone] = self._last or clone.server.run(read_state)
        return clone

    def release(self, clone: Clone) -> Sequence[ClientSession]:
        """Drop it, behind the test."""
        # a clone that is kept is for a person to look at, sessions and all
        left_open = () if clone.kept else clone.end_sessions()
        if self._watches:
            self._undo_changes_of_server(clone, self._before.pop(clone))
        self._supply.drop(clone)
        return left_open

    def _undo_changes_of_server(self, clone: Clone, before: ServerState) -> None:
        found = find_changes(clone.server, clone.oid or 0, before, before.position)
        if found is not None and found.changes:
            settle(self._supply, clone, found)
        self._last = found.now if found is not None and not found.changes else None

    def release_spares(self) -> None:
        """Nothing is held for later."""

    def close(self) -> None:
        """Nothing is left to do."""


def _is_readable(server: Server) -> bool:
    """Whether the server is clonedb's own, and shows its WAL."""
    return server.embedded and why_not(server) is None


class CloneWorker(Isolation):
    """`worker`: one clone for all tests of a worker, never reset; the connections to it may stay open, too."""

    lends = False  # all tests may use what one of them was handed, until the clone is dropped

    def __init__(self, supply: CloneSource) -> None:
        self._supply = supply
        self._clone: Clone | None = None

    def acquire(self) -> Clone:
        """The worker's clone, made on first need."""
        if self._clone is None:
            self._clone = self._supply.clone()
        return self._clone

    def release(self, clone: Clone) -> Sequence[ClientSession]:
        """Leave it as it is, for the next test; if the test renamed, dropped or closed it, there will be another."""
        if not clone.is_sound():
            self.close()
        return ()

    def release_spares(self) -> None:
        """It is to be the same one until the end."""

    def close(self) -> None:
        """Drop it."""
        clone, self._clone = self._clone, None
        if clone is not None:
            clone.drop()
