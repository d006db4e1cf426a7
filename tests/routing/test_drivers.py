"""Connections that an application makes by its driver, without SQLAlchemy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import asyncpg
import psycopg
import psycopg2
import pytest

from clonedb.errors import RoutingError
from clonedb.routing.application import Router
from clonedb.url import DatabaseURL
from tests.routing.conftest import MakeRouter

WHERE = "select current_database()"
connect_by_name = psycopg.connect  # as `from psycopg import connect` before there is a router


def by_psycopg(dsn: str) -> object:
    with connect_by_name(dsn) as connection:
        row = connection.execute(WHERE).fetchone()
    return row and row[0]


def by_keywords(dsn: str) -> object:
    with psycopg.connect(**psycopg.conninfo.conninfo_to_dict(dsn)) as connection:  # type: ignore[arg-type]
        return connection.info.dbname


def by_async_psycopg(dsn: str) -> object:
    async def connect() -> object:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            return connection.info.dbname

    return asyncio.run(connect())


def by_psycopg2(dsn: str) -> object:
    connection = psycopg2.connect(dsn)
    try:
        return connection.info.dbname
    finally:
        connection.close()


def by_asyncpg(dsn: str) -> object:
    async def connect() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(WHERE)
        finally:
            await connection.close()

    return asyncio.run(connect())


WAYS: Mapping[str, Callable[[str], object]] = {
    way.__name__: way
    for way in (by_psycopg, by_keywords, by_async_psycopg, by_psycopg2, by_asyncpg)
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@each_way
def test_led(
    router: Router,
    shop: DatabaseURL,
    one: DatabaseURL,
    two: DatabaseURL,
    way: Callable[[str], object],
) -> None:
    """To the clone that was entered last, and back; without a clone the error says what to write."""
    dsn = shop.replace(driver=None).render()
    for _ in range(2):
        router.enter(one)
        assert way(dsn) == one.database
        router.enter(two)
        assert way(dsn) == two.database
        assert way(one.replace(driver=None).render()) == one.database
        router.leave(two)
        assert way(dsn) == one.database
        router.leave(one)
        with pytest.raises(RoutingError, match="ask for the fixture `clonedb`") as caught:
            way(dsn)
        assert str(shop.password) not in str(caught.value)


@each_way
def test_a_url_of_an_earlier_clone(
    router: Router, one: DatabaseURL, two: DatabaseURL, way: Callable[[str], object]
) -> None:
    """Settings that cached what the environment said in an earlier test lead to the clone of this one."""
    router.enter(one)
    router.leave(one)
    router.enter(two)
    assert way(one.replace(driver=None).render()) == two.database
    router.leave(two)


@each_way
def test_a_url_that_leaves_the_port_to_libpq(
    monkeypatch: pytest.MonkeyPatch,
    make_router: MakeRouter,
    one: DatabaseURL,
    way: Callable[[str], object],
) -> None:
    """It is the same place while PGPORT is that of a clone's server; so Django's settings have it."""
    dsn = "postgresql://app@db.invalid/shop"
    monkeypatch.setenv("SHOP_URL", dsn)
    router = make_router("SHOP_URL")
    router.enter(one)
    assert way(dsn) == one.database
    router.leave(one)
    with pytest.raises(RoutingError):
        way(dsn)


@each_way
def test_everything_is_every_engine(
    make_router: MakeRouter,
    shop: DatabaseURL,
    one: DatabaseURL,
    way: Callable[[str], object],
) -> None:
    """Other code of the process has drivers, too: with "*" they go where they are told."""
    router = make_router("*")
    router.enter(one)
    assert way(shop.replace(driver=None).render()) == shop.database
    router.leave(one)


SETTINGS = "select current_setting('search_path'), current_setting('application_name')"
KEPT = ("accounts", "shop")


def test_what_else_the_caller_wants_stays(
    router: Router, shop: DatabaseURL, one: DatabaseURL
) -> None:
    """Where it goes changes, and nothing else."""
    dsn = shop.replace(driver=None, query=(("application_name", "shop"),)).render()
    options = "-c search_path=accounts"
    router.enter(one)
    with psycopg.connect(dsn, options=options, autocommit=True) as connection:
        assert connection.autocommit
        assert connection.execute(SETTINGS).fetchone() == KEPT

    second = psycopg2.connect(dsn, options=options)
    with second.cursor() as cursor:
        cursor.execute(SETTINGS)
        assert cursor.fetchone() == KEPT
    second.close()

    async def third() -> object:
        connection = await asyncpg.connect(dsn, server_settings={"search_path": "accounts"})
        row = await connection.fetchrow(SETTINGS)
        await connection.close()
        return tuple(row)

    assert asyncio.run(third()) == KEPT
    router.leave(one)


def test_uninstalled(prefix: str, shop: DatabaseURL, one: DatabaseURL) -> None:
    """A driver connects where it is told again."""
    router = Router([shop.render()], source="here", prefix=prefix)
    router.install()
    router.enter(one)
    router.uninstall()
    for way in WAYS.values():
        assert way(shop.replace(driver=None).render()) == shop.database
