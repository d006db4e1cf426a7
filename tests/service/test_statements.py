"""Statements on a connection that the event loop reads: values of each kind, errors, lost sessions, cancelled tasks."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
from collections.abc import Awaitable, Callable

import psycopg
import pytest

from clonedb.service import statements
from clonedb.service.statements import Statements
from tests.service.stories import until


def tried(admin_dsn: str, story: Callable[[Statements, psycopg.Connection], Awaitable[None]]):
    """Run a story with statements on a session of their own."""

    async def run() -> None:
        connection = psycopg.connect(admin_dsn, autocommit=True)
        session = Statements(connection)
        try:
            await story(session, connection)
        finally:
            session.close()

    asyncio.run(run())


def test_values(admin_dsn: str) -> None:
    """Text, numbers, bytes, nothing, times and lists arrive as they are; also more than one packet of them."""

    async def story(session: Statements, _: object) -> None:
        for value, kind, text in [
            ("a 'quoted' \\ text", "text", "a 'quoted' \\ text"),
            ("x" * 3_000_000, "text", "x" * 3_000_000),
            (4711, "bigint", "4711"),
            (True, "boolean", "true"),
            (None, "text", None),
        ]:
            query = f"select (%s::{kind})::text".encode()
            assert await session.value(query, [value]) == text
        found = await session.value(b"select encode(%s::bytea, 'hex')", [b"\0\xff"])
        assert found == "00ff"
        names = ["a", 'b"', "c\\", "d,"]
        assert await session.value(b"select array_length(%s::text[], 1)", [names]) == "4"
        assert await session.value(b"select (%s::text[])[2]", [names]) == 'b"'
        time = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
        assert await session.value(
            b"select extract(epoch from %s::timestamptz)::int", [time]
        ) == str(int(time.timestamp()))
        assert await session.value(b"select where false", []) is None

    tried(admin_dsn, story)


def test_errors(admin_dsn: str) -> None:
    """A statement that fails raises its error, also while it is prepared, and the next one works."""

    async def story(session: Statements, _: object) -> None:
        for _attempt in range(2):
            with pytest.raises(psycopg.errors.DivisionByZero):
                await session.value(b"select 1 / %s::int", [0])
            with pytest.raises(psycopg.errors.UndefinedTable):
                await session.value(b"select from nowhere", [])
            assert await session.value(b"select 1", []) == "1"
        assert not session.broken

    tried(admin_dsn, story)


def test_a_cancelled_task(admin_dsn: str) -> None:
    """Its statement is carried out, and its answer is not taken for that of the next."""

    async def story(session: Statements, _: object) -> None:
        for number in range(3):
            task = asyncio.create_task(session.value(b"select 'wrong', pg_sleep(0.2)", []))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await session.value(b"select %s::int", [number]) == str(number)

    tried(admin_dsn, story)


def test_a_lost_session(admin_dsn: str) -> None:
    """It is seen while a statement runs, and while none does."""

    async def story(session: Statements, connection: psycopg.Connection) -> None:
        task = asyncio.create_task(session.value(b"select pg_sleep(60)", []))
        await asyncio.sleep(0.2)
        _end(admin_dsn, connection.info.backend_pid)
        with pytest.raises(psycopg.OperationalError):
            await task
        assert session.broken
        with pytest.raises(psycopg.OperationalError):
            await session.value(b"select 1", [])

    async def idle(session: Statements, connection: psycopg.Connection) -> None:
        assert await session.value(b"select 1", []) == "1"
        _end(admin_dsn, connection.info.backend_pid)
        await until(lambda: session.broken, "it is not seen")

    tried(admin_dsn, story)
    tried(admin_dsn, idle)


def test_a_server_that_does_not_answer(admin_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of it that is stopped: the session counts as lost."""
    monkeypatch.setattr(statements, "_LIMIT", 0.5)

    async def story(session: Statements, connection: psycopg.Connection) -> None:
        pid = connection.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(psycopg.OperationalError, match="has not answered for"):
                await session.value(b"select 1", [])
            assert session.broken
        finally:
            os.kill(pid, signal.SIGCONT)

    tried(admin_dsn, story)


def _end(admin_dsn: str, pid: int) -> None:
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute("select pg_terminate_backend(%s)", [pid])
