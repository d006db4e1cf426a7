"""What pools keep of a clone, and connections that no pool of the application's made."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.pool import NullPool, StaticPool

from clonedb.errors import RoutingError
from clonedb.routing.application import Router
from clonedb.url import DatabaseURL
from tests.routing.conftest import MakeRouter
from tests.routing.engines import WHERE, engine_on, reached


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize(
    "keywords",
    [{}, {"pool_pre_ping": True}, {"poolclass": NullPool}, {"poolclass": StaticPool}],
)
def test_one_clone_after_another(
    *,
    router: Router,
    shop: DatabaseURL,
    one: DatabaseURL,
    two: DatabaseURL,
    is_free: Callable[[DatabaseURL], bool],
    driver: str,
    keywords: dict[str, object],
) -> None:
    """An engine reaches the clone that is there, whatever its pool, and nothing of it stays with the one before."""
    engine = engine_on(shop, driver, **keywords)
    for clone in (one, two, one):
        router.enter(clone)
        assert reached(engine) == reached(engine) == clone.database
        router.leave(clone)
        assert is_free(clone)
    assert is_free(shop)
    engine.dispose()


def test_a_connection_left_open(
    router: Router,
    shop: DatabaseURL,
    one: DatabaseURL,
    two: DatabaseURL,
    is_free: Callable[[DatabaseURL], bool],
) -> None:
    """Whoever counts what a test left open can see it; it is closed after that."""
    engine = engine_on(shop)
    router.enter(one)
    connection = engine.connect()
    assert connection.scalar(WHERE) == one.database
    router.leave(one)
    assert not is_free(one)
    router.close_leaked()
    assert is_free(one)
    router.enter(two)
    assert reached(engine) == two.database
    connection.close()
    assert reached(engine) == two.database
    router.leave(two)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_session_that_nobody_closed(
    router: Router, shop: DatabaseURL, one: DatabaseURL, two: DatabaseURL, driver: str
) -> None:
    """It is closed as its test ends, so that the next test that uses it has a new transaction."""
    engine = engine_on(shop, driver)
    scoped = orm.scoped_session(orm.sessionmaker(engine))
    router.enter(one)
    with orm.Session(engine_on(shop, driver)) as other:
        assert other.scalar(WHERE) == one.database
        router.enter(two)
        assert scoped.scalar(WHERE) == two.database
        router.leave(two)
        router.close_leaked("test 'test_it.py::test_one'")
        assert other.in_transaction()  # on a database that is not left
        assert not scoped().in_transaction()
        assert scoped.scalar(WHERE) == one.database
        scoped.remove()
    router.leave(one)


def test_a_connection_that_nobody_closed(
    router: Router, shop: DatabaseURL, one: DatabaseURL, two: DatabaseURL
) -> None:
    """The next test that uses it is told who left it."""
    router.enter(one)
    connection = engine_on(shop).connect()
    assert connection.scalar(WHERE) == one.database
    router.leave(one)
    router.close_leaked("test 'test_it.py::test_one'")
    router.enter(two)
    with pytest.raises(
        sa.exc.StatementError,
        match=r"EndedTestError\) test 'test_it.py::test_one' has ended with this",
    ):
        connection.scalar(WHERE)
    connection.close()
    router.leave(two)


def test_a_connection_handed_back_too_late(
    router: Router, shop: DatabaseURL, one: DatabaseURL, is_free: Callable[[DatabaseURL], bool]
) -> None:
    """The pool does not keep it."""
    engine = engine_on(shop)
    router.enter(one)
    with engine.connect():
        router.leave(one)
    assert is_free(one)


def test_a_creator(
    router: Router, shop: DatabaseURL, one: DatabaseURL, two: DatabaseURL
) -> None:
    """Whatever URL it has, its connections lead to the clone that was entered last."""
    stubborn = sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(shop.replace(driver=None).render()),
    )
    willing = sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(os.environ["SHOP_URL"].replace("+psycopg", "")),
    )
    for clone in (one, two):
        router.enter(clone)
        assert reached(stubborn) == reached(willing) == clone.database
        router.leave(clone)
    router.enter(one, stands_in=True)
    assert reached(stubborn) == reached(willing) == one.database
    router.enter(two)
    assert reached(stubborn) == reached(willing) == two.database
    router.leave(two)
    assert reached(stubborn) == one.database
    router.leave(one)
    for engine in (stubborn, willing):
        with pytest.raises(RoutingError, match="a connection to database"):
            engine.connect()


def test_a_creator_that_cannot_be_led(
    make_router: MakeRouter, shop: DatabaseURL, one: DatabaseURL
) -> None:
    """A connection that was opened unseen is looked at when a pool gets it, closed and refused."""
    opened = psycopg.connect(shop.replace(driver=None).render())
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: opened)
    router = make_router()
    router.enter(one)
    with pytest.raises(RoutingError, match="make the engine from a URL"):
        engine.connect()
    assert opened.closed
    router.leave(one)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_listener_that_connects(
    router: Router, shop: DatabaseURL, one: DatabaseURL, two: DatabaseURL, driver: str
) -> None:
    """A `do_connect` listener that was there first and returns a connection of its own is led, too."""
    engine = sa.create_engine(shop.replace(driver=driver).render())
    first = sa.event.listens_for(sa.engine.Engine, "do_connect", insert=True)

    @first
    def connect(dialect: Any, _record: object, _parts: object, _keywords: object) -> Any:
        return dialect.dbapi.connect(shop.replace(driver=None).render())

    try:
        for clone in (one, two):
            router.enter(clone)
            assert reached(engine) == clone.database
            router.leave(clone)
        with pytest.raises(RoutingError, match="a connection to database"):
            engine.connect()
    finally:
        sa.event.remove(sa.engine.Engine, "do_connect", connect)


def test_a_pool_filled_before(
    make_router: MakeRouter, shop: DatabaseURL, one: DatabaseURL
) -> None:
    """A connection that was opened before anybody listened is not handed out again."""
    engine = engine_on(shop)
    assert reached(engine) == shop.database
    router = make_router()
    with pytest.raises(RoutingError):
        engine.connect()
    router.enter(one)
    assert reached(engine) == one.database
    router.leave(one)
