"""An application's own database, two clones, and a router between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import psycopg
import pytest
from psycopg.sql import SQL, Identifier, Literal

from clonedb.names import clone_name
from clonedb.routing.application import Router
from clonedb.url import DatabaseURL

MakeRouter = Callable[..., Router]


@pytest.fixture
def databases(admin_dsn: str, prefix: str) -> Iterator[list[str]]:
    """The names of the application's database and of two clones, empty all."""
    names = [
        f"{prefix}_shop",
        *(clone_name(prefix, "0123456789", "aaaaaaaaaa", number) for number in (1, 2)),
    ]
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        for name in names:
            connection.execute(
                SQL("create database {} strategy file_copy").format(Identifier(name))
            )
        yield names
        for name in names:
            connection.execute(SQL("drop database {} with (force)").format(Identifier(name)))


@pytest.fixture
def shop(server_url: str, databases: list[str]) -> DatabaseURL:
    """The application's database."""
    return DatabaseURL.parse(server_url).replace(database=databases[0])


@pytest.fixture
def one(shop: DatabaseURL, databases: list[str]) -> DatabaseURL:
    """A clone."""
    return shop.replace(database=databases[1])


@pytest.fixture
def two(shop: DatabaseURL, databases: list[str]) -> DatabaseURL:
    """Another clone."""
    return shop.replace(database=databases[2])


@pytest.fixture
def make_router(
    monkeypatch: pytest.MonkeyPatch, prefix: str, shop: DatabaseURL
) -> Iterator[MakeRouter]:
    """A function that installs a router; SHOP_URL holds the URL of the application's database."""
    monkeypatch.setenv("SHOP_URL", shop.render())
    made: list[Router] = []

    def make(*route: str, templates: Mapping[str, str] | None = None) -> Router:
        made.append(
            Router(
                templates or route or ("SHOP_URL",),
                source="pyproject.toml [tool.clonedb]",
                prefix=prefix,
            )
        )
        made[-1].install()
        return made[-1]

    yield make
    for router in made:
        router.uninstall()


@pytest.fixture
def router(make_router: MakeRouter) -> Router:
    """A router for SHOP_URL."""
    return make_router()


@pytest.fixture
def is_free(admin_dsn: str) -> Callable[[DatabaseURL], bool]:
    """A function that says whether nobody is connected to a database; a session that was closed takes a moment."""

    def look(url: DatabaseURL) -> bool:
        query = SQL("select count(*) from pg_stat_activity where datname = {}").format(
            Literal(url.database)
        )
        with psycopg.connect(admin_dsn, autocommit=True) as connection:
            for _ in range(100):
                if connection.execute(query).fetchone() == (0,):
                    return True
                time.sleep(0.01)
        return False

    return look
