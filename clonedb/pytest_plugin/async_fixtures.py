"""The asynchronous fixtures: SQLAlchemy's engine and sessions, and a psycopg connection.

All of them are synchronous functions. An async fixture needs a plugin, and belongs to the loop
of its own scope, which is not always the test's: pytest-asyncio before 1.0 refuses that, after
it asyncpg fails in closing. Making an engine or a session awaits nothing, and what is open
after the test is closed here on the loop that it was opened on.
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
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

    from clonedb.clones.async_engine import Around
    from clonedb.clones.database import Database

__all__ = [
    "clonedb_async_connection",
    "clonedb_async_engine",
    "clonedb_async_session",
    "clonedb_async_sessionmaker",
]


@pytest.fixture
def clonedb_async_engine(
    request: pytest.FixtureRequest, clonedb: Database
) -> Iterator[AsyncEngine]:
    """An asynchronous SQLAlchemy engine on the database; what is open on it after the test is closed.

    Its driver is the configured one if that runs on asyncio, else asyncpg if it is installed,
    else psycopg. Where the database is handed on to the next test and the loop is, too,
    connections that are idle after the test stay open.
    """
    __tracebackhide__ = True
    with clonedb.async_engine(around=_around(request)) as engine:
        yield engine


@pytest.fixture
def clonedb_async_sessionmaker(
    request: pytest.FixtureRequest, clonedb: Database
) -> Iterator[async_sessionmaker[AsyncSession]]:
    """A sessionmaker bound to the test's asynchronous engine; objects stay readable after a commit.

    Under `rollback` its sessions are in the test's one transaction.
    """
    __tracebackhide__ = True

    def engine() -> AsyncEngine:
        made: AsyncEngine = request.getfixturevalue("clonedb_async_engine")
        return made

    with clonedb.async_sessionmaker(engine, around=_around(request)) as maker:
        yield maker


@pytest.fixture
def clonedb_async_session(
    clonedb_async_sessionmaker: async_sessionmaker[AsyncSession],
) -> AsyncSession:
    """An asynchronous SQLAlchemy session on the test's engine, closed after the test; its commits are real."""
    return clonedb_async_sessionmaker()


@pytest.fixture
def clonedb_async_connection(
    request: pytest.FixtureRequest, clonedb: Database
) -> Iterator[AsyncConnection[Any]]:
    """An asynchronous psycopg connection to the database, closed after the test; what it did not commit is gone."""
    __tracebackhide__ = True
    _require_backend(request)
    with contextlib.ExitStack() as stack:
        with process_state_of(request.config).unpatched():
            connection = stack.enter_context(clonedb.async_connection())
        yield connection


def _around(request: pytest.FixtureRequest) -> Around:
    """What connecting is wrapped in: a test may have blocked the sockets that asyncpg connects by, for what it tests.

    pytest-asyncio's event loop before 1.0, or the project's own, is asked for, because it has
    to outlive the engine. Raises CloneDBError when the test runs on another loop than
    asyncio's.
    """
    __tracebackhide__ = True
    _require_backend(request)
    # pytest tears down last what was set up first
    if "event_loop" in request.fixturenames:
        request.getfixturevalue("event_loop")
    return process_state_of(request.config).unpatched()


def _require_backend(request: pytest.FixtureRequest) -> None:
    """Raises CloneDBError when anyio runs the test on another loop than asyncio's."""
    if "anyio_backend" not in request.fixturenames:
        return
    backend = request.getfixturevalue("anyio_backend")
    # anyio takes a name, or a name with options
    name = backend if isinstance(backend, str) else backend[0]
    if name != "asyncio":
        raise CloneDBError(
            f"anyio runs this test on {name!r}, and PostgreSQL's asynchronous drivers (psycopg, asyncpg) need asyncio;"
            " write a fixture anyio_backend that returns 'asyncio'"
        )
