"""The reset of a session that stays open from one test to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clonedb.postgres.message import answer, send

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

__all__ = ["RESET", "SessionReset", "reset_session"]

RESET = (
    "close all; reset session authorization; reset role; reset all; unlisten *;"
    " discard temporary; discard sequences; select pg_catalog.pg_advisory_unlock_all()"
)


def reset_session(cursor: Any) -> None:
    """Make an idle session as good as new, through a DBAPI cursor, in one message to the server.

    DISCARD ALL would do more: it drops prepared statements behind the driver's back, after which psycopg asks for
    `_pg3_0` in vain. What stays besides them: random()'s seed, and settings of nobody's (`app.tenant`), which come back
    as '' where a new session has NULL. Whoever has autocommit off commits afterwards. asyncpg takes RESET itself, on
    its own connection: `await connection.execute(RESET)`.
    """
    import psycopg

    # psycopg prepares what it has sent five times, and a prepared statement is one statement only
    if isinstance(getattr(cursor, "_cursor", cursor), (psycopg.Cursor, psycopg.AsyncCursor)):
        cursor.execute(RESET, prepare=False)
    else:
        cursor.execute(RESET)


class SessionReset:
    """`reset_session` as a connection's holder needs it: in one go, or begun and ended while something else is done."""

    def __call__(self, cursor: Any) -> None:
        """Reset a session through a DBAPI cursor."""
        reset_session(cursor)

    def begin(self, connection: PGconn, *more: str) -> None:
        """Send the reset, and `more` statements with it, on an idle connection."""
        send(connection, [RESET, *more])

    def end(self, connection: PGconn) -> bool:
        """Wait for it: whether the connection is idle again, and as good as new."""
        import psycopg

        try:
            answer(connection)
        except psycopg.Error:
            return False
        while connection.notifies() is not None:  # which came before, for whoever listened then
            pass
        return connection.transaction_status == psycopg.pq.TransactionStatus.IDLE
