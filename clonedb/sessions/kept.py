"""Connections of clonedb's own fixtures to one database, which may stay open from test to test."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from clonedb.postgres.statements import Traces
from clonedb.sessions import driver_state, idle_connections
from clonedb.sessions.idle_connections import OWN
from clonedb.sessions.renewal import Renewal, Reset

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.pq.abc import PGconn
    from sqlalchemy.engine import Connection as SQLConnection, Engine
    from sqlalchemy.orm import Session, sessionmaker
    from sqlalchemy.pool import ConnectionPoolEntry

    from clonedb.sessions.loans import Loan

__all__ = [
    "OWN",
    "LastingConnections",
    "Sessionmakers",
    "Source",
    "shared_listeners",
]


class Source(Protocol):
    """Others who hold connections to the database open."""

    def idle(self, renewal: Renewal) -> None:
        """Begin to reset the idle connections, or do it at once; what cannot be reset is closed."""

    def close(self) -> None:
        """Close the idle connections."""


S = TypeVar("S", bound=Source)


def shared_listeners(engine: Engine) -> tuple[object, ...]:
    """Everybody who listens to what an engine shares with those that its `execution_options` make."""
    shared: tuple[Any, ...] = (engine.pool.dispatch, engine.dialect.dispatch)
    return tuple(
        (*getattr(dispatch, name),)
        for dispatch in shared
        for name in sorted(dispatch._event_names)  # noqa: SLF001
    )


class Sessionmakers:
    """Sessionmakers, each the caller's own, of one class of sessions, which takes SQLAlchemy 0.2 ms to make.

    A class that a test listened to, or changed, is no other test's.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options  # a sessionmaker's
        self._made: sessionmaker[Session] | None = None
        self._dispatch: Any = None
        self._state: tuple[object, ...] = ()

    def get(self, **keywords: Any) -> sessionmaker[Session]:
        """One more; keywords are those of a session."""
        from sqlalchemy.orm import sessionmaker

        if self._made is None or self._state_of(self._made.class_) != self._state:
            self._made = sessionmaker(**self._options)
            self._dispatch = self._made.class_().dispatch
            self._state = self._state_of(self._made.class_)
        maker = copy.copy(self._made)
        maker.kw = {**maker.kw, **keywords}
        return maker

    def _state_of(self, kind: type[Session]) -> tuple[object, ...]:
        """Everybody who listens to the class, and what is in it."""
        return *((*getattr(self._dispatch, name),) for name in self._dispatch._event_names), {  # noqa: SLF001
            **vars(kind)
        }


class LastingConnections:
    """The pool of a SQLAlchemy engine, one psycopg connection, and what other sources hold.

    Opening one costs a test 4 ms, which is more than rewinding its database does. What a test
    did to a connection does not reach the next one: the session is reset on the server, the
    Python objects are new or as they were (`staying`), and a connection to which something was
    done that no reset takes away is closed. `reused` says whether the isolation that hands the
    database on asks for them with `renew`, as other sources want to know; `asked` whether a
    fixture asked for the psycopg connection.
    """

    def __init__(
        self, make_engine: Callable[[], Engine], connect: Callable[[], Connection[Any]]
    ) -> None:
        self._make_engine = make_engine
        self._connect = connect
        self._engine: Engine | None = None
        self._listeners: tuple[object, ...] = ()
        self._entries: set[ConnectionPoolEntry] = set()
        self._free: PGconn | None = None
        self.asked: bool = False
        self._traces = Traces()
        self._sources: dict[type[Source], Source] = {}
        self._sessionmakers = Sessionmakers({})
        self.reused = False

    def source(self, kind: type[S], make: Callable[[], S]) -> S:
        """The one source of a kind, made when there is none."""
        if kind not in self._sources:
            self._sources[kind] = make()
        return cast("S", self._sources[kind])

    def engine(self, loan: Loan | None = None) -> Engine:
        """An engine of the caller's own, to listen to and to set options on, with the pool of all of them."""
        from clonedb.sessions.lent_engine import lend, refuse_late_statements

        if self._engine is None:
            from sqlalchemy import event

            self._engine = self._make_engine()
            event.listen(self._engine, "do_connect", self._claim)
            event.listen(self._engine, "connect", self._opened)
            event.listen(self._engine, "checkout", self._hand_out)
            event.listen(self._engine, "close", self._closed)
            event.listen(self._engine, "detach", self._closed)
            event.listen(self._engine, "engine_connect", self._see)
            event.listen(self._engine, "before_cursor_execute", self._listen)
            refuse_late_statements(self._engine)
            self._listeners = shared_listeners(self._engine)

        for entry in [
            one for one in self._entries if not one.in_use and idle_connections.is_gone(one)
        ]:
            entry.invalidate()

        return lend(self._engine, loan)

    def sessionmaker(self, engine: Engine) -> sessionmaker[Session]:
        """A sessionmaker of the caller's own, bound to an engine."""
        return self._sessionmakers.get(bind=engine)

    def _claim(self, _dialect: object, entry: ConnectionPoolEntry, *_: object) -> None:
        entry.info[OWN] = True

    def _opened(self, _connection: object, entry: ConnectionPoolEntry) -> None:
        self._entries.add(entry)

    def _closed(self, _connection: object, entry: ConnectionPoolEntry) -> None:
        self._entries.discard(entry)

    def _hand_out(
        self, _connection: object, entry: ConnectionPoolEntry, _proxy: object
    ) -> None:
        from sqlalchemy.exc import DisconnectionError

        if idle_connections.is_outdated(entry):
            raise DisconnectionError("a test listens to new connections, and this one is not")
        idle_connections.hand_out(entry)

    def _see(self, connection: SQLConnection) -> None:
        idle_connections.see(connection.connection, connection.engine)

    def _listen(
        self, connection: SQLConnection, _cursor: object, statement: str, *_: object
    ) -> None:
        idle_connections.listen(connection.connection, statement)

    def open(self) -> None:
        """Open the connection that a fixture is going to ask for, which costs 4 ms."""
        if self._free is None:
            connection = self._connect()
            self._free = connection.pgconn
            del connection.pgconn

    def connection(self) -> Connection[Any]:
        """A psycopg connection, to be given back by `give_back`."""
        from psycopg import Connection, pq

        self.asked = True
        free, self._free = self._free, None
        works = None
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

    def let_go(self) -> bool:
        """Close what a COPY, a `stream()` or the like holds of the engine's connections: whether there was any."""
        closed = [driver_state.let_go(entry.dbapi_connection) for entry in self._entries]
        return any(closed)

    def renew(self, reset: Reset) -> Renewal:
        """Begin to reset the idle connections; what cannot be reset is closed."""
        renewal = Renewal(reset)
        for source in self._sources.values():
            source.idle(renewal)
        traces, self._traces = self._traces, Traces()
        if traces.spoilt:
            self._finish()
        if self._free is not None:
            # a new connection object numbers its prepared statements from the beginning
            renewal.begin(
                self._free,
                "deallocate all",
                settings=traces.settings,
                keep=lambda: None,
                lose=self._finish,
            )

        if self._engine is not None:
            self._renew_pool(self._engine, renewal)
        return renewal

    def _renew_pool(self, engine: Engine, renewal: Renewal) -> None:
        pool: Any = engine.pool
        if pool.checkedout() or shared_listeners(engine) != self._listeners:
            self._dispose()
            return
        for entry in list(self._entries):
            idle_connections.begin(entry, renewal)

    def _dispose(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        self._entries.clear()

    def _finish(self) -> None:
        if self._free is not None:
            self._free.finish()
            self._free = None

    def close(self) -> None:
        """Close all of it; the next call opens anew."""
        self._finish()
        self._dispose()
        while self._sources:
            self._sources.popitem()[1].close()
