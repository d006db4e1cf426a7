"""The application under test: its connections and its environment, led to the clone of the test.

Applications bind an engine or a pool at import, long before there is a test. They need no
change: listeners on SQLAlchemy's Engine and Pool classes see every connection of every engine,
whenever it was created, sync or async, and psycopg, psycopg2 and asyncpg are patched where all
their ways to connect meet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from clonedb.errors import RoutingError
from clonedb.names import parse
from clonedb.postgres import libpq_variables
from clonedb.postgres.address import Address, aimed_at, reached, redirect
from clonedb.postgres.drivers import WatchedDrivers
from clonedb.routing.driver_pools import DriverPools
from clonedb.routing.entered import Entered, Lent, Proof, no_proof
from clonedb.routing.environment import Environment
from clonedb.routing.places import DEFAULT, Places, Route
from clonedb.sessions import idle_connections
from clonedb.sessions.idle_connections import OWN
from clonedb.sessions.lasting import LastingConnections
from clonedb.sessions.loans import has_token
from clonedb.sessions.pooled import CloneMark, Connections, Idle, mark_of
from clonedb.url import DatabaseURL

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

__all__ = ["Router"]


class Router:
    """Sends connections aimed at the places in `route` to the clone that was entered last, and refuses them otherwise.

    An entry of `route` is the name of an environment variable, a URL, or "*" for every
    PostgreSQL engine; a mapping says which template's clones each is sent to. They are read
    once, here; `source` is the place in the configuration that named them, and `prefix` that of
    clones' names. `refuse` makes the exception for a connection that is refused, a RoutingError
    if it is not given. `look` is shown the parameters of each connection before it is led
    anywhere, and may raise: it refuses those of ended tests.

    Raises ConfigError for a variable that is not set, and for what is not the URL of a
    PostgreSQL database.
    """

    def __init__(
        self,
        route: Route,
        *,
        source: str,
        prefix: str,
        refuse: Callable[[str], BaseException] = RoutingError,
        look: Callable[..., None] = lambda *_: None,
    ) -> None:
        self._prefix = prefix
        self._refuse = refuse
        self._look_at = look
        self._defaults = libpq_variables.defaults()
        self._places = places = Places(route, source, self._defaults)
        self._environment = Environment(places.variables, self._defaults, places.labels)
        self._entered = Entered()
        self._connections = Connections()
        self._drivers = WatchedDrivers(lambda *_: None, self._lead)
        self._pools = DriverPools(self._aim)

        # the template to whose clone a driver's last connection of this thread or task was led
        self._led: ContextVar[str | None] = ContextVar("clonedb_led", default=None)

    def others(self, template: str) -> list[str]:
        """The templates that have places in `route`, but for the one that this template's clones stand for."""
        return sorted(self._places.templates - {self._places.stands_for(template)})

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
        self._pools.install()
        self._environment.lead_nowhere(libpqs_place=libpqs_place)

    def uninstall(self) -> None:
        """Leave what is entered still, and listen no more; the environment is what it was."""
        from sqlalchemy import event

        for url in self._entered.urls:
            self.leave(url)
        for target, name, listener in self._listeners():
            event.remove(target, name, listener)
        self._connections.end()
        self._pools.uninstall()
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
        self,
        url: DatabaseURL,
        *,
        template: str = DEFAULT,
        stands_in: bool = False,
        proof: Proof = no_proof,
    ) -> None:
        """From now on connections go to this database, until it is left or another is entered.

        `template` is its template's name: one that `route` does not name stands for the
        project's own. `proof` says what a driver is told besides, so that it never sends the
        password in the clear (Server.proof_only).

        One that `stands_in` serves what runs between tests: an engine made from the environment
        meanwhile is the application's, and reaches the tests' clones later. One aimed at any
        other clone is left alone while that lasts.
        """
        assert url.database is not None  # noqa: S101 - a clone's has its name
        template = self._places.stands_for(template)
        if (below := self._entered.current(template)) is not None:
            self._pools.close_idle(below.name)
        self._entered.enter(Lent(url, template, proof), stands_in=stands_in)
        self._lead_environment()

    def leave(self, url: DatabaseURL, *, lasting: LastingConnections | None = None) -> None:
        """Take a database back: the one below is the one to go to.

        Nothing idle stays connected to it, unless `lasting` is reused: it gets that as a source
        of its own.
        """
        assert url.database is not None  # noqa: S101 - a clone's has its name
        # first, or a rollback would wait for a COPY that was left open
        self._connections.let_go(url.database)
        # before anything is closed: what reconnects meanwhile is not to come back here
        is_left = self._entered.leave(url.database)
        self._lead_environment()
        if is_left:
            self._pools.close_idle(url.database)
            if lasting is not None and lasting.reused:
                idle = Idle(self._connections, url.database)
                lasting.source("the application's", lambda: idle)
            else:
                self._connections.close_idle(url.database)

    def _lead_environment(self) -> None:
        """The variables lead to the databases that are entered now; libpq's to the project's own, if there is one."""
        # libpq's variables name one database: the clone of the project's own template, if any
        last = self._entered.current(DEFAULT) or self._entered.current()
        if last is None:
            self._environment.leave()
            return

        apart: dict[str, DatabaseURL | None] = {}
        for name in self._places.variables:
            own = self._entered.current(self._places.template_of(name))
            if own is not last:
                apart[name] = None if own is None else own.url
        self._environment.lead_to(last.url, apart)

    def close_leaked(self, holder: str = "") -> None:
        """Close what `holder` left in use on clones that were left, after they have been counted."""
        self._connections.close_in_use(lambda database: not self._entered.has(database), holder)

    def _template(self, address: Address) -> str | None:
        """The template whose clone connections to a place are sent to; None for those that are left alone."""
        name = address.database
        # a clone by its own name is meant, unless that was handed out between tests
        if parse(self._prefix, name) is not None or self._entered.has(name):
            return self._entered.stands_in(name)
        return self._places.find(address)

    def _aimed_at(
        self, positional: list[Any], keywords: Mapping[str, Any]
    ) -> tuple[Address, str | None]:
        """The place that a driver is told, and the template whose clone it is sent to, if there is one.

        What it is not told, such as the port, libpq's variables say: those of a test with a
        clone, or those that the application was started with.
        """
        address = aimed_at(positional, keywords, libpq_variables.defaults())
        if (template := self._template(address)) is not None:
            return address, template
        # by the variables of now it may be a clone, by those of the start a place in `route`
        return address, self._template(aimed_at(positional, keywords, self._defaults))

    def _aim(
        self, positional: list[Any], keywords: Mapping[str, Any]
    ) -> Callable[[], object] | None:
        """What raises if there is no clone for the parameters of a pool; None if they are not the application's.

        They are, too, if they come from the environment of a test that has a clone.
        """
        address, template = self._aimed_at(positional, keywords)
        if template is not None:
            return lambda: self._require(template, address)
        if self._entered.has(address.database) and not has_token(positional, keywords):
            return lambda: None
        return None

    def _require(self, template: str, address: Address) -> Lent:
        """The clone that connections to a place are sent to; raises when there is none now."""
        __tracebackhide__ = True
        if (lent := self._entered.current(template)) is not None:
            return lent
        if template == DEFAULT:
            what, whose, ask = "the clone of the test", "", "the fixture `clonedb`"
        else:
            what = f"the test's clone of template {template!r}"
            whose = f" of template {template!r}"
            ask = f"a fixture made by `clonedb.fixture(template={template!r})`"
        raise self._refuse(
            f"a connection to database {address} was refused: {self._places.shown} sends it to {what}, and"
            f" there is none now; ask for {ask} in the test or the fixture that connects, or write"
            f" `autouse = true` in [tool.clonedb] to give every test a clone{whose}; code that runs at import cannot"
            " have one"
        )

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
        # "*" comes last: a place that is named may have a template of its own
        template = self._template(address) or self._of_everything(address)
        if template is None:
            known = self._entered.has(address.database)
            CloneMark(address.database if known else None).put_on(entry)
            return None

        lent = self._require(template, address)
        positional, keywords = list(positional), dict(keywords)
        redirect(lent.url, dialect.driver, positional, keywords)
        keywords.update(lent.proof(dialect.driver))
        CloneMark(lent.name, routed=True, template=template).put_on(entry)
        try:
            return dialect.connect(*positional, **keywords)
        except Exception as error:  # noqa: BLE001 - of whatever driver
            # pytest shows the arguments of every frame, and those below this one hold the
            # password
            raise error.with_traceback(None) from None

    def _of_everything(self, address: Address) -> str | None:
        """The template that "*" has for an engine which is not aimed at a clone."""
        if parse(self._prefix, address.database) is not None:
            return None
        return None if self._entered.has(address.database) else self._places.of_everything()

    def _lead(self, driver: str, positional: list[Any], keywords: dict[str, Any]) -> bool:
        """A driver is about to connect, by itself or for an engine: whether it was led to a clone.

        "*" is for engines: other code of the process connects by drivers, too.
        """
        __tracebackhide__ = True
        # that of the connection before is not for the next creator
        self._led.set(None)
        # clonedb's own sessions, and those by a URL that a test was handed (its token)
        if str(keywords.get("application_name", "")).startswith("clonedb"):
            return False
        address, template = self._aimed_at(positional, keywords)
        if template is None:
            return False
        lent = self._require(template, address)
        self._led.set(template)
        # it is there already, as what reads the environment while a test has a clone
        if address.is_at(Address.of(lent.url.conninfo(), self._defaults)):
            return False
        redirect(lent.url, driver, positional, keywords)
        keywords.update(lent.proof(driver))
        return True

    def _look(self, dbapi_connection: Any, entry: ConnectionPoolEntry) -> None:
        """A connection was opened: if it was not by its engine, but by a `creator`, then see where it leads."""
        if OWN in entry.info:  # the code that made it watches over it
            CloneMark().put_on(entry)
            return

        mark = mark_of(entry)
        if mark is None or (mark.database is None and not mark.routed):
            address = reached(dbapi_connection, self._defaults)
            known = address is not None and self._entered.has(address.database)
            if address is not None and not known:
                self._refuse_unseen(dbapi_connection, address)
            if mark is None:
                mark = self._mark_of_creator(address) if known and address else CloneMark()
                mark.put_on(entry)

        if mark.database is not None:
            self._connections.opened(entry)

    def _refuse_unseen(self, dbapi_connection: Any, address: Address) -> None:
        """Raises for a connection to a place in `route` by a driver that is not patched."""
        if (self._template(address) or self._of_everything(address)) is None:
            return
        # SQLAlchemy would leave open what a listener to `connect` refuses
        dbapi_connection.close()
        raise self._refuse(
            f"an engine that makes its connections itself (a creator, a service file) reached database {address}:"
            f" {self._places.shown} means the clone of the test, and its driver cannot be led there, so it was refused;"
            " make the engine from a URL, or let its creator ask for a clone's (`clonedb.dsn`, or the environment"
            " while a test has a clone)"
        )

    def _mark_of_creator(self, address: Address) -> CloneMark:
        """What a creator's driver was led to, or got between tests from the environment, follows the tests' clones."""
        template = self._led.get() or self._entered.stands_in(address.database)
        return CloneMark(
            address.database, routed=template is not None, template=template or DEFAULT
        )

    def _hand_out(
        self, dbapi_connection: Any, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        """A pool is about to hand out a connection: one that leads elsewhere by now is replaced."""
        from sqlalchemy.exc import DisconnectionError

        mark = mark_of(entry)
        if mark is None:  # opened before there was a listener
            address = reached(dbapi_connection, self._defaults)
            template = address and (self._template(address) or self._of_everything(address))
            mark = CloneMark(routed=template is not None, template=template or DEFAULT)
            mark.put_on(entry)

        if mark.routed:
            lent = self._entered.current(mark.template)
            stale = lent is None or mark.database != lent.name
        else:
            stale = mark.database is not None and not self._entered.has(mark.database)

        if not self._connections.is_here(entry) or stale or idle_connections.is_outdated(entry):
            raise DisconnectionError("the clone, the event loop or a listener has changed")
        self._connections.handed_out(entry, proxy)

    def _take_back(self, dbapi_connection: Any, entry: ConnectionPoolEntry) -> None:
        """A pool gets a connection back: none to a clone that is no more is kept of those that were sent there."""
        if dbapi_connection is None:
            return
        mark = mark_of(entry)
        if mark is not None and mark.routed and not self._entered.has(mark.database):
            entry.invalidate()
        else:
            self._connections.handed_back(entry)

    def _close(self, _dbapi_connection: Any, entry: ConnectionPoolEntry) -> None:
        self._connections.closed(entry)
