"""What stays open on one clone from test to test: connections of clonedb's own fixtures, and of the application."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from clonedb.sessions.lasting_connection import LastingConnection
from clonedb.sessions.reset import Renewal, SessionReset
from clonedb.sessions.sessionmakers import Sessionmakers

if TYPE_CHECKING:
    from typing import Any

    from psycopg import Connection
    from sqlalchemy.engine import Engine
    from sqlalchemy.orm import Session, sessionmaker

    from clonedb.sessions.lasting_engine import LastingEngine
    from clonedb.sessions.loans import Loan

__all__ = ["LastingConnections", "Source"]


class Source(Protocol):
    """What holds connections to the database open: a psycopg connection, an engine's pool, the application's pools."""

    def idle(self, renewal: Renewal) -> None:
        """Begin to reset the idle connections, or do it at once; what cannot be reset is closed."""

    def close(self) -> None:
        """Close the idle connections."""


S = TypeVar("S", bound=Source)


class LastingConnections:
    """The sources of connections to one clone: `connection`, which is psycopg's, and others by their names.

    Opening a connection costs a test 4 ms, which is more than rewinding its database does. What
    a test did to one does not reach the next: the session is reset on the server, the Python
    objects are new or as they were, and a connection to which something was done that no reset
    takes away is closed. `reused` says whether the isolation that hands the database on asks
    for them with `renew`, as other sources want to know.
    """

    def __init__(
        self,
        database: str,
        make_engine: Callable[[], Engine],
        connect: Callable[[], Connection[Any]],
    ) -> None:
        self._database = database
        self._make_engine = make_engine
        self.connection: LastingConnection = LastingConnection(connect)
        self._sources: dict[str, Source] = {}
        self._engine: LastingEngine | None = None
        self._sessionmakers = Sessionmakers({})
        self.reused = False

    def source(self, name: str, make: Callable[[], S]) -> S:
        """The one source of a name, made when there is none."""
        if name not in self._sources:
            self._sources[name] = make()
        return cast("S", self._sources[name])

    def engine(self, loan: Loan | None = None) -> Engine:
        """An engine of the caller's own, to listen to and to set options on, with the pool of all of them."""
        from clonedb.sessions.lasting_engine import LastingEngine

        self._engine = self.source(
            "engine", lambda: LastingEngine(self._database, self._make_engine)
        )
        return self._engine.engine(loan)

    def sessionmaker(self, engine: Engine) -> sessionmaker[Session]:
        """A sessionmaker of the caller's own, bound to an engine."""
        return self._sessionmakers.get(bind=engine)

    def let_go(self) -> bool:
        """Close what a COPY, a `stream()` or the like holds of the engine's connections: whether there was any."""
        return self._engine is not None and self._engine.let_go()

    def renew(self, reset: SessionReset) -> Renewal:
        """Begin to reset the idle connections; what cannot be reset is closed."""
        renewal = Renewal(reset)
        for source in (*self._sources.values(), self.connection):
            source.idle(renewal)
        return renewal

    def close(self) -> None:
        """Close all of it; the next call opens anew."""
        self.connection.close()
        while self._sources:
            self._sources.popitem()[1].close()
