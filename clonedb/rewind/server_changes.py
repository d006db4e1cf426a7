"""What the sessions of one database changed of the whole server: found, and undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from clonedb.errors import ServerError
from clonedb.postgres.server import Server
from clonedb.rewind.server_state import Change, ServerState, read_changes, read_state
from clonedb.rewind.server_undo import Left, steps, undo

__all__ = ["Left", "ServerChanges", "ServerWatch"]


@dataclass(frozen=True, slots=True)
class ServerChanges:
    """The changes between two states, of which there is at least one."""

    changes: Sequence[Change]
    before: ServerState
    now: ServerState

    def undo(self, server: Server) -> list[Left]:
        """Undo them on a server that clonedb runs: what is left. Elsewhere all is, as others may want it by now.

        A role can be dropped only when the databases with its objects are gone.
        """
        if not server.embedded:
            return steps(self.changes, self.before, self.now)
        return server.run(partial(undo, changes=self.changes, before=self.before, now=self.now))


class ServerWatch:
    """Knows what belongs to the whole server as it was last read by this process (0.5 ms)."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._state: ServerState | None = None

    def state(self) -> ServerState:
        """The state that was last read, which may be older; read now if there is none. Raises psycopg's errors."""
        if self._state is None:
            self._state = self._server.run(read_state)
        return self._state

    def changes(self, database: int, before: ServerState, start: str) -> ServerChanges | None:
        """What sessions with a database, which have ended, changed since `before` and the position `start` in the WAL.

        None if that is nothing, or if the server does not tell: no test fails because of that. Reads the state again;
        if something is found, so does the next, as that is to be undone.
        """
        import psycopg

        self._state = None
        try:
            now = self._server.run(read_state)
            found = self._server.run(partial(read_changes, database=database, before=before, now=now, start=start))
        except (psycopg.Error, ServerError):  # the WAL was recycled
            return None
        if found:
            return ServerChanges(found, before, now)
        self._state = now
        return None
