"""Connections of clonedb's own fixtures to one database, which may stay open from test to test."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.pq.abc import PGconn
    from sqlalchemy.engine import Engine
    from sqlalchemy.pool import ConnectionPoolEntry, Pool

__all__ = ["OWN", "OWN_SETTING", "LastingConnections", "Source", "connect_listeners", "shared_listeners"]

OWN = "clonedb_own"
"""The key of a connection's `info` that tells an engine of clonedb's own from the application's."""

OWN_SETTING = r"""set_config|\yset\s+((session|local)\s+)?"?\w+"?\s*\."""
"""What a statement or a function looks like that makes a setting of nobody's (`app.tenant`), as a regular expression of
PostgreSQL's: RESET ALL leaves '' where a new session has NULL, and SET LOCAL does so at the transaction's end."""

_OWN_SETTING = re.compile(OWN_SETTING.replace(r"\y", r"\b"), re.IGNORECASE)


class Source(Protocol):
    """Others who hold connections to the database open."""

    def idle(self, reset: Callable[[Any], None]) -> list[int]:
        """The backend pids of what is open and in nobody's hands, each reset; what cannot be reset is closed."""

    def close(self) -> None:
        """Close what is in nobody's hands."""


S = TypeVar("S", bound=Source)


def connect_listeners(pool: Pool) -> tuple[object, ...]:
    """Everybody who is told of a pool's new connections, in order."""
    dispatch: Any = pool.dispatch
    return (*dispatch.first_connect, *dispatch.connect)


def shared_listeners(engine: Engine) -> tuple[object, ...]:
    """Everybody who listens to what an engine shares with those that its `execution_options` make."""
    shared: tuple[Any, ...] = (engine.pool.dispatch, engine.dialect.dispatch)
    return tuple((*getattr(dispatch, name),) for dispatch in shared for name in sorted(dispatch._event_names))  # noqa: SLF001


class LastingConnections:
    """The pool of a SQLAlchemy engine, one psycopg connection, and what other sources hold.

    Opening one costs a test 4 ms, which is more than rewinding its database does. What a test did to a connection does
    not reach the next one: the session is reset on the server, the Python objects are new, and a connection on which a
    setting was made that no reset takes away is closed. `reused` says whether whoever hands the database on asks for
    them with `idle`, as other sources want to know.
    """

    def __init__(self, make_engine: Callable[[], Engine], connect: Callable[[], Connection[Any]]) -> None:
        self._make_engine = make_engine
        self._connect = connect
        self._engine: Engine | None = None
        self._listeners: tuple[object, ...] = ()
        self._free: PGconn | None = None
        self._spoilt = False
        self._sources: dict[type[Source], Source] = {}
        self.reused = False

    def source(self, kind: type[S], make: Callable[[], S]) -> S:
        """The one source of a kind, made when there is none."""
        if kind not in self._sources:
            self._sources[kind] = make()
        return cast("S", self._sources[kind])

    def engine(self) -> Engine:
        """An engine of the caller's own, to listen to and to set options on, with the pool of all of them."""
        if self._engine is None:
            from sqlalchemy import event

            self._engine = self._make_engine()
            event.listen(self._engine, "do_connect", self._claim)
            event.listen(self._engine, "checkout", self._look)
            event.listen(self._engine, "before_cursor_execute", lambda *said: self._hear(said[2]))
            self._listeners = shared_listeners(self._engine)
        return self._engine.execution_options()

    def _claim(self, _dialect: object, entry: ConnectionPoolEntry, *_: object) -> None:
        assert self._engine is not None  # noqa: S101 - it connects
        entry.info[OWN] = connect_listeners(self._engine.pool)

    def _look(self, _connection: object, entry: ConnectionPoolEntry, _proxy: object) -> None:
        from sqlalchemy.exc import DisconnectionError

        if self._engine is not None and entry.info.get(OWN) != connect_listeners(self._engine.pool):
            raise DisconnectionError("a test listens to new connections, and this one is not")

    def _hear(self, statement: object) -> None:
        """A statement is about to be sent on one of the connections."""
        text = statement.decode(errors="replace") if isinstance(statement, bytes) else str(statement)
        self._spoilt = self._spoilt or _OWN_SETTING.search(text) is not None

    def connection(self) -> Connection[Any]:
        """A psycopg connection, to be given back by `give_back`."""
        from psycopg import Connection, Cursor, pq

        hear = self._hear

        class Heard(Cursor[Any]):
            """A cursor whose statements are looked at."""

            def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
                hear(query)
                return super().execute(query, *arguments, **options)

        free, self._free = self._free, None
        works = free is not None and free.status == pq.ConnStatus.OK
        connection: Connection[Any] = Connection(free) if free is not None and works else self._connect()
        connection.cursor_factory = Heard
        return connection

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
        if self._spoilt:
            self.close()
        others = [pid for source in self._sources.values() for pid in source.idle(reset)]
        return [*self._idle_connection(reset), *self._idle_pool(reset), *others]

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
            pids = [connection.info.backend_pid]
        except Exception:  # noqa: BLE001 - a connection that does not work is closed, for whatever reason
            self._free.finish()
            self._free, pids = None, []
        del connection.pgconn
        return pids

    def _idle_pool(self, reset: Callable[[Any], None]) -> list[int]:
        if self._engine is None:
            return []
        pool: Any = self._engine.pool
        if pool.checkedout() or shared_listeners(self._engine) != self._listeners:
            self._engine.dispose()
            self._engine = None
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
        self._spoilt = False
        if self._free is not None:
            self._free.finish()
            self._free = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        while self._sources:
            self._sources.popitem()[1].close()
