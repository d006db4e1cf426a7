"""A psycopg connection of clonedb's own to one clone, which may stay open from test to test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from clonedb.postgres.statements import Traces
from clonedb.sessions import driver_state
from clonedb.sessions.reset import Renewal

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.pq.abc import PGconn

    from clonedb.sessions.loans import Loan

__all__ = ["LastingConnection"]


class LastingConnection:
    """One session, lent as a new connection object to one test after the other.

    `asked` says whether a fixture has asked for it.
    """

    def __init__(self, connect: Callable[[], Connection[Any]]) -> None:
        self._connect = connect
        self._free: PGconn | None = None
        self._traces = Traces()
        self.asked: bool = False

    def open(self) -> None:
        """Open the connection that a fixture is going to ask for, which costs 4 ms."""
        if self._free is None:
            connection = self._connect()
            self._free = connection.pgconn
            # psycopg warns of a connection that is forgotten while it is open
            del connection.pgconn

    def take(self) -> Connection[Any]:
        """A psycopg connection, to be given back by `give_back`."""
        from psycopg import Connection, pq

        self.asked = True
        free, self._free = self._free, None
        works = None
        # libpq's status tells of an end only after a read or a write: the socket is asked, too
        if (
            free is not None
            and free.status == pq.ConnStatus.OK
            and not driver_state.has_ended(free.socket)
        ):
            works = free

        connection: Connection[Any] = self._connect() if works is None else Connection(works)
        driver_state.hear(connection, self._traces.hear)
        return connection

    def give_back(self, connection: Connection[Any], loan: Loan | None = None) -> bool:
        """The test has ended: what it did not commit is gone, and its connection object is of no more use.

        False if something holds the connection still: a COPY, a `stream()`, `notifies()` or a
        pipeline that the test left open. It is closed then: psycopg's rollback would wait for
        that for ever.
        """
        import psycopg

        from clonedb.sessions.retired import retire

        # by the test itself
        if connection.closed:
            return True
        if driver_state.is_held(connection):
            connection.close()
            return False

        with contextlib.suppress(psycopg.Error):
            connection.rollback()  # psycopg's own rollback also ends what a cursor left unread
            if connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
                self._free = connection.pgconn
                retire(connection, loan)
                return True

        connection.close()
        return True

    def idle(self, renewal: Renewal) -> None:
        """Begin to reset it, or close it if that would not make it as new."""
        traces, self._traces = self._traces, Traces()
        # SET of a custom setting, LOAD and the like: no reset takes them back
        if traces.spoilt:
            self.close()
        if self._free is not None:
            # a new connection object numbers its prepared statements from the beginning
            renewal.begin(
                self._free,
                "deallocate all",
                settings=traces.settings,
                keep=lambda: None,
                lose=self.close,
            )

    def close(self) -> None:
        """Close it, unless a test has it."""
        if self._free is not None:
            self._free.finish()
            self._free = None
