"""What engines hold open on clones: which of it is idle, and on which event loop it was opened."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from clonedb.errors import EndedTestError
from clonedb.sessions import driver_state, idle_connections
from clonedb.sessions.idle_connections import OWN
from clonedb.sessions.loops import OpenEntry, OpenOnLoops
from clonedb.sessions.open_sessions import sessions_on
from clonedb.sessions.reset import Renewal

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

    _InUse: TypeAlias = weakref.ref[PoolProxiedConnection]

__all__ = ["CloneMark", "Connections", "Idle", "mark_of"]

_MARK = "clonedb"  # the key of a connection's `info`, which SQLAlchemy empties when the connection is replaced


@dataclass(frozen=True, slots=True)
class CloneMark:
    """The clone that a connection leads to, None for any other place, and whether routing has sent it there.

    `template` is the one whose clones it is sent to.
    """

    database: str | None = None
    routed: bool = False
    template: str = "default"

    def put_on(self, entry: ConnectionPoolEntry | None) -> None:
        """Mark the connection that an entry of a pool has, or is about to make."""
        if entry is not None:
            entry.info[_MARK] = self


def mark_of(entry: OpenEntry) -> CloneMark | None:
    """The mark of an entry's connection; None for one that was made unseen."""
    mark: CloneMark | None = entry.info.get(_MARK)
    return mark


class Connections:
    """Connections to clones, from when they are opened until they are closed.

    With a `database` all of them lead there, and have no mark that says so.
    """

    def __init__(self, database: str | None = None) -> None:
        self._database = database
        # None while it is idle; weak, as SQLAlchemy takes back what a test forgot when it is
        # collected
        self._synchronous: dict[ConnectionPoolEntry, _InUse | None] = {}
        self._on_loops = OpenOnLoops(self._renew_pools)
        # the asynchronous ones that lead to clones, whose pools may be bound to a loop
        self._engines: weakref.WeakSet[Engine] = weakref.WeakSet()

    def opened(self, entry: ConnectionPoolEntry) -> None:
        """A connection to a clone was opened, by an asynchronous driver or another."""
        if hasattr(
            entry.dbapi_connection, "driver_connection"
        ):  # SQLAlchemy's adapter of an asynchronous driver
            self._on_loops.put(entry)
        else:
            self._synchronous[entry] = None

    def is_here(self, entry: ConnectionPoolEntry) -> bool:
        """Whether a connection can be used here, or closed: one that was opened on another loop cannot.

        It is set aside, to be closed there, and the entry needs a new one.
        """
        # one of a synchronous driver is on no loop
        loop = self._on_loops.loop_of(entry)
        if loop is None or loop is _running_loop():
            return True
        self._on_loops.replace(entry, _Aside(dict(entry.info), entry.dbapi_connection))
        entry.dbapi_connection = None  # type: ignore[misc]  # as its own detach does
        return False

    def handed_out(self, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection) -> None:
        """A connection is in use from now on."""
        if entry in self._synchronous:
            self._synchronous[entry] = weakref.ref(proxy)
        elif self._on_loops.loop_of(entry) is not None:
            self._on_loops.put(entry, proxy)
        else:
            return
        mark = mark_of(entry)
        # only what may stay open after the test is looked at
        if OWN in entry.info or (mark is not None and mark.routed):
            idle_connections.hand_out(entry)

    def handed_back(self, entry: ConnectionPoolEntry) -> None:
        """A connection is idle again."""
        if entry in self._synchronous:
            self._synchronous[entry] = None
        elif self._on_loops.loop_of(entry) is not None:
            self._on_loops.put(entry)

    def closed(self, entry: ConnectionPoolEntry) -> None:
        """A connection was closed, or was detached from the pool."""
        self._synchronous.pop(entry, None)
        self._on_loops.remove(entry)

    def seen(self, connection: Connection) -> None:
        """An engine was used; one that leads to clones has no other connections, so that its pool may be renewed."""
        mark = mark_of(connection.connection)
        if mark is not None and mark.routed and connection.dialect.is_async:
            self._engines.add(connection.engine)
        idle_connections.see(connection.connection, connection.engine)

    def heard(
        self, connection: Connection, _cursor: object, statement: str, *_: object
    ) -> None:
        """A statement is about to be sent."""
        idle_connections.listen(connection.connection, statement)

    def let_go(self, database: str) -> bool:
        """Close what a COPY or the like holds on a clone: whether there was any, for which a rollback would wait."""
        # those on loops are closed without a rollback, which alone would wait
        there = [entry for entry in self._synchronous if self._leads_to(entry, database)]
        closed = [driver_state.let_go(entry.dbapi_connection) for entry in there]
        return any(closed)

    def close_gone(self) -> None:
        """Close the idle connections that the server has ended, but not those on loops, which are asked later."""
        for entry, in_use in list(self._synchronous.items()):
            if in_use is None and idle_connections.is_gone(entry):
                entry.invalidate()

    def close_idle(self, database: str) -> None:
        """Close the idle connections to a clone; the others are the ones a test left open."""
        # a copy, as each connection that is closed leaves the dictionary
        for entry, in_use in list(self._synchronous.items()):
            if in_use is None and self._leads_to(entry, database):
                entry.invalidate()
        self._on_loops.close(
            lambda entry, in_use: not in_use and self._leads_to(entry, database)
        )
        self._renew_pools()

    def idle(self, database: str, renewal: Renewal) -> None:
        """Reset the idle connections to a clone, or begin with it; those that cannot stay are closed."""

        def stays(entry: OpenEntry) -> bool:
            pid = idle_connections.stay(entry, renewal.reset)
            if pid is not None:
                renewal.pids.append(pid)
            return pid is not None

        for entry, in_use in list(self._synchronous.items()):
            if in_use is None and self._leads_to(entry, database):
                idle_connections.begin(entry, renewal)

        self._on_loops.close(
            lambda entry, in_use: not in_use and self._leads_to(entry, database), spare=stays
        )
        self._renew_pools()

    def close_in_use(self, is_left: Callable[[str], bool], holder: str = "") -> None:
        """Close what is in use still on clones that were left; the server has ended it by now.

        An ORM session that holds such a connection is closed, too, so that a scoped session that
        was not removed begins anew when the next test uses it. A connection that is used
        instead raises EndedTestError, which names `holder`: the test that left it, as the one
        that meets it may be another.
        """

        def refuse(*_: object, **__: object) -> Any:
            raise EndedTestError(
                f"{holder} has ended with this connection still open, so that clonedb closed it; close it in that test,"
                " or have a fixture do so"
            )

        def is_stale(entry: OpenEntry) -> bool:
            database = self._database_of(entry)
            return database is not None and is_left(database)

        def leads_to_left(info: Mapping[Any, Any]) -> bool:
            mark: CloneMark | None = info.get(_MARK)
            return mark is not None and mark.database is not None and is_left(mark.database)

        # found before anything is closed, while their connections have their marks
        sessions = sessions_on(leads_to_left)
        for entry, in_use in list(self._synchronous.items()):
            if in_use is not None and is_stale(entry) and (proxy := in_use()) is not None:
                proxy.invalidate()
                # on the object that the code of the ended test may have kept
                if holder:
                    proxy.cursor = refuse  # type: ignore[method-assign]

        self._on_loops.close(lambda entry, in_use: in_use and is_stale(entry))
        for session in sessions:  # without a round trip: their connections are closed
            with contextlib.suppress(Exception):
                session.close()

    def end(self) -> None:
        """Close what is open still, and watch over nothing any more."""
        self.close_in_use(lambda _database: True)
        for entry, in_use in list(self._synchronous.items()):
            mark = mark_of(entry)
            if in_use is None and mark is not None and mark.routed:
                entry.invalidate()
        self.forget()

    def forget(self) -> None:
        """Watch over nothing any more; what is open on a loop is closed."""
        self._synchronous.clear()
        self._on_loops.end()

    def _database_of(self, entry: OpenEntry) -> str | None:
        mark = mark_of(entry)
        return self._database or (None if mark is None else mark.database)

    def _leads_to(self, entry: OpenEntry, database: str) -> bool:
        return self._database_of(entry) == database

    def _renew_pools(self) -> None:
        """Give asynchronous engines new pools when the old ones are empty.

        A pool waits for a free connection on an asyncio.Queue, which belongs to the first loop
        that waited.
        """
        from sqlalchemy.pool import QueuePool

        for engine in list(self._engines):
            pool = engine.pool
            if (
                isinstance(pool, QueuePool)
                and pool.checkedout() == 0
                and idle_connections.is_bound(pool)
            ):
                engine.dispose(close=False)


@dataclass(frozen=True, slots=True)
class Idle:
    """The idle ones of the connections to one clone, as a source of lasting ones."""

    connections: Connections
    database: str

    def idle(self, renewal: Renewal) -> None:
        """Reset them, and close what may not stay."""
        self.connections.idle(self.database, renewal)

    def close(self) -> None:
        """Close them."""
        self.connections.close_idle(self.database)


class _Aside:
    """A connection that was taken out of its pool, because its event loop is not the one that needs it."""

    def __init__(self, info: dict[Any, Any], connection: Any) -> None:
        self.info = info
        self._connection = connection

    def invalidate(self) -> None:
        """Close it; asyncpg's cannot when its loop was closed."""
        with contextlib.suppress(Exception):
            getattr(self._connection, "terminate", self._connection.close)()


def _running_loop() -> Any:
    with contextlib.suppress(RuntimeError):
        return asyncio.get_running_loop()
    return None
