"""How a background thread works on the maintenance database: by a session of its own, at once, and with rests."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from clonedb.originals import getpid, monotonic
from clonedb.postgres import sql
from clonedb.postgres.server import Server

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Backoff", "MaintenanceSession", "OwnSession", "drop_at_once", "is_owned"]

T = TypeVar("T")
P = ParamSpec("P")

_LONGEST = 5.0  # seconds between two attempts, in the end, when the server makes no clones


class MaintenanceSession(Protocol):
    """Who runs statements on the maintenance database: the server, or a pool's session of its own."""

    def run(
        self,
        function: Callable[Concatenate[Connection[Any], P], T],
        /,
        *arguments: P.args,
        **named: P.kwargs,
    ) -> T:
        """Call a function with the session."""


class OwnSession:
    """One thread's session with the maintenance database, opened on first need and again after it was lost."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: Connection[Any] | None = None

    def run(
        self,
        function: Callable[Concatenate[Connection[Any], P], T],
        /,
        *arguments: P.args,
        **named: P.kwargs,
    ) -> T:
        """Call a function with the session; what it raises is the caller's."""
        if self._connection is None or self._connection.closed:
            self._connection = _connect(self._server)
        return function(self._connection, *arguments, **named)

    def close(self) -> None:
        """End it."""
        if self._connection is not None:
            self._connection.close()


class Backoff:
    """When to try again what has failed: 0.1 s after the first time, in the end every 5 s."""

    def __init__(self) -> None:
        self.end: float = 0.0
        self._seconds = 0.0

    def begin(self) -> None:
        """It failed."""
        self._seconds = min(_LONGEST, max(0.1, self._seconds * 2))
        self.end = monotonic() + self._seconds

    def forget(self) -> None:
        """It worked."""
        self.end = self._seconds = 0.0


def drop_at_once(server: Server, names: Sequence[str]) -> None:
    """Drop databases at the same time, by a session each, as far as the server lets us; what fails is left.

    With fsync on each DROP DATABASE waits for a checkpoint of its own, 280 ms, if they come one
    after the other; four that wait together share one and take 70 to 220 ms in all (measured).
    """
    from psycopg.sql import SQL, Identifier

    sessions: list[Connection[Any]] = []
    with contextlib.suppress(Exception):
        for name in names:
            sessions.append(_connect(server))
            sql.make_droppable(sessions[-1], name)
            sql.limit_drops(sessions[-1])
            statement = SQL("drop database if exists {}").format(Identifier(name))
            # sent by libpq, which does not wait for the answer
            sessions[-1].pgconn.send_query(statement.as_bytes(sessions[-1]))

    for connection in sessions:
        with contextlib.suppress(Exception):
            # None: all of the answer has come
            while connection.pgconn.get_result() is not None:
                pass

        connection.close()


def is_owned(server: Server, name: str) -> bool:
    """Whether this process's databases are safe from collection: the owner's session lives.

    It holds the owner's lock, and is still the same. A session that the server has ended shows that
    by a socket that can be read, which costs no round trip.
    """
    # a lost session is replaced, by which the process may get another owner's name
    server.run(_look)
    return f"_{server.owner}_" in name


def _look(connection: Connection[Any]) -> None:
    # a notification makes it readable, too, so that a query decides
    readable = select.poll()
    readable.register(connection.pgconn.socket, select.POLLIN)
    if readable.poll(0):
        connection.execute("select")


def _connect(server: Server) -> Connection[Any]:
    # PostgreSQL keeps 63 bytes of application_name
    name = f"clonedb pool on {socket.gethostname()}, pid {getpid()}"[:63]
    connection = server.connect(server.config.maintenance_database, application_name=name)
    connection.execute("set statement_timeout = 0; set lock_timeout = 0")
    return connection
