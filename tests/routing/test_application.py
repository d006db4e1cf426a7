"""Engines made for an application's own database, and the clones that they reach."""

from __future__ import annotations

import os
from collections.abc import Callable

import psycopg
import pytest
import sqlalchemy as sa

from clonedb.errors import ConfigError, RoutingError
from clonedb.postgres.address import Address
from clonedb.routing.application import Router
from clonedb.url import DatabaseURL
from tests.routing.conftest import MakeRouter
from tests.routing.engines import engine_on, reached


def test_refused_without_a_clone(router: Router, shop: DatabaseURL, one: DatabaseURL) -> None:
    """Before, between and after: the message says what to write, and holds no password."""
    engine = engine_on(shop)
    message = (
        rf"a connection to database '{shop.database}' at localhost:{shop.port} was refused: route = \['SHOP_URL'\]"
        r" \(pyproject.toml \[tool.clonedb\]\) sends it to the clone of the test, and there is none now; ask for the"
        r" fixture `clonedb` in the test or the fixture that connects, or write `autouse = true`"
    )
    for _ in range(2):
        with pytest.raises(RoutingError, match=message) as caught:
            engine.connect()
        assert str(shop.password) not in str(caught.value)
        router.enter(one)
        assert reached(engine) == one.database
        router.leave(one)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_clone_that_cannot_be_reached(
    router: Router, shop: DatabaseURL, one: DatabaseURL, driver: str
) -> None:
    """pytest shows the arguments of every frame; none of them holds the password."""
    router.enter(one.replace(port=1))
    with pytest.raises(sa.exc.OperationalError, match="refused") as caught:
        engine_on(shop, driver).connect()
    router.leave(one)
    shown = str(caught.getrepr(style="long", funcargs=True))
    assert str(one.password) not in shown


def test_refused_in_the_callers_words(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    """Whoever installs a router may say what is raised."""
    monkeypatch.setenv("SHOP_URL", "postgresql+psycopg://far.invalid/shop")
    router = Router(["SHOP_URL"], source="settings", prefix=prefix, refuse=PermissionError)
    router.install()
    with pytest.raises(PermissionError, match=r"'shop' at far\.invalid:5432 was refused"):
        sa.create_engine("postgresql+psycopg://far.invalid/shop").connect()
    router.uninstall()


def test_only_what_is_routed(
    router: Router, shop: DatabaseURL, one: DatabaseURL, two: DatabaseURL
) -> None:
    """Of two engines on two databases one is the application's; and one on a clone goes where it is told."""
    other = engine_on(shop.replace(database="postgres"))
    explicit = engine_on(two)
    assert reached(other) == "postgres"
    router.enter(one)
    assert [reached(engine_on(shop)), reached(other), reached(explicit)] == [
        one.database,
        "postgres",
        two.database,
    ]
    router.leave(one)
    assert reached(other) == "postgres"
    assert reached(explicit) == two.database
    for engine in (other, explicit):
        engine.dispose()


def test_everything(
    make_router: MakeRouter, shop: DatabaseURL, one: DatabaseURL, two: DatabaseURL
) -> None:
    """ "*" means every PostgreSQL engine, but for those on clones, and no other database system."""
    router = make_router("*")
    engine, lite = (
        engine_on(shop.replace(host="far.invalid", database="x")),
        sa.create_engine("sqlite://"),
    )
    with pytest.raises(RoutingError, match=r"database 'x' at far.invalid:"):
        engine.connect()
    router.enter(one)
    assert reached(engine) == one.database
    explicit = engine_on(two)
    assert reached(explicit) == two.database
    with lite.connect() as connection:
        assert connection.scalar(sa.text("select 1")) == 1
    router.leave(one)
    explicit.dispose()
    lite.dispose()


def test_a_url(make_router: MakeRouter, shop: DatabaseURL, one: DatabaseURL) -> None:
    """Its place counts, however another engine writes it; no variable is changed."""
    router = make_router(f"postgresql://somebody:s3cret@localhost:{shop.port}/{shop.database}")
    with pytest.raises(RoutingError, match=r"somebody:\*\*\*@localhost") as caught:
        engine_on(shop).connect()
    assert "s3cret" not in str(caught.value)
    router.enter(one)
    assert os.environ["SHOP_URL"] == shop.render()
    assert (
        reached(sa.create_engine("postgresql+psycopg://", connect_args=shop.conninfo()))
        == one.database
    )
    router.leave(one)


def test_what_else_the_caller_wants_stays(
    router: Router, shop: DatabaseURL, one: DatabaseURL
) -> None:
    """search_path, timeouts and names are the application's own business."""
    router.enter(one)
    engine = engine_on(
        shop, connect_args={"options": "-c statement_timeout=7s", "application_name": "shop"}
    )
    with engine.connect() as connection:
        query = sa.text(
            "select current_setting('statement_timeout'), current_setting('application_name')"
        )
        assert connection.execute(query).one() == ("7s", "shop")
    router.leave(one)


def test_a_listener_of_the_applications_own(
    router: Router, shop: DatabaseURL, one: DatabaseURL
) -> None:
    """One that fetches a password for each connection, say, cannot lead it anywhere else."""
    engine = engine_on(shop)

    @sa.event.listens_for(engine, "do_connect")
    def _fetch(
        _dialect: object, _record: object, _positional: object, keywords: dict[str, str]
    ) -> None:
        keywords.update(password="token", dbname="elsewhere")

    router.enter(one)
    assert reached(engine) == one.database
    router.leave(one)


def test_clones_nest(
    router: Router,
    shop: DatabaseURL,
    one: DatabaseURL,
    two: DatabaseURL,
    is_free: Callable[[DatabaseURL], bool],
) -> None:
    """A module's clone, a test's above it, and the module's again; each may be left first."""
    engine, explicit = engine_on(shop), engine_on(one)
    router.enter(one)
    assert reached(engine) == one.database
    router.enter(two)
    assert reached(engine) == two.database
    assert reached(explicit) == one.database
    router.leave(two)
    assert is_free(two)
    assert reached(engine) == one.database
    router.enter(two)
    router.leave(one)
    assert reached(engine) == two.database
    assert os.environ["SHOP_URL"] == two.render()
    router.leave(two)
    assert Address.of(DatabaseURL.parse(os.environ["SHOP_URL"]).conninfo(), {}).is_nowhere
    explicit.dispose()


def test_engines_made_from_the_environment(
    router: Router, one: DatabaseURL, two: DatabaseURL
) -> None:
    """An application that is imported by a test is bound to the clone of that, and reaches the next one's all the same."""
    router.enter(one)
    engine = sa.create_engine(os.environ["SHOP_URL"])
    assert reached(engine) == one.database
    router.leave(one)
    with pytest.raises(RoutingError, match=f"'{one.database}'"):
        engine.connect()
    router.enter(two)
    assert reached(engine) == two.database
    router.leave(two)


def test_engines_made_between_tests(router: Router, one: DatabaseURL, two: DatabaseURL) -> None:
    """What a session's fixture made, from the environment of the clone for all of them, follows the tests' clones."""
    router.enter(one, stands_in=True)
    engine = sa.create_engine(os.environ["SHOP_URL"])
    for _ in range(2):
        assert reached(engine) == one.database
        router.enter(two)
        assert reached(engine) == two.database
        router.leave(two)
    router.leave(one)


def test_uninstalled(make_router: MakeRouter, shop: DatabaseURL, one: DatabaseURL) -> None:
    """Everything is as if it had never been."""
    before = dict(os.environ)
    engine, router = engine_on(shop), make_router()
    router.enter(one)
    assert reached(engine) == one.database
    router.uninstall()
    assert dict(os.environ) == before
    assert os.environ["SHOP_URL"] == shop.render()
    assert reached(engine) == shop.database
    engine.dispose()
    router.install()  # for the fixture to take back


def test_libpqs_environment(router: Router, one: DatabaseURL) -> None:
    """psycopg used directly reaches the clone by libpq's own variables."""
    router.enter(one)
    with psycopg.connect("") as connection:
        assert connection.info.dbname == one.database
    router.leave(one)
    with pytest.raises(RoutingError, match="no_database_in_this_test__use_a_clonedb_fixture"):
        psycopg.connect("")


@pytest.mark.parametrize(
    ("route", "message"),
    [
        (
            ["SHOP_URI"],
            r"settings: route names the environment variable 'SHOP_URI', which is not set \(did you mean 'SHOP_URL'\?\); set it, or write the application's URL itself, or '\*' for every PostgreSQL engine",
        ),
        (
            ["MYSQL_URL"],
            r"settings: route: variable 'MYSQL_URL': 'mysql://me:\*\*\*@far/shop' is not the URL of a PostgreSQL server",
        ),
        (
            ["sqlite:///x.db"],
            r"settings: route: 'sqlite:///x.db' is not the URL of a PostgreSQL server",
        ),
        (["EMPTY"], "'EMPTY', which is not set"),
    ],
)
def test_what_cannot_be_routed(
    monkeypatch: pytest.MonkeyPatch, shop: DatabaseURL, route: list[str], message: str
) -> None:
    """A variable that is not set, and what is not PostgreSQL's."""
    monkeypatch.setenv("SHOP_URL", shop.render())
    monkeypatch.setenv("MYSQL_URL", "mysql://me:s3cret@far/shop")
    monkeypatch.setenv("EMPTY", "")
    with pytest.raises(ConfigError, match=message):
        Router(route, source="settings", prefix="clonedb")


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_what_a_driver_is_told_besides(
    router: Router, shop: DatabaseURL, one: DatabaseURL, driver: str
) -> None:
    """So that it demands a proof of the server, as `proof` says for each driver."""
    asked: list[str] = []

    def proof(name: str) -> dict[str, str]:
        asked.append(name)
        return {"require_auth": "none"}  # this server demands a password

    router.enter(one, proof=proof)
    with pytest.raises(sa.exc.OperationalError, match='method requirement "none" failed'):
        engine_on(shop, driver).connect()
    router.leave(one)
    router.enter(one)
    assert reached(engine_on(shop, driver)) == one.database
    assert asked == [driver]
