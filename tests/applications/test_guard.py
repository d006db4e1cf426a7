"""The application's own database, which neither a test nor a migration reaches by a driver of its own."""

from __future__ import annotations

import socket

import pytest

from clonedb.url import DatabaseURL
from tests.projects import Project

CONNECTS = """
import asyncio, os
import asyncpg, psycopg, psycopg2, pytest

REAL = os.environ["REAL"]

async def by_asyncpg(dsn):
    connection = await asyncpg.connect(dsn)
    await connection.close()

async def by_async_psycopg(dsn):
    await (await psycopg.AsyncConnection.connect(dsn)).close()

WAYS = {
    "psycopg": lambda dsn: psycopg.connect(dsn).close(),
    "async psycopg": lambda dsn: asyncio.run(by_async_psycopg(dsn)),
    "psycopg2": lambda dsn: psycopg2.connect(dsn).close(),
    "asyncpg": lambda dsn: asyncio.run(by_asyncpg(dsn)),
}
"""

TESTS = (
    CONNECTS
    + """
import clonedb

@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("host", ["127.0.0.1", os.environ["HOST_NAME"]])
def test_without_a_database(way, host):
    with pytest.raises(clonedb.RoutingError, match="use `clonedb_dsn`, or read the"):
        WAYS[way](REAL.replace("127.0.0.1", host))

@pytest.mark.parametrize("way", WAYS)
def test_with_a_database(way, clonedb_dsn):
    with pytest.raises(clonedb.RoutingError, match="use `clonedb_dsn`, or read the"):
        WAYS[way](REAL)
    WAYS[way](clonedb_dsn)
    WAYS[way](os.environ["SHOP_URL"])

def test_by_libpqs_variables(monkeypatch):
    monkeypatch.setenv("PGDATABASE", "{database}")
    with pytest.raises(clonedb.RoutingError):
        psycopg.connect("host=127.0.0.1 port={port}")

def test_another_one_is_no_business_of_clonedbs(clonedb):
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect("postgresql://nobody@127.0.0.1:1/elsewhere")
"""
)


@pytest.fixture
def real(empty_database_url: str) -> DatabaseURL:
    """The application's database, on the same server as the clones."""
    return DatabaseURL.parse(empty_database_url).replace(driver=None)


def test_drivers_do_not_reach_the_applications_database(items: Project, real: DatabaseURL) -> None:
    """By whatever driver, with a clone and without one, and by another name of its host: refused with what to write."""
    items.settings(route=["SHOP_URL"])
    items.write("test_it.py", TESTS.replace("{database}", str(real.database)).replace("{port}", str(real.port)))
    url = real.render()
    items.pytest(SHOP_URL=url, REAL=url, HOST_NAME=socket.gethostname()).demand()


@pytest.mark.parametrize("way", ["psycopg", "psycopg2", "asyncpg"])
def test_migrations_reach_only_the_database_that_is_built(project: Project, real: DatabaseURL, way: str) -> None:
    """A revision that connects by itself is refused elsewhere, and led by the variable, in the form that it had."""
    project.write("connects.py", CONNECTS)
    project.revision(
        "one",
        f"""
        op.execute("create table item (id int)")
        from connects import WAYS
        assert os.environ["DATABASE_URL"].startswith("postgresql://")
        WAYS[{way!r}](os.environ["DATABASE_URL"])
        WAYS[{way!r}](os.environ["REAL"])
        """,
    )
    url = real.render()
    outcome = project.clonedb("build", DATABASE_URL=url, REAL=url).demand(1)
    assert f"a connection to database {real.database!r} at localhost:{real.port} was refused" in outcome.err
    assert str(real.password) not in outcome.text
