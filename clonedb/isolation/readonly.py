"""`readonly`: the worker's clone, in which the server refuses every write."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clonedb.clones.clone import Clone
from clonedb.clones.database import Database, PlainDatabase
from clonedb.isolation.changes import Changes, Found
from clonedb.isolation.mode import CloneSource, Reusable
from clonedb.isolation.own_session import open_session
from clonedb.postgres import client_sessions
from clonedb.postgres.properties import apply_settings
from clonedb.sessions.leaks import ReadonlyWarning

if TYPE_CHECKING:
    from psycopg import Connection

    from clonedb.sessions.loans import Loan

__all__ = ["Readonly"]


_WRITTEN = "25006"  # SQLSTATE read_only_sql_transaction


class ReadonlyDatabase(PlainDatabase):
    """Connections whose writes are refused."""

    def explain(self, error: BaseException) -> str | None:
        """PostgreSQL refuses a write."""
        if _WRITTEN not in (
            getattr(error, "sqlstate", None),
            getattr(error, "pgcode", None),
        ):  # psycopg2's is pgcode
            return None
        return "wrote to a readonly database; a test that writes needs isolation='auto'"


class Readonly(Reusable):
    """Every transaction begins read-only, so that a write fails with PostgreSQL's own error (SQLSTATE 25006).

    That is a setting of the database: it holds for every driver and for superusers, until a
    session sets it otherwise; and large objects may be written nevertheless before PostgreSQL
    16. What was written is seen after the test, which is warned, and the next one gets a new
    clone.
    """

    fills = False

    def __init__(self, supply: CloneSource) -> None:
        super().__init__(supply)
        self._own: dict[Clone, tuple[Connection[Any], Changes]] = {}
        self._known: Changes | None = None

    def make(self) -> Clone:
        """A clone with the setting."""
        clone = super().make()
        try:
            # for sessions that begin after this; `open_session` sets it back for its own
            clone.server.run(
                apply_settings, clone.name, [[None, "default_transaction_read_only", "on"]]
            )
            connection = open_session(clone)
            self._known = changes = (
                self._known.of_clone(connection) if self._known else Changes(connection)
            )
            self._own[clone] = connection, changes
        except BaseException:
            self._discard(clone)
            raise

        return clone

    def database(self, clone: Clone, loan: Loan | None) -> Database:
        """One that explains why it cannot be written to."""
        return ReadonlyDatabase(clone, loan)

    def end_sessions(self, clone: Clone) -> Sequence[client_sessions.ClientSession]:
        """All but the one that looks for what was written."""
        clone.dispose_all()
        keep = [self._own[clone][0].info.backend_pid]
        return clone.server.run(client_sessions.end_open_sessions, clone.name, keep=keep)

    def reset(self, clone: Clone) -> bool:
        """Whether nothing was written."""
        import psycopg

        try:
            found = self._own[clone][1].look()
        except psycopg.Error:  # the test may have ended the session
            return False

        if not found:
            # other databases' transactions have moved the server's number: the next look is
            # quick again
            self._own[clone][1].begin()
            return True

        warnings.warn(
            f"{_named(found)} although isolation is 'readonly'; the next test gets a new database (a test that writes"
            " needs isolation 'auto')",
            ReadonlyWarning,
            stacklevel=1,
        )
        return False

    def drop(self, clone: Clone) -> None:
        """End clonedb's session, too."""
        if own := self._own.pop(clone, None):
            own[0].close()
        super().drop(clone)


def _named(found: Found) -> str:
    if found.elsewhere:
        return found.elsewhere
    names = [f"{table.schema}.{table.name}" for table, _ in found.tables]
    return (
        f"rows of {', '.join(names[:3])} were written" if names else "a sequence was advanced"
    )
