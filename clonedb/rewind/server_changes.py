"""What the sessions of one database changed of the whole server: found, and undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from clonedb.errors import ServerError
from clonedb.postgres.server import Server
from clonedb.rewind.server_state import Change, ServerState, read_changes, read_state
from clonedb.rewind.server_undo import Left, steps, undo
from clonedb.url import redact

__all__ = ["Left", "ServerChanges", "find_changes"]


@dataclass(frozen=True, slots=True)
class ServerChanges:
    """The changes between two states, of which there may be none."""

    changes: Sequence[Change]
    before: ServerState
    now: ServerState

    def undo(self, server: Server) -> list[Left]:
        """Undo them on a server that clonedb runs: what is left. Elsewhere all is, as others may want it by now.

        A role can be dropped only when the databases with its objects are gone.
        """
        import psycopg

        left = self.undo_by_hand()
        if server.embedded:
            try:
                # after sessions of the clone have ended, or its roles could not be dropped
                left = server.run(
                    partial(undo, changes=self.changes, before=self.before, now=self.now)
                )
            except (
                psycopg.Error,
                ServerError,
            ) as error:  # the session ended, and so did the next
                left = [one._replace(why=redact(" ".join(str(error).split()))) for one in left]

        return left

    def undo_by_hand(self) -> list[Left]:
        """What they are in words, and the statements that undo them."""
        return steps(self.changes, self.before, self.now)


def find_changes(
    server: Server, database: int, before: ServerState, start: str
) -> ServerChanges | None:
    """What sessions with a database, which have ended, changed since the position `start` in the WAL.

    `before` was read then, or later but before they began. None if the server does not tell,
    for any reason: no test fails because of that. Costs 0.5 ms, and reading the WAL if
    anything differs.
    """
    import psycopg

    try:
        now = server.run(read_state)
        found = server.run(
            partial(read_changes, database=database, before=before, now=now, start=start)
        )
    except (psycopg.Error, ServerError):  # the WAL was recycled
        return None
    return ServerChanges(found, before, now)
