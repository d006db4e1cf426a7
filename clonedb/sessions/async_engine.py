"""An asynchronous engine of clonedb's own on one clone, whose idle connections may stay open from test to test."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from clonedb.sessions import idle_connections
from clonedb.sessions.kept import OWN, shared_listeners
from clonedb.sessions.loops import running_loop
from clonedb.sessions.pooled import CloneMark, Connections
from clonedb.sessions.renewal import Renewal

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

__all__ = ["LastingAsyncEngine"]


class LastingAsyncEngine:
    """The pool of an asynchronous engine, as a source of a clone's lasting connections.

    What is idle after a test stays if its loop is open then, and is closed with its loop. A
    connection serves on the loop that it was opened on and on no other.
    """

    def __init__(self, database: str, make_engine: Callable[[], Engine]) -> None:
        self._database = database
        self._make_engine = make_engine
        self._connections = Connections()
        self._engine: Engine | None = None
        self._listeners: tuple[object, ...] = ()

    def engine(self) -> AsyncEngine:
        """An engine of the caller's own, to listen to and to set options on, with the pool of all of them."""
        from sqlalchemy.ext.asyncio import AsyncEngine

        if self._engine is None:
            self._engine = self._make_engine()
            self._watch(self._engine)
            self._listeners = shared_listeners(self._engine)
        return AsyncEngine(self._engine.execution_options())

    def _watch(self, engine: Engine) -> None:
        from sqlalchemy import event

        event.listen(engine, "do_connect", self._claim)
        event.listen(engine, "connect", self._open)
        event.listen(engine, "checkout", self._hand_out)
        event.listen(
            engine, "checkin", lambda _connection, entry: self._connections.handed_back(entry)
        )
        event.listen(
            engine, "close", lambda _connection, entry: self._connections.closed(entry)
        )
        event.listen(
            engine, "detach", lambda _connection, entry: self._connections.closed(entry)
        )
        event.listen(engine, "engine_connect", self._connections.seen)
        event.listen(engine, "before_cursor_execute", self._connections.heard)

    def _claim(self, _dialect: object, entry: ConnectionPoolEntry, *_: object) -> None:
        running_loop()
        entry.info[OWN] = True

    def _open(self, _connection: object, entry: ConnectionPoolEntry) -> None:
        CloneMark(self._database).put_on(entry)
        self._connections.opened(entry)

    def _hand_out(
        self, _connection: object, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        from sqlalchemy.exc import DisconnectionError

        if not self._connections.is_here(entry) or idle_connections.is_outdated(entry):
            raise DisconnectionError("the event loop or a listener has changed")
        self._connections.handed_out(entry, proxy)

    def close_in_use(self) -> None:
        """The test has ended: close what it left in use."""
        self._connections.close_in_use(lambda _database: True)

    def idle(self, renewal: Renewal) -> None:
        """Reset what is idle, and close what may not stay; all of it if the test listened to the pool."""
        if self._engine is not None and shared_listeners(self._engine) != self._listeners:
            self.close()
        self._connections.idle(self._database, renewal)

    def close(self) -> None:
        """Close all of it; the next call opens anew."""
        self._connections.close_idle(self._database)
        self._connections.end()
        self._engine = None
