"""The asynchronous fixtures: SQLAlchemy's engine and sessions, and a psycopg connection.

All of them are synchronous functions. An async fixture needs a plugin, and belongs to the loop of its own scope, which
is not always the test's: pytest-asyncio before 1.0 refuses that, after it asyncpg fails in closing. Making an engine
or a session awaits nothing, and what is open after the test is closed here on the loop that it was opened on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from clonedb.errors import CloneDBError
from clonedb.pytest_plugin.process_state import process_state_of

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from sqlalchemy.engine import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

    from clonedb.clones.clone import Clone

__all__ = [
    "clonedb_async_connection",
    "clonedb_async_engine",
    "clonedb_async_session",
    "clonedb_async_sessionmaker",
]

_DRIVERS = ("asyncpg", "psycopg", "psycopg_async")  # SQLAlchemy's names of those that run on asyncio
# what asyncpg reads of libpq's parameters; it sends any other to the server as a setting, which refuses it
_ASYNCPG_READS = frozenset(
    {
        *("port", "sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "ssl_min_protocol_version"),
        *("ssl_max_protocol_version", "target_session_attrs", "passfile", "application_name", "options"),
    }
)


@pytest.fixture
def clonedb_async_engine(request: pytest.FixtureRequest, clonedb: Clone) -> Iterator[AsyncEngine]:
    """An asynchronous SQLAlchemy engine on the database; what is open on it after the test is closed.

    Its driver is the configured one if that runs on asyncio, else asyncpg if it is installed, else psycopg. Where the
    database is handed on to the next test and the loop is, too, connections that are idle after the test stay open.
    """
    __tracebackhide__ = True
    _require_not_held(clonedb, "clonedb_async_engine opens connections of its own")
    with _engine(request, clonedb) as engine:
        yield engine


@contextlib.contextmanager
def _engine(request: pytest.FixtureRequest, clone: Clone) -> Iterator[AsyncEngine]:
    __tracebackhide__ = True
    _require_backend(request)
    if "event_loop" in request.fixturenames:  # pytest-asyncio's before 1.0, or the project's own: it has to outlive us
        request.getfixturevalue("event_loop")
    url, arguments = _address(clone.shared)
    _require_installed("greenlet", *(["asyncpg"] if url.startswith("postgresql+asyncpg:") else []))
    from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
    from sqlalchemy.pool import NullPool

    from clonedb.sessions.async_engine import LastingAsyncEngine
    from clonedb.sessions.lent_engine import hide_password_in_tracebacks, lend, refuse_late_statements

    process_state = process_state_of(request.config)

    def make(**keywords: Any) -> Engine:
        engine = hide_password_in_tracebacks(create_async_engine(url, connect_args=arguments, **keywords).sync_engine)
        # asyncpg connects by Python's sockets, which a test may have blocked for what it tests
        engine.dialect.connect = process_state.unpatched()(engine.dialect.connect)  # type: ignore[method-assign]
        refuse_late_statements(engine)
        return engine

    if clone.lasting.reused:
        lasting = clone.lasting.source(
            LastingAsyncEngine,
            # never more than asked for, so that nobody waits: an asyncio.Queue is for one loop only
            lambda: LastingAsyncEngine(clone.name, lambda: make(max_overflow=-1)),
        )
        try:
            yield AsyncEngine(lend(lasting.engine().sync_engine, clone.loan))
        finally:
            lasting.close_in_use()
        return
    engine = make(poolclass=NullPool)
    connections = _InUse(engine)
    try:
        yield AsyncEngine(lend(engine, clone.loan))
    finally:
        connections.close()


@pytest.fixture
def clonedb_async_sessionmaker(
    request: pytest.FixtureRequest, clonedb: Clone
) -> Iterator[async_sessionmaker[AsyncSession]]:
    """A sessionmaker bound to the test's asynchronous engine; objects stay readable after a commit.

    With `expire_on_commit` the first attribute read after a commit would be I/O, which asyncio cannot do in passing.
    Under `rollback` its sessions are in the test's one transaction.
    """
    __tracebackhide__ = True
    from sqlalchemy.ext.asyncio import async_sessionmaker

    from clonedb.isolation.rollback import HeldClone

    if isinstance(clonedb, HeldClone):
        with _engine(request, clonedb) as engine:
            yield clonedb.async_sessionmaker(engine)
    else:
        yield async_sessionmaker(request.getfixturevalue("clonedb_async_engine"), expire_on_commit=False)


@pytest.fixture
def clonedb_async_session(clonedb_async_sessionmaker: async_sessionmaker[AsyncSession]) -> AsyncSession:
    """An asynchronous SQLAlchemy session on the test's engine, closed after the test; its commits are real."""
    return clonedb_async_sessionmaker()


@pytest.fixture
def clonedb_async_connection(request: pytest.FixtureRequest, clonedb: Clone) -> Iterator[AsyncConnection[Any]]:
    """An asynchronous psycopg connection to the database, closed after the test; what it did not commit is gone.

    It is opened on a loop that ends at once, in a thread since one may be running here: psycopg's connections are not
    bound to a loop, so it serves the test on whichever that has.
    """
    __tracebackhide__ = True
    _require_not_held(clonedb, "clonedb_async_connection opens a connection of its own")
    _require_backend(request)
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from psycopg import AsyncConnection

    from clonedb.sessions.retired import retire

    with process_state_of(request.config).unpatched(), ThreadPoolExecutor(1) as thread:
        opening = AsyncConnection.connect(clonedb.shared.dsn, **clonedb.server.proof_only("psycopg"))
        connection = thread.submit(asyncio.run, opening).result()
    yield connection
    connection.pgconn.finish()  # what close() does
    retire(connection, clonedb.loan)


def _require_not_held(clone: Clone, what: str) -> None:
    """Raises BoundsError under `rollback`."""
    from clonedb.isolation.outer_transaction import refusal
    from clonedb.isolation.rollback import HeldClone

    if isinstance(clone, HeldClone):
        raise refusal(what)


def _require_backend(request: pytest.FixtureRequest) -> None:
    """Raises CloneDBError when anyio runs the test on another loop than asyncio's."""
    if "anyio_backend" not in request.fixturenames:
        return
    backend = request.getfixturevalue("anyio_backend")
    name = backend if isinstance(backend, str) else backend[0]
    if name != "asyncio":
        raise CloneDBError(
            f"anyio runs this test on {name!r}, and PostgreSQL's asynchronous drivers (psycopg, asyncpg) need asyncio;"
            " write a fixture anyio_backend that returns 'asyncio'"
        )


def _address(clone: Clone) -> tuple[str, dict[str, Any]]:
    """A clone's URL with a driver that runs on asyncio, and what that needs beside it."""
    from clonedb.url import DatabaseURL, Hidden

    config = clone.server.config
    named = config.driver or (DatabaseURL.parse(config.url).driver if config.url else None)
    if named in _DRIVERS:
        return clone.url, _secret(clone, named)
    dsn = DatabaseURL.parse(clone.dsn)
    if not _is_installed("asyncpg"):
        return dsn.replace(driver="psycopg").render(), _secret(clone, "psycopg")
    dsn = dsn.replace(query=tuple(pair for pair in dsn.query if pair[0] in _ASYNCPG_READS))
    ports = tuple(pair for pair in dsn.query if pair[0] == "port")
    return dsn.replace(driver="asyncpg", query=ports).render(), {
        "dsn": Hidden(dsn.render()),
        **_secret(clone, "asyncpg"),
    }


def _secret(clone: Clone, driver: str) -> dict[str, Any]:
    """The password as what does not show it: asyncpg demands a str and no other, or a function that returns one."""
    from clonedb.url import DatabaseURL, Hidden

    password = DatabaseURL.parse(clone.dsn).password
    if password is None:
        return {}
    secret = {"password": (lambda: password) if driver == "asyncpg" else Hidden(password)}
    return {**secret, **clone.server.proof_only(driver)}


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

    def _add(self, _connection: object, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection) -> None:
        self._on_loops.put(entry, proxy)

    def _remove(self, _connection: object, entry: ConnectionPoolEntry) -> None:
        self._on_loops.remove(entry)

    def close(self) -> None:
        """Close what is open."""
        self._on_loops.end()
