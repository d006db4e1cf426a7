"""Databases: what a test, or a `with template.database()` block, has of a clone while it has it."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from clonedb.clones.clone import Clone
from clonedb.url import DatabaseURL

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Connection
    from sqlalchemy.engine import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
    from sqlalchemy.orm import Session, sessionmaker

    from clonedb.clones.async_engine import Around
    from clonedb.sessions.loans import Loan

__all__ = ["Database", "PlainDatabase"]


class Database(abc.ABC):
    """A clone as one test has it, or the tests of a wider scope: its name, its URLs, and what connects to it.

    `clone` goes on to later tests. With a `loan`, what this object hands out is refused when
    that has ended. Each isolation decides what a connection is (`Isolation.database`); the
    fixtures ask for nothing but these methods.
    """

    def __init__(self, clone: Clone, loan: Loan | None = None) -> None:
        self.clone: Clone = clone
        self.loan: Loan | None = loan

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"

    @property
    def name(self) -> str:
        """The database's name."""
        return self.clone.name

    @property
    def url(self) -> str:
        """`postgresql+psycopg://user:password@host:port/name`, for SQLAlchemy, with the configured driver."""
        return self.clone.endpoint(self.loan).url

    @property
    def dsn(self) -> str:
        """`postgresql://user:password@host:port/name`, for libpq, psycopg and other languages."""
        return self.clone.endpoint(self.loan).dsn

    @property
    def route(self) -> DatabaseURL:
        """Where the application's own connections are sent; the router tells by itself whose they are."""
        return DatabaseURL.parse(self.clone.url)

    def explain(self, error: BaseException) -> str | None:
        """What a failed test did, if an error is the server's answer to what its isolation does not allow."""
        del error
        return None

    @abc.abstractmethod
    def connect(self, **keywords: Any) -> Connection[Any]:
        """A new psycopg connection; keywords are those of `psycopg.connect`."""

    @abc.abstractmethod
    def engine(self, **keywords: Any) -> Engine:
        """A new synchronous SQLAlchemy engine; keywords are those of `create_engine`.

        Its driver is the configured one, or psycopg if that is asyncpg, which has no
        synchronous side.
        """

    @abc.abstractmethod
    def sessionmaker(self, engine: Callable[[], Engine] | None = None) -> sessionmaker[Session]:
        """A sessionmaker on `lasting_engine`; `engine` gives another one to bind it to, if it is bound to any."""

    @abc.abstractmethod
    def async_sessionmaker(
        self, engine: Callable[[], AsyncEngine] | None = None, *, around: Around | None = None
    ) -> contextlib.AbstractContextManager[async_sessionmaker[AsyncSession]]:
        """The same on `async_engine`; at the end of the context what is open still is closed."""

    @abc.abstractmethod
    def async_engine(
        self, *, around: Around | None = None
    ) -> contextlib.AbstractContextManager[AsyncEngine]:
        """An asynchronous SQLAlchemy engine; at the end of the context what is open on it still is closed.

        Connections that are idle then may stay open for the next test. `around` wraps the
        driver's function that connects, which a test may have taken sockets away from.
        """

    @abc.abstractmethod
    def async_connection(self) -> contextlib.AbstractContextManager[AsyncConnection[Any]]:
        """An asynchronous psycopg connection, which is closed at the end of the context."""

    @abc.abstractmethod
    def lasting_connection(
        self, in_the_middle: Callable[[], None]
    ) -> contextlib.AbstractContextManager[Connection[Any]]:
        """A psycopg connection that may stay open for the next test, without what was not committed.

        `in_the_middle` is called at the end of the context if a COPY or the like was left open
        on it.
        """

    @abc.abstractmethod
    def lasting_engine(self) -> Engine:
        """An engine for this test alone, on a pool whose connections may stay open for the next one."""

    @abc.abstractmethod
    def fill(self, seed: Callable[..., Any]) -> None:
        """Run a function that fills the database, as `seed` in the configuration would for the template."""

    @abc.abstractmethod
    def let_go(self) -> bool:
        """Close what was left in the middle of a COPY or the like on connections of clonedb's: whether there was any.

        Psycopg's rollback would wait for that for ever.
        """


class PlainDatabase(Database):
    """As many connections as a test likes, each with commits of its own."""

    def connect(self, **keywords: Any) -> Connection[Any]:
        """Open one."""
        __tracebackhide__ = True
        return self.clone.endpoint(self.loan).connect(**keywords)

    def engine(self, **keywords: Any) -> Engine:
        """An engine that is disposed of when the test has ended."""
        return self.clone.disposing_of(self.clone.endpoint(self.loan).engine(**keywords))

    def sessionmaker(self, engine: Callable[[], Engine] | None = None) -> sessionmaker[Session]:
        """Its sessions commit."""
        bind = self.lasting_engine() if engine is None else engine()
        return self.clone.lasting.sessionmaker(bind)

    @contextlib.contextmanager
    def async_sessionmaker(
        self, engine: Callable[[], AsyncEngine] | None = None, *, around: Around | None = None
    ) -> Iterator[async_sessionmaker[AsyncSession]]:
        """Objects stay readable after a commit.

        With `expire_on_commit` the first attribute read after a commit would be I/O, which
        asyncio cannot do in passing.
        """
        __tracebackhide__ = True
        from sqlalchemy.ext.asyncio import async_sessionmaker

        with contextlib.ExitStack() as stack:
            bind = (
                stack.enter_context(self.async_engine(around=around))
                if engine is None
                else engine()
            )
            yield async_sessionmaker(bind, expire_on_commit=False)

    def async_engine(
        self, *, around: Around | None = None
    ) -> contextlib.AbstractContextManager[AsyncEngine]:
        """Its driver is the configured one if that runs on asyncio, else asyncpg if it is installed, else psycopg."""
        __tracebackhide__ = True
        from clonedb.clones.async_engine import open_engine

        return open_engine(self.clone, self.loan, around)

    def async_connection(self) -> contextlib.AbstractContextManager[AsyncConnection[Any]]:
        """It serves on any loop."""
        from clonedb.clones.async_engine import open_connection

        return open_connection(self.clone, self.loan)

    @contextlib.contextmanager
    def lasting_connection(
        self, in_the_middle: Callable[[], None]
    ) -> Iterator[Connection[Any]]:
        """The clone's one."""
        lasting = self.clone.lasting.connection
        connection = lasting.take()
        yield connection
        if not lasting.give_back(connection, self.loan):
            in_the_middle()

    def lasting_engine(self) -> Engine:
        """The clone's one, lent."""
        return self.clone.lasting.engine(self.loan)

    def fill(self, seed: Callable[..., Any]) -> None:
        """On an engine of its own, in one transaction."""
        from clonedb.migrate.inside.seeds import fill

        engine = self.engine()
        with engine.begin() as connection:
            fill(seed, connection)
        engine.dispose()

    def let_go(self) -> bool:
        """Of the lasting engine."""
        return self.clone.let_go()
