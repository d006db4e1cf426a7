"""Asynchronous engines with ordinary pools, whose loops come and go."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
from collections.abc import Callable, Iterator

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    create_async_engine,
)

from clonedb.errors import RoutingError
from clonedb.routing.application import Router
from clonedb.url import DatabaseURL
from tests.routing.conftest import MakeRouter

WHERE = sa.text("select current_database()")
SLOW = sa.text("select current_database() from pg_sleep(0.01)")

IsFree = Callable[[DatabaseURL], bool]


@pytest.fixture(params=["asyncpg", "psycopg"])
def engine(request: pytest.FixtureRequest, shop: DatabaseURL) -> AsyncEngine:
    """An engine on the application's database, of two connections at most."""
    url = shop.replace(driver=request.param).render()
    return create_async_engine(url, pool_size=2, max_overflow=0, pool_timeout=5)


@pytest.fixture(autouse=True)
def _nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Neither by a pool that cannot close a connection, nor by a loop whose transport was left to the collector."""
    yield
    gc.collect()
    assert [
        record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
    ] == []


async def reached(engine: AsyncEngine) -> object:
    async with engine.connect() as connection:
        return await connection.scalar(WHERE)


def test_a_loop_for_each_clone(
    *,
    router: Router,
    shop: DatabaseURL,
    one: DatabaseURL,
    two: DatabaseURL,
    is_free: IsFree,
    engine: AsyncEngine,
) -> None:
    """As with a test's own loop: more at once than the pool has, and nothing is left open when the loop has ended."""

    async def work() -> set[object]:
        async def query() -> object:
            async with engine.connect() as connection:
                return await connection.scalar(SLOW)

        return set(await asyncio.gather(*(query() for _ in range(6))))

    for clone in (one, two, one):
        router.enter(clone)
        assert asyncio.run(work()) == {clone.database}
        assert is_free(clone)  # the loop's end closed it
        assert asyncio.run(work()) == {clone.database}
        router.leave(clone)
    assert is_free(shop)
    with pytest.raises(RoutingError, match="there is none now"):
        asyncio.run(work())


@pytest.mark.campaign("long")
def test_a_loop_for_all_clones(
    router: Router, one: DatabaseURL, two: DatabaseURL, is_free: IsFree, engine: AsyncEngine
) -> None:
    """As with a session's loop: what the pool keeps is closed on the loop when the clone is left."""
    with asyncio.Runner() as runner:
        for clone in (one, two):
            router.enter(clone)
            assert runner.run(reached(engine)) == clone.database
            assert not is_free(clone)
            router.leave(clone)
            assert is_free(clone)


def test_two_loops_at_once(
    router: Router, one: DatabaseURL, two: DatabaseURL, is_free: IsFree, engine: AsyncEngine
) -> None:
    """A session's loop and a test's share the pool: a connection of the one is not handed out on the other."""
    with asyncio.Runner() as outer:
        for clone in (one, two):
            router.enter(clone)
            assert outer.run(reached(engine)) == clone.database
            assert asyncio.run(reached(engine)) == clone.database
            assert outer.run(reached(engine)) == clone.database
            router.enter(inner := two if clone is one else one)
            assert asyncio.run(reached(engine)) == inner.database
            router.leave(inner)
            router.leave(clone)
            assert is_free(clone)


def test_a_loop_in_a_thread(
    router: Router, one: DatabaseURL, two: DatabaseURL, is_free: IsFree, engine: AsyncEngine
) -> None:
    """As with an application that serves beside its tests."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    for clone in (one, two):
        router.enter(clone)
        assert (
            asyncio.run_coroutine_threadsafe(reached(engine), loop).result() == clone.database
        )
        router.leave(clone)
        assert is_free(clone)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def test_clones_nest(
    router: Router, one: DatabaseURL, two: DatabaseURL, is_free: IsFree, engine: AsyncEngine
) -> None:
    """What the pool keeps of the outer clone is replaced in the inner one."""
    with asyncio.Runner() as runner:
        router.enter(one)
        assert runner.run(reached(engine)) == one.database
        router.enter(two)
        assert runner.run(reached(engine)) == two.database
        router.leave(two)
        assert is_free(two)
        assert runner.run(reached(engine)) == one.database
        router.leave(one)
        assert is_free(one)


@pytest.mark.parametrize("hung_up", [True, False])
def test_a_connection_left_open(
    router: Router, one: DatabaseURL, is_free: IsFree, engine: AsyncEngine, *, hung_up: bool
) -> None:
    """It is closed with its loop, at the latest, and the garbage collector finds nothing to warn of."""
    opened: list[AsyncConnection] = []

    async def leave_open() -> None:
        opened.append(await engine.connect())
        assert await opened[0].scalar(WHERE) == one.database

    router.enter(one)
    with asyncio.Runner() as runner:
        runner.run(leave_open())
        router.leave(one)
        assert not is_free(one)
        if hung_up:
            router.close_leaked()
            assert is_free(one)
    assert is_free(one)


def test_a_loop_closed_by_hand(
    router: Router, one: DatabaseURL, is_free: IsFree, shop: DatabaseURL
) -> None:
    """Nobody ends its generators, so psycopg's connections are closed on another one."""
    engine = create_async_engine(shop.replace(driver="psycopg").render())
    router.enter(one)
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        assert loop.run_until_complete(reached(engine)) == one.database
    assert asyncio.run(reached(engine)) == one.database
    router.leave(one)
    assert is_free(one)


def test_an_engine_that_is_not_routed(
    router: Router, shop: DatabaseURL, one: DatabaseURL
) -> None:
    """Its pool is left alone, whatever clones come and go."""
    other = create_async_engine(shop.replace(driver="asyncpg", database="postgres").render())
    engine = create_async_engine(shop.replace(driver="asyncpg").render())

    async def process() -> object:
        async with other.connect() as connection:
            return await connection.scalar(sa.text("select pg_backend_pid()"))

    with asyncio.Runner() as runner:
        before = runner.run(process())
        router.enter(one)
        assert runner.run(reached(engine)) == one.database
        assert asyncio.run(reached(engine)) == one.database
        router.leave(one)
        assert runner.run(process()) == before
        runner.run(other.dispose())


def test_a_creator(
    router: Router, shop: DatabaseURL, one: DatabaseURL, two: DatabaseURL
) -> None:
    """An asynchronous one is led, too, and its pool keeps no connection of the clone before."""
    keywords = {name: value for name, value in shop.conninfo().items() if name != "dbname"}

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(database=shop.database, **keywords)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect)
    with asyncio.Runner() as runner:
        for clone in (one, two):
            router.enter(clone)
            assert runner.run(reached(engine)) == clone.database
            router.leave(clone)
        router.enter(one)
        router.enter(two)
        assert runner.run(reached(engine)) == two.database
        router.leave(two)
        assert runner.run(reached(engine)) == one.database
        router.leave(one)
        with pytest.raises(RoutingError, match="ask for the fixture `clonedb`"):
            runner.run(reached(engine))


def test_everything(make_router: MakeRouter, one: DatabaseURL) -> None:
    """ "*" means asynchronous engines like others."""
    router = make_router("*")
    engine = create_async_engine(
        "postgresql+asyncpg://me@far.invalid/x?prepared_statement_cache_size=0"
    )
    router.enter(one)
    assert asyncio.run(reached(engine)) == one.database
    router.leave(one)


def test_a_session_that_nobody_closed(
    router: Router, one: DatabaseURL, two: DatabaseURL, engine: AsyncEngine
) -> None:
    """It is closed as its test ends, and has a transaction of its own in the next."""
    session = AsyncSession(engine)
    with asyncio.Runner() as runner:
        for clone in (one, two):
            router.enter(clone)
            assert runner.run(session.scalar(WHERE)) == clone.database
            router.leave(clone)
            router.close_leaked("test 'test_it.py::test_one'")
            assert not session.in_transaction()
        runner.run(session.close())
