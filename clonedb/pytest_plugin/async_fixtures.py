"""The asynchronous fixtures: SQLAlchemy's engine and sessions, and a psycopg connection.

All of them are synchronous functions. An async fixture needs a plugin, and belongs to the loop of its own scope, which
is not always the test's: pytest-asyncio before 1.0 refuses that, after it asyncpg fails in closing. Making an engine
or a session awaits nothing, and what is open after the test is closed here on the loop that it was opened on.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from clonedb.errors import CloneDBError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from psycopg import AsyncConnection
    from sqlalchemy.engine import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

    from clonedb.clone import Clone

    _InUse: TypeAlias = dict[ConnectionPoolEntry, PoolProxiedConnection]

__all__ = [
    "clonedb_async_connection",
    "clonedb_async_engine",
    "clonedb_async_session",
    "clonedb_async_sessionmaker",
]

_DRIVERS = ("asyncpg", "psycopg", "psycopg_async")  # SQLAlchemy's names of those that run on asyncio
_PATIENCE = 5.0  # seconds for a loop that runs in another thread to close what is open on it
_GRACE = 100  # milliseconds for a loop's other generators to close their own connections
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

    Its driver is the configured one if that runs on asyncio, else asyncpg if it is installed, else psycopg. It keeps no
    connections: one that a pool kept would belong to the loop it was opened on, and fail on the next.
    """
    __tracebackhide__ = True
    _demand_backend(request)
    if "event_loop" in request.fixturenames:  # pytest-asyncio's before 1.0, or the project's own: it has to outlive us
        request.getfixturevalue("event_loop")
    url, arguments = _address(clonedb)
    _demand_installed("greenlet", *(["asyncpg"] if url.startswith("postgresql+asyncpg:") else []))
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    engine = create_async_engine(url, poolclass=NullPool, connect_args=arguments)
    connections = _Connections(engine.sync_engine)
    yield engine
    connections.close()


@pytest.fixture
def clonedb_async_sessionmaker(clonedb_async_engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """A sessionmaker bound to the test's asynchronous engine; objects stay readable after a commit.

    With `expire_on_commit` the first attribute read after a commit would be I/O, which asyncio cannot do in passing.
    """
    from sqlalchemy.ext.asyncio import async_sessionmaker

    return async_sessionmaker(clonedb_async_engine, expire_on_commit=False)


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
    _demand_backend(request)
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from psycopg import AsyncConnection

    with ThreadPoolExecutor(1) as thread:
        connection = thread.submit(asyncio.run, AsyncConnection.connect(clonedb.dsn)).result()
    yield connection
    connection.pgconn.finish()  # what close() does


def _demand_backend(request: pytest.FixtureRequest) -> None:
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
    from clonedb.url import DatabaseURL

    config = clone.server.config
    named = config.driver or (DatabaseURL.parse(config.url).driver if config.url else None)
    if named in _DRIVERS:
        return clone.url, {}
    dsn = DatabaseURL.parse(clone.dsn)
    if not _is_installed("asyncpg"):
        return dsn.replace(driver="psycopg").render(), {}
    dsn = dsn.replace(query=tuple(pair for pair in dsn.query if pair[0] in _ASYNCPG_READS))
    ports = tuple(pair for pair in dsn.query if pair[0] == "port")
    return dsn.replace(driver="asyncpg", query=ports).render(), {"dsn": dsn.render()}


def _is_installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def _demand_installed(*packages: str) -> None:
    missing = [package for package in packages if not _is_installed(package)]
    if missing:
        raise CloneDBError(
            f"an asynchronous SQLAlchemy engine needs {' and '.join(missing)}, not installed here;"
            " install clonedb[async]"
        )


def _running_loop() -> AbstractEventLoop:
    import asyncio

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise CloneDBError(
            "an asynchronous engine was told to connect where no asyncio loop runs; await it on asyncio (there is no"
            " driver of PostgreSQL for trio), and in synchronous code use clonedb_engine or clonedb_session"
        ) from None


class _Connections:
    """The connections of an asynchronous engine that are in use, to be closed on the loop they were opened on.

    That loop may end before the fixtures do (pytest-asyncio's of a function) or after them (one of a session). So each
    loop is given a guard, an asynchronous generator that waits for its end: whoever closes a loop properly first closes
    its generators (`loop.shutdown_asyncgens`). Holding the connections also keeps the garbage collector from them,
    which could close none without a loop.
    """

    def __init__(self, engine: Engine) -> None:
        from sqlalchemy import event

        self._in_use: dict[AbstractEventLoop, _InUse] = {}
        self._guards: dict[AbstractEventLoop, AsyncGenerator[None]] = {}
        event.listen(engine, "do_connect", self._demand_loop)
        event.listen(engine, "checkout", self._add)
        event.listen(engine, "checkin", self._remove)
        event.listen(engine, "detach", self._remove)

    def _demand_loop(self, *_: object) -> None:
        _running_loop()

    def _add(self, _connection: object, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection) -> None:
        loop = _running_loop()
        if loop not in self._guards:
            self._in_use[loop] = {}
            self._guards[loop] = _close_at_end(self._in_use[loop])
            _step(anext(self._guards[loop]))  # up to its yield: the loop knows it from here on
        self._in_use[loop][entry] = proxy

    def _remove(self, _connection: object, entry: ConnectionPoolEntry) -> None:
        for in_use in self._in_use.values():
            in_use.pop(entry, None)

    def close(self) -> None:
        """Close what is open, on its loop, which does not run now (unless in another thread).

        Where somebody closed the loop and left its generators, a new one has to do: psycopg can, asyncpg cannot.
        """
        import asyncio

        for loop, guard in self._guards.items():
            if in_use := self._in_use[loop]:
                if loop.is_running():
                    asyncio.run_coroutine_threadsafe(_close(in_use), loop).result(_PATIENCE)
                elif not loop.is_closed():
                    loop.run_until_complete(_close(in_use))
                else:
                    with contextlib.closing(asyncio.new_event_loop()) as another:
                        another.run_until_complete(_close(in_use))
            _step(guard.aclose())


def _step(awaitable: Awaitable[object]) -> None:
    """Run what ends without waiting for anything, for which it takes no loop."""
    with contextlib.suppress(StopIteration):
        awaitable.__await__().send(None)


async def _close_at_end(in_use: _InUse) -> AsyncGenerator[None]:
    """Wait for the end of the loop, and close what is in use then.

    The loop's other generators end at the same moment, each in a task, and may be about to close their sessions.
    """
    import asyncio

    try:
        yield
    finally:
        for _ in range(_GRACE):
            if not in_use or len(asyncio.all_tasks()) <= 2:  # this one, and the one that waits for it
                break
            await asyncio.sleep(0.001)
        await _close(in_use)


async def _close(in_use: _InUse) -> None:
    from sqlalchemy.util import greenlet_spawn

    for proxy in list(in_use.values()):
        await greenlet_spawn(proxy.invalidate)  # without a rollback, which would wait for a running query
