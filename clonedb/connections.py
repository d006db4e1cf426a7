"""Connections of clonedb's own fixtures to one database, which may stay open from test to test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.pq.abc import PGconn
    from sqlalchemy.engine import Engine

__all__ = ["LastingConnections"]


class LastingConnections:
    """The pool of a SQLAlchemy engine and one psycopg connection.

    Opening one costs a test 4 ms, which is twice what rewinding its database does. What a test did to a connection does
    not reach the next one: the session is reset on the server, and the Python objects are new.
    """

    def __init__(self, make_engine: Callable[[], Engine], connect: Callable[[], Connection[Any]]) -> None:
        self._make_engine = make_engine
        self._connect = connect
        self._engine: Engine | None = None
        self._free: PGconn | None = None

    def engine(self) -> Engine:
        """An engine of the caller's own, to listen to and to set options on, with the pool of all of them."""
        if self._engine is None:
            self._engine = self._make_engine()
        return self._engine.execution_options()

    def connection(self) -> Connection[Any]:
        """A psycopg connection, to be given back by `give_back`."""
        from psycopg import Connection, pq

        free, self._free = self._free, None
        if free is not None and free.status == pq.ConnStatus.OK:
            return Connection(free)
        return self._connect()

    def give_back(self, connection: Connection[Any]) -> None:
        """The test has ended: what it did not commit is gone, and its connection object is of no more use."""
        import psycopg

        if connection.closed:
            return
        with contextlib.suppress(psycopg.Error):
            connection.rollback()  # psycopg's own rollback also ends what a cursor left unread
            if connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
                self._free = connection.pgconn
                del connection.pgconn  # it would warn, when it is forgotten, that nobody closed it
                return
        connection.close()

    def idle(self, reset: Callable[[Any], None]) -> list[int]:
        """The backend pids of what is open and in nobody's hands, each reset; what cannot be reset is closed."""
        return [*self._idle_connection(reset), *self._idle_pool(reset)]

    def _idle_connection(self, reset: Callable[[Any], None]) -> list[int]:
        if self._free is None:
            return []
        from psycopg import Connection

        connection = Connection(self._free)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                reset(cursor)
                # a new connection object numbers its prepared statements from the beginning
                cursor.execute("deallocate all", prepare=False)
            return [connection.info.backend_pid]
        except Exception:  # noqa: BLE001 - a connection that does not work is closed, for whatever reason
            self._free.finish()
            self._free = None
            return []
        finally:
            del connection.pgconn

    def _idle_pool(self, reset: Callable[[Any], None]) -> list[int]:
        if self._engine is None:
            return []
        pool: Any = self._engine.pool
        if pool.checkedout():
            self._engine.dispose()
            return []
        pids: list[int] = []
        taken: list[Any] = []
        with contextlib.suppress(Exception):
            taken.extend(self._engine.raw_connection() for _ in range(pool.checkedin()))
            for connection in taken:
                driver: Any = connection.driver_connection
                driver.autocommit = True
                reset(connection.cursor())
                driver.autocommit = False
                pids.append(driver.info.backend_pid)
            for connection in taken:
                connection.close()
            return pids
        for connection in taken:
            connection.invalidate()
        self._engine.dispose()
        return []

    def close(self) -> None:
        """Close all of it; the next call opens anew."""
        if self._free is not None:
            self._free.finish()
            self._free = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
