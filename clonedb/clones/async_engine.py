"""Asynchronous connections to a clone: SQLAlchemy's engine, and psycopg's connection.

What is open at the end is closed on the loop that it was opened on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from clonedb.clones.clone import Clone
from clonedb.errors import CloneDBError

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from sqlalchemy.engine import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

    from clonedb.sessions.loans import Loan

__all__ = ["Around", "open_connection", "open_engine"]

Around: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]
"""What wraps a driver's function that connects."""

_DRIVERS = (
    "asyncpg",
    "psycopg",
    "psycopg_async",
)  # SQLAlchemy's names of those that run on asyncio
# what asyncpg reads of libpq's parameters; it sends any other to the server as a setting, which
# refuses it
_ASYNCPG_READS = frozenset(
    {
        *(
            "port",
            "sslmode",
            "sslcert",
            "sslkey",
            "sslrootcert",
            "sslcrl",
            "sslpassword",
            "ssl_min_protocol_version",
        ),
        *(
            "ssl_max_protocol_version",
            "target_session_attrs",
            "passfile",
            "application_name",
            "options",
        ),
    }
)


@contextlib.contextmanager
def open_engine(
    clone: Clone, loan: Loan | None, around: Around | None
) -> Iterator[AsyncEngine]:
    """An engine for as long as the context lasts, lent if there is a loan.

    Where the clone is handed on to the next test and the loop is, too, connections that are
    idle stay open. `around` wraps the driver's function that connects: asyncpg does so by
    Python's sockets.
    """
    __tracebackhide__ = True
    url, arguments = _address(clone)
    # SQLAlchemy's asyncio side runs its synchronous one in greenlets
    _require_installed(
        "greenlet", *(["asyncpg"] if url.startswith("postgresql+asyncpg:") else [])
    )
    from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
    from sqlalchemy.pool import NullPool

    from clonedb.sessions.lasting_engine import LastingEngine
    from clonedb.sessions.lent_engine import (
        hide_password_in_tracebacks,
        lend,
        refuse_late_statements,
    )

    def make(**keywords: Any) -> Engine:
        engine = hide_password_in_tracebacks(
            create_async_engine(url, connect_args=arguments, **keywords).sync_engine
        )
        if around is not None:
            engine.dialect.connect = around(engine.dialect.connect)  # type: ignore[method-assign]
        return engine

    if clone.lasting.reused:
        lasting = clone.lasting.source(
            "asynchronous engine",
            # never more than asked for, so that no task waits: an asyncio.Queue is for one loop
            # only
            lambda: LastingEngine(clone.name, lambda: make(max_overflow=-1)),
        )
        try:
            yield AsyncEngine(lasting.engine(loan))
        finally:
            lasting.close_in_use()

        return

    # no pool: a connection that is idle would belong to a loop that may be closed by then
    engine = make(poolclass=NullPool)
    refuse_late_statements(engine)
    connections = _InUse(engine)
    try:
        yield AsyncEngine(lend(engine, loan))
    finally:
        connections.close()


@contextlib.contextmanager
def open_connection(clone: Clone, loan: Loan | None) -> Iterator[AsyncConnection[Any]]:
    """A psycopg connection for as long as the context lasts; what it did not commit is gone.

    It is opened on a loop that ends at once, in a thread since one may be running here:
    psycopg's connections are not bound to a loop, so it serves the test on whichever that has.
    """
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from psycopg import AsyncConnection

    from clonedb.sessions.retired import retire

    with ThreadPoolExecutor(1) as thread:
        opening = AsyncConnection.connect(clone.dsn, **clone.server.kept_alive("psycopg"))
        connection = thread.submit(asyncio.run, opening).result()

    yield connection
    connection.pgconn.finish()  # what close() does
    retire(connection, loan)


def _address(clone: Clone) -> tuple[str, dict[str, Any]]:
    """A clone's URL with a driver that runs on asyncio, and what that needs beside it."""
    from clonedb.url import DatabaseURL, Hidden

    config = clone.server.config
    # the driver that the project named, if it runs on asyncio
    named = config.driver or (DatabaseURL.parse(config.url).driver if config.url else None)
    if named in _DRIVERS:
        return clone.url, _secret(clone, named)
    dsn = DatabaseURL.parse(clone.dsn)
    if not _is_installed("asyncpg"):
        return dsn.replace(driver="psycopg").render(), _secret(clone, "psycopg")
    # asyncpg reads these in its dsn; SQLAlchemy hands over the URL's as keywords
    dsn = dsn.replace(query=tuple(pair for pair in dsn.query if pair[0] in _ASYNCPG_READS))
    ports = tuple(pair for pair in dsn.query if pair[0] == "port")
    return dsn.replace(driver="asyncpg", query=ports).render(), {
        "dsn": Hidden(dsn.render()),
        **_secret(clone, "asyncpg"),
    }


def _secret(clone: Clone, driver: str) -> dict[str, Any]:
    """The password as what does not show it: asyncpg demands a str and no other, or a function that returns one."""
    from clonedb.url import DatabaseURL, Hidden

    options = clone.server.kept_alive(driver)
    password = DatabaseURL.parse(clone.dsn).password
    if password is None:
        return dict(options)
    secret = {"password": (lambda: password) if driver == "asyncpg" else Hidden(password)}
    return {**secret, **options}


def _is_installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def _require_installed(*packages: str) -> None:
    missing = [package for package in packages if not _is_installed(package)]
    if missing:
        raise CloneDBError(
            f"an asynchronous SQLAlchemy engine needs {' and '.join(missing)}, not installed here;"
            " install clonedb[async]"
        )


class _InUse:
    """The connections of an asynchronous engine that are in use, to be closed on the loop they were opened on."""

    def __init__(self, engine: Engine) -> None:
        from sqlalchemy import event

        from clonedb.sessions.loops import OpenOnLoops

        self._on_loops = OpenOnLoops()
        event.listen(engine, "do_connect", self._require_loop)
        event.listen(engine, "checkout", self._add)
        event.listen(engine, "checkin", self._remove)
        event.listen(engine, "detach", self._remove)

    def _require_loop(self, *_: object) -> None:
        from clonedb.sessions.loops import running_loop

        running_loop()

    def _add(
        self, _connection: object, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        self._on_loops.put(entry, proxy)

    def _remove(self, _connection: object, entry: ConnectionPoolEntry) -> None:
        self._on_loops.remove(entry)

    def close(self) -> None:
        """Close what is open."""
        self._on_loops.end()
