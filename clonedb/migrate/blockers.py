"""A migration that waits for an idle transaction, and so would wait for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clonedb.errors import MigrationError
from clonedb.url import redact

if TYPE_CHECKING:
    from clonedb.postgres.server import Server

__all__ = ["Blockers"]

# Sessions of the database that wait for a lock, and the idle transactions that hold it: by pid
# and begin, as a later transaction of the same session is another one.
_BLOCKED = """
    select w.pid, (b.pid, b.xact_start)::text, coalesce(b.application_name, ''), coalesce(b.query, '')
    from pg_stat_activity w cross join lateral unnest(pg_blocking_pids(w.pid)) p join pg_stat_activity b on b.pid = p
    where w.datname = %s and w.wait_event_type = 'Lock' and b.state like 'idle in transaction%%'
"""

_OF_ANOTHER = "commit it or close its connection before"
_OF_ITS_OWN = (
    "it is another session of what migrates, all of whose connections lead to this one database; an env.py or a command"
    " that migrates several needs a template for each: [tool.clonedb.templates.NAME] with an `x`, `alembic_ini` or"
    " `migrate` that selects it"
)


class Blockers:
    """Looks every second whether a migration waits for an idle transaction, and raises MigrationError if it does twice.

    PostgreSQL sees no deadlock where a client waits in one session for what it does not do in
    another. `alone` says that only env.py is connected to the database.
    """

    def __init__(self, server: Server, database: str, *, alone: bool = False) -> None:
        self._server = server
        self._database = database
        self._remedy = _OF_ITS_OWN if alone else _OF_ANOTHER
        self._suspects: frozenset[str] = frozenset()

    def forget(self) -> None:
        """Another migration begins."""
        self._suspects = frozenset()

    def __call__(self) -> None:
        """Look once; the waiting session is ended, as the next one that wants the table would wait behind it."""
        __tracebackhide__ = True
        rows = self._server.rows(_BLOCKED, [self._database])
        before, self._suspects = self._suspects, frozenset(row[1] for row in rows)
        # seen twice: one that idles for a moment between two statements is no obstacle
        lasting = [row for row in rows if row[1] in before]
        if lasting:
            waiting, _, application, statement = lasting[0]
            self._server.rows("select pg_terminate_backend(%s)", [waiting])
            raise MigrationError(
                f"the migration of {self._database!r} waits for a transaction that is left open, and would do so for"
                f" ever (application {application!r}, last statement"
                f" {redact(' '.join(statement.split())[:200])!r}); {self._remedy}"
            )
