"""Pools of the drivers' own that an application makes at import, before there is a clone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiopg
import asyncpg
import psycopg2.pool
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from clonedb.errors import RoutingError
from clonedb.routing.application import Router
from clonedb.url import DatabaseURL

WHERE = "select current_database()"
IsFree = Callable[[DatabaseURL], bool]
ASK = "ask for the fixture `clonedb`"


@pytest.fixture
def dsn(shop: DatabaseURL) -> str:
    """The application's URL, as drivers take it."""
    return shop.replace(driver=None).render()


def test_psycopg(
    router: Router, dsn: str, one: DatabaseURL, two: DatabaseURL, is_free: IsFree
) -> None:
    """It opens what is asked for, at once, and hands no connection on to the next test."""
    with ConnectionPool(dsn, min_size=2, max_size=3, open=True) as pool:

        def where() -> object:
            with pool.connection(timeout=5) as connection:
                row = connection.execute(WHERE).fetchone()
            return row and row[0]

        for clone in (one, two, one):
            with pytest.raises(RoutingError, match=ASK):
                where()
            router.enter(clone)
            with pool.connection() as held:
                assert held.info.dbname == clone.database
                assert [where() for _ in range(3)] == [clone.database] * 3
            router.leave(clone)
            assert is_free(clone)
        router.enter(one)
        router.enter(two)
        assert where() == two.database
        router.leave(two)
        assert where() == one.database
        router.leave(one)

        # none was refused, after which a pool waits a second, then two, then four
        assert pool.get_stats().get("connections_errors", 0) == 0


def test_psycopg_from_the_environment(
    router: Router, one: DatabaseURL, is_free: IsFree
) -> None:
    """A pool that a test has made of the variable is the application's, too."""
    router.enter(one)
    with ConnectionPool(one.replace(driver=None).render(), min_size=2, open=True) as pool:
        for _ in range(2):
            with pool.connection() as connection:
                assert connection.info.dbname == one.database
            router.leave(one)
            assert is_free(one)
            router.enter(one)
    router.leave(one)


def test_psycopg_of_a_function(
    router: Router, dsn: str, one: DatabaseURL, two: DatabaseURL, is_free: IsFree
) -> None:
    """Where one says where to connect, as for a password that changes, that is known when it has connected."""
    router.enter(one)
    with ConnectionPool(lambda: dsn, min_size=1, open=True) as pool:
        for clone in (one, two):
            with pool.connection(timeout=5) as connection:
                assert connection.info.dbname == clone.database
            router.leave(clone)
            assert is_free(clone)
            router.enter(two)
    router.leave(two)


def test_psycopg_of_a_function_that_leads_elsewhere(router: Router, admin_dsn: str) -> None:
    """It is left alone, also while there is no clone."""
    del router
    pool = ConnectionPool(lambda: admin_dsn, min_size=1, open=True)
    with pool, pool.connection(timeout=5) as connection:
        assert connection.info.dbname in admin_dsn


def test_async_psycopg(
    router: Router, dsn: str, one: DatabaseURL, two: DatabaseURL, is_free: IsFree
) -> None:
    """As the synchronous one, on a loop that outlives the tests."""
    pool = AsyncConnectionPool(dsn, min_size=2, max_size=3, open=False)

    async def where() -> object:
        async with pool.connection(timeout=5) as connection:
            cursor = await connection.execute(WHERE)
            row = await cursor.fetchone()
        return row and row[0]

    with asyncio.Runner() as runner:
        runner.run(pool.open(wait=False))
        for clone in (one, two, one):
            with pytest.raises(RoutingError, match=ASK):
                runner.run(where())
            router.enter(clone)
            assert [runner.run(where()) for _ in range(3)] == [clone.database] * 3
            router.leave(clone)
            assert is_free(clone)
        runner.run(pool.close())


def test_psycopg2(
    router: Router, dsn: str, one: DatabaseURL, two: DatabaseURL, is_free: IsFree
) -> None:
    """One that is to connect at once begins empty."""
    pool = psycopg2.pool.ThreadedConnectionPool(2, 3, dsn)

    def where() -> object:
        connection = pool.getconn()
        try:
            return connection.info.dbname
        finally:
            pool.putconn(connection)

    for clone in (one, two, one):
        with pytest.raises(RoutingError, match=ASK):
            where()
        router.enter(clone)
        assert [where(), where()] == [clone.database] * 2
        router.leave(clone)
        assert is_free(clone)
    pool.closeall()


def test_asyncpg(
    router: Router, dsn: str, one: DatabaseURL, two: DatabaseURL, is_free: IsFree
) -> None:
    """A pool that goes from test to test on one loop."""

    async def make() -> asyncpg.Pool:
        return await asyncpg.create_pool(dsn, min_size=2, max_size=2)

    async def where(pool: asyncpg.Pool) -> object:
        async with pool.acquire() as connection:
            return await connection.fetchval(WHERE)

    with asyncio.Runner() as runner:
        router.enter(one)
        pool = runner.run(make())
        assert runner.run(where(pool)) == one.database
        router.leave(one)
        assert is_free(one)
        with pytest.raises(RoutingError, match=ASK):
            runner.run(where(pool))
        router.enter(two)
        assert runner.run(where(pool)) == two.database
        router.leave(two)
        assert is_free(two)
        runner.run(pool.close())


def test_asyncpg_on_a_loop_for_each_test(
    router: Router, dsn: str, one: DatabaseURL, two: DatabaseURL
) -> None:
    """A pool that each test makes."""

    async def where() -> object:
        async with asyncpg.create_pool(dsn, min_size=2, max_size=2) as pool:
            return await pool.fetchval(WHERE)

    for clone in (one, two):
        router.enter(clone)
        assert asyncio.run(where()) == clone.database
        router.leave(clone)


def test_aiopg(
    router: Router, dsn: str, one: DatabaseURL, two: DatabaseURL, is_free: IsFree
) -> None:
    """It stands on psycopg2; its pool keeps what it believes to be open."""
    pools: list[aiopg.Pool] = []

    async def where() -> object:
        if not pools:
            pools.append(await aiopg.create_pool(dsn, minsize=2))
        async with pools[0].acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(WHERE)
            return (await cursor.fetchone())[0]

    async def close() -> None:
        pools[0].close()
        await pools[0].wait_closed()

    with asyncio.Runner() as runner:
        for clone in (one, two, one):
            with pytest.raises(RoutingError, match=ASK):
                runner.run(where())
            router.enter(clone)
            assert runner.run(where()) == clone.database
            router.leave(clone)
            assert is_free(clone)
        runner.run(close())
