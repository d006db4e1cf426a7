"""The application under test: its SQLAlchemy connections and its environment, led to the clone of the test.

Applications bind an engine at import, long before there is a test. They need no change:
listeners on SQLAlchemy's Engine and Pool classes see every connection of every engine, whenever
it was created, sync or async.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clonedb.errors import ConfigError, RoutingError
from clonedb.names import parse
from clonedb.postgres import libpq_variables
from clonedb.postgres.address import Address, aimed_at, reached, redirect
from clonedb.postgres.drivers import WatchedDrivers
from clonedb.routing.environment import EVERYTHING, Environment, variables_in
from clonedb.sessions import idle_connections
from clonedb.sessions.idle_connections import OWN
from clonedb.sessions.lasting import LastingConnections
from clonedb.sessions.pooled import CloneMark, Connections, Idle, mark_of
from clonedb.settings.keys import nearest
from clonedb.url import DatabaseURL, redact_url

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

__all__ = ["Router"]


Proof = Callable[[str], Mapping[str, Any]]
"""Keywords for a driver's connect()."""


def _no_proof(_driver: str) -> Mapping[str, Any]:
    return {}


class Router:
    """Sends connections aimed at the places in `route` to the clone that was entered last, and refuses them otherwise.

    An entry of `route` is the name of an environment variable, a URL, or "*" for every
    PostgreSQL engine. They are read once, here; `source` is the place in the configuration that
    named them, and `prefix` that of clones' names. `refuse` makes the exception for a
    connection that is refused, a RoutingError if it is not given. `look` is shown the
    parameters of each connection before it is led anywhere, and may raise: it refuses those of
    ended tests.

    Raises ConfigError for a variable that is not set, and for what is not the URL of a
    PostgreSQL database.
    """

    def __init__(
        self,
        route: Sequence[str],
        *,
        source: str,
        prefix: str,
        refuse: Callable[[str], BaseException] = RoutingError,
        look: Callable[..., None] = lambda *_: None,
    ) -> None:
        self._shown = (
            f"route = [{', '.join(repr(redact_url(entry)) for entry in route)}] ({source})"
        )
        self._everything = EVERYTHING in route
        self._prefix = prefix
        self._refuse = refuse
        self._look_at = look
        self._defaults = libpq_variables.defaults()
        variables = {name: _variable(name, source) for name in variables_in(route)}
        urls = [
            DatabaseURL.parse(entry, f"{source}: route") for entry in route if "://" in entry
        ]
        self._addresses = [
            Address.of(url.conninfo(), self._defaults) for url in (*variables.values(), *urls)
        ]
        self._environment = Environment(variables, self._defaults)
        self._connections = Connections()
        self._drivers = WatchedDrivers(lambda *_: None, self._guard)
        self._entered: list[DatabaseURL] = []
        self._proofs: dict[str, Proof] = {}
        self._standing_in: set[str] = set()

    @property
    def found(self) -> Mapping[str, str | None]:
        """What the variables held that are led at the moment; None for those that were not set."""
        return self._environment.found

    def install(self, *, libpqs_place: bool = True) -> None:
        """Listen to SQLAlchemy, from here on, and lead the environment nowhere, until a database is entered.

        Without `libpqs_place` libpq's variables go on to say which server they mean, but not
        which database.
        """
        from sqlalchemy import event

        for target, name, listener in self._listeners():
            event.listen(target, name, listener)
        self._drivers.install()
        self._environment.lead_nowhere(libpqs_place=libpqs_place)

    def uninstall(self) -> None:
        """Leave what is entered still, and listen no more; the environment is what it was."""
        from sqlalchemy import event

        for url in reversed(self._entered.copy()):
            self.leave(url)
        for target, name, listener in self._listeners():
            event.remove(target, name, listener)
        self._connections.end()
        self._drivers.uninstall()
        self._environment.restore()

    def _listeners(self) -> list[tuple[Any, str, Callable[..., Any]]]:
        from sqlalchemy.engine import Engine
        from sqlalchemy.pool import Pool

        return [
            (Engine, "do_connect", self._send),
            (Engine, "engine_connect", self._connections.seen),
            (Engine, "before_cursor_execute", self._connections.heard),
            (Pool, "connect", self._look),
            (Pool, "checkout", self._hand_out),
            (Pool, "checkin", self._take_back),
            (Pool, "close", self._close),
            (Pool, "detach", self._close),
        ]

    def enter(
        self, url: DatabaseURL, *, stands_in: bool = False, proof: Proof = _no_proof
    ) -> None:
        """From now on connections go to this database, until it is left or another is entered.

        `proof` says what a driver is told besides, so that it never sends the password in the
        clear (Server.proof_only).

        One that `stands_in` serves what runs between tests: an engine made from the environment
        meanwhile is the application's, and reaches the tests' clones later. One aimed at any
        other clone is left alone while that lasts.
        """
        assert url.database is not None  # noqa: S101 - a clone's has its name
        if stands_in:
            self._standing_in.add(url.database)
        elif not self._is_entered(url.database):
            self._standing_in.discard(url.database)
        self._entered.append(url)
        self._proofs[url.database] = proof
        self._environment.lead_to(url)

    def leave(self, url: DatabaseURL, *, lasting: LastingConnections | None = None) -> None:
        """Take a database back: the one below is the one to go to.

        Nothing idle stays connected to it, unless `lasting` is reused: it gets that as a source
        of its own.
        """
        if url.database is not None:
            self._connections.let_go(url.database)
        for index in reversed(range(len(self._entered))):
            if self._entered[index].database == url.database:
                del self._entered[index]
                break

        if self._entered:
            self._environment.lead_to(self._entered[-1])
        else:
            self._environment.leave()

        if url.database is not None and not self._is_entered(url.database):
            self._standing_in.add(
                url.database
            )  # who is still aimed there got it from the environment
            if lasting is not None and lasting.reused:
                idle = Idle(self._connections, url.database)
                lasting.source("the application's", lambda: idle)
            else:
                self._connections.close_idle(url.database)

    def close_leaked(self, holder: str = "") -> None:
        """Close what `holder` left in use on clones that were left, after they have been counted."""
        self._connections.close_in_use(lambda database: not self._is_entered(database), holder)

    def _is_entered(self, database: str | None) -> bool:
        return any(url.database == database for url in self._entered)

    def _current(self) -> str | None:
        return self._entered[-1].database if self._entered else None

    def _is_meant(self, address: Address) -> bool:
        """Whether connections to a place are the application's, to be routed."""
        if parse(self._prefix, address.database) is not None or self._is_entered(
            address.database
        ):
            return address.database in self._standing_in
        return self._everything or self._is_applications(address)

    def _is_applications(self, address: Address) -> bool:
        """Whether it is what `route` names, or what the variables name while there is no clone."""
        return address.is_nowhere or any(address.is_at(other) for other in self._addresses)

    def _send(
        self,
        dialect: Dialect,
        entry: ConnectionPoolEntry | None,
        positional: list[Any],
        keywords: dict[str, Any],
    ) -> Any:
        """An engine is about to connect: the connection to a clone, or None where it may do that itself.

        SQLAlchemy 2.0 keeps what a listener changes in the arguments, for good, so they are
        copied. No listener comes after one that returns a connection, so none leads it away
        from the clone or puts another password in.
        """
        __tracebackhide__ = True  # pytest would show the keywords, and with them a password
        if dialect.name != "postgresql":
            CloneMark().put_on(entry)
            return None

        self._look_at(*positional, *keywords.values())
        address = aimed_at(positional, keywords, self._defaults)
        if not self._is_meant(address):
            CloneMark(address.database if self._is_entered(address.database) else None).put_on(
                entry
            )
            return None

        if not self._entered:
            raise self._refuse(
                f"a connection to database {address} was refused: {self._shown} sends it to the clone of the test, and"
                " there is none now; ask for the fixture `clonedb` in the test or the fixture that connects, or write"
                " `autouse = true` in [tool.clonedb] to give every test a clone; code that runs at import cannot have"
                " one"
            )

        positional, keywords = list(positional), dict(keywords)
        to = self._entered[-1]
        redirect(to, dialect.driver, positional, keywords)
        keywords.update(self._proofs[str(to.database)](dialect.driver))
        CloneMark(self._current(), routed=True).put_on(entry)
        try:
            return dialect.connect(*positional, **keywords)
        except Exception as error:  # noqa: BLE001 - of whatever driver
            # pytest shows the arguments of every frame, and those below this one hold the
            # password
            raise error.with_traceback(None) from None

    def _guard(self, positional: list[Any], keywords: Mapping[str, Any]) -> None:
        """A driver is about to connect: for an engine that was led already, for clonedb, or by itself: refused."""
        __tracebackhide__ = True
        if str(keywords.get("application_name", "")).startswith("clonedb"):
            return
        address = aimed_at(positional, keywords, libpq_variables.defaults())
        if self._is_applications(address):
            raise self._refuse(
                f"a connection to database {address} was refused: {self._shown} means the clone of the test, and only"
                " SQLAlchemy's engines that are made from a URL can be led there; use `clonedb_dsn`, or read the"
                " variable when you connect, in a test that has a clone"
            )

    def _look(self, dbapi_connection: Any, entry: ConnectionPoolEntry) -> None:
        """A connection was opened: if it was not by its engine, but by a `creator`, then see where it leads."""
        if OWN in entry.info:  # the code that made it watches over it
            CloneMark().put_on(entry)
            return

        mark = mark_of(entry)
        if mark is None or (mark.database is None and not mark.routed):
            address = reached(dbapi_connection, self._defaults)
            if (
                address is not None
                and self._is_meant(address)
                and not self._is_entered(address.database)
            ):
                dbapi_connection.close()
                raise self._refuse(
                    f"an engine that makes its connections itself (a creator, a service file) reached database"
                    f" {address}:"
                    f" {self._shown} means the clone of the test, so it was refused; make the engine from a URL, or let"
                    " its creator ask for a clone's (`clonedb.dsn`, or the environment while a test has a clone)"
                )

            if mark is None:
                ours = address is not None and self._is_entered(address.database)

                # what a creator got between tests, it got from the environment
                mark = (
                    CloneMark(address.database, routed=self._is_meant(address))
                    if ours and address is not None
                    else CloneMark()
                )
                mark.put_on(entry)

        if mark.database is not None:
            self._connections.opened(entry)

    def _hand_out(
        self, dbapi_connection: Any, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        """A pool is about to hand out a connection: one that leads elsewhere by now is replaced."""
        from sqlalchemy.exc import DisconnectionError

        mark = mark_of(entry)
        if mark is None:  # opened before there was a listener
            address = reached(dbapi_connection, self._defaults)
            mark = CloneMark(routed=address is not None and self._is_meant(address))
            mark.put_on(entry)

        if mark.routed:
            stale = mark.database is None or mark.database != self._current()
        else:
            stale = mark.database is not None and not self._is_entered(mark.database)

        if not self._connections.is_here(entry) or stale or idle_connections.is_outdated(entry):
            raise DisconnectionError("the clone, the event loop or a listener has changed")
        self._connections.handed_out(entry, proxy)

    def _take_back(self, dbapi_connection: Any, entry: ConnectionPoolEntry) -> None:
        """A pool gets a connection back: none to a clone that is no more is kept of those that were sent there."""
        if dbapi_connection is None:
            return
        mark = mark_of(entry)
        if mark is not None and mark.routed and not self._is_entered(mark.database):
            entry.invalidate()
        else:
            self._connections.handed_back(entry)

    def _close(self, _dbapi_connection: Any, entry: ConnectionPoolEntry) -> None:
        self._connections.closed(entry)


def _variable(name: str, source: str) -> DatabaseURL:
    """The URL in an environment variable; raises ConfigError."""
    if not (text := os.environ.get(name)):
        raise ConfigError(
            f"{source}: route names the environment variable {name!r}, which is not set{nearest(name, os.environ)};"
            " set it, or write the application's URL itself, or '*' for every PostgreSQL engine"
        )
    return DatabaseURL.parse(text, f"{source}: route: variable {name!r}")
