"""A SQLAlchemy engine of clonedb's own on one clone, whose idle connections may stay open from test to test."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from clonedb.sessions import idle_connections
from clonedb.sessions.idle_connections import OWN
from clonedb.sessions.loops import running_loop
from clonedb.sessions.pooled import Connections
from clonedb.sessions.reset import Renewal

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect, Engine
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

    from clonedb.sessions.loans import Loan

__all__ = ["LastingEngine"]


class LastingEngine:
    """The pool of an engine, as a source of a clone's lasting connections.

    If the engine is asynchronous, a connection serves on the loop that it was opened on and on
    no other. What is idle after a test stays if its loop is open then, and is closed with its
    loop.
    """

    def __init__(self, database: str, make_engine: Callable[[], Engine]) -> None:
        self._database = database
        self._make_engine = make_engine
        self._connections = Connections(database)
        self._engine: Engine | None = None
        self._listeners: tuple[object, ...] = ()

    def engine(self, loan: Loan | None = None) -> Engine:
        """An engine of the caller's own, to listen to and to set options on, with the pool of all of them."""
        from clonedb.sessions.lent_engine import lend, refuse_late_statements

        if self._engine is None:
            self._engine = self._make_engine()
            self._watch(self._engine)
            refuse_late_statements(self._engine)
            # after clonedb's own: what differs later was put there by a test
            self._listeners = _shared_listeners(self._engine)
        # or the test's first statement would find out that the server was restarted
        self._connections.close_gone()
        return lend(self._engine, loan)

    def _watch(self, engine: Engine) -> None:
        from sqlalchemy import event

        event.listen(engine, "do_connect", self._claim)
        event.listen(engine, "connect", self._open)
        event.listen(engine, "checkout", self._hand_out)
        event.listen(engine, "checkin", self._take_back)
        event.listen(engine, "close", self._closed)
        event.listen(engine, "detach", self._closed)
        event.listen(engine, "engine_connect", self._connections.seen)
        event.listen(engine, "before_cursor_execute", self._connections.heard)

    def _claim(self, dialect: Dialect, entry: ConnectionPoolEntry, *_: object) -> None:
        if dialect.is_async:
            # raises here, with more to say than the driver has
            running_loop()
        entry.info[OWN] = True

    def _open(self, _connection: object, entry: ConnectionPoolEntry) -> None:
        self._connections.opened(entry)

    def _hand_out(
        self, _connection: object, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        from sqlalchemy.exc import DisconnectionError

        # SQLAlchemy answers a DisconnectionError of a checkout by opening a new connection
        if not self._connections.is_here(entry) or idle_connections.is_outdated(entry):
            raise DisconnectionError("the event loop or a listener has changed")
        self._connections.handed_out(entry, proxy)

    def _take_back(self, _connection: object, entry: ConnectionPoolEntry) -> None:
        self._connections.handed_back(entry)

    def _closed(self, _connection: object, entry: ConnectionPoolEntry) -> None:
        self._connections.closed(entry)

    def let_go(self) -> bool:
        """Close what a COPY, a `stream()` or the like holds of its connections: whether there was any."""
        return self._connections.let_go(self._database)

    def close_in_use(self) -> None:
        """The test has ended: close what it left in use."""
        self._connections.close_in_use(lambda _database: True)

    def idle(self, renewal: Renewal) -> None:
        """Reset what is idle, and close what may not stay: all of it if the test listened to the pool, or left one."""
        if self._engine is None:
            return
        pool: Any = self._engine.pool
        # an engine with all that was done to it is given up; the next test gets another
        if pool.checkedout() or _shared_listeners(self._engine) != self._listeners:
            self.close()
        self._connections.idle(self._database, renewal)

    def close(self) -> None:
        """Close what is idle; the next call makes another engine."""
        self._connections.close_idle(self._database)
        self._connections.forget()
        self._engine = None


def _shared_listeners(engine: Engine) -> tuple[object, ...]:
    """Everybody who listens to what an engine shares with those that its `execution_options` make."""
    shared: tuple[Any, ...] = (engine.pool.dispatch, engine.dialect.dispatch)
    return tuple(
        (*getattr(dispatch, name),)
        for dispatch in shared
        for name in sorted(dispatch._event_names)  # noqa: SLF001
    )
