"""Applications on a driver alone, whose settings and pools are made once and kept."""

from __future__ import annotations

import pytest

from tests.applications.shops import SOMEBODYS
from tests.projects import Project
from tests.pytest_plugin.plugins import STRICT, XDIST, run

SYNC = """
import os
from functools import lru_cache
import psycopg
from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["DATABASE_URL"], open=True)

@lru_cache
def settings():
    return os.environ["DATABASE_URL"]

def add(name):
    with psycopg.connect(settings()) as connection:
        connection.execute("insert into item (name) values (%s)", [name])

def names():
    with pool.connection() as connection:
        return [name for (name,) in connection.execute("select name from item order by id")]
"""

SYNC_TESTS = """
import psycopg, pytest
import app

@pytest.mark.parametrize("n", range(3))
def test_fresh(n):
    app.add(f"book {n}")
    assert app.names() == ["seeded", f"book {n}"]

def test_ddl():
    with psycopg.connect(app.settings()) as connection:
        connection.execute("alter table item add extra int")
    assert app.names() == ["seeded"]

def test_after_ddl():
    app.add("book")
    assert app.names() == ["seeded", "book"]

@pytest.mark.xfail(strict=True)
@pytest.mark.clonedb(keep="all")
def test_that_is_kept():
    app.add("lost")
    raise AssertionError

@pytest.mark.parametrize("n", range(2))
def test_after_one_that_is_kept(n):
    app.add("book")
    assert app.names() == ["seeded", "book"]
"""


@pytest.mark.parametrize("isolation", ["auto", "clone", "truncate", "worker"])
def test_synchronous(items: Project, isolation: str) -> None:
    """Each test meets its own database, after DDL, too, and after one that was kept."""
    items.settings(route=["DATABASE_URL"], autouse=True, isolation=isolation)
    items.environment["DATABASE_URL"] = SOMEBODYS.format(driver="psycopg").replace(
        "+psycopg", ""
    )
    items.write("app.py", SYNC)
    tests = SYNC_TESTS
    if isolation == "worker":
        tests = (
            tests.partition("@pytest.mark.parametrize")[0]
            + "def test_one():\n    app.add('x')\n"
        )
    items.write("test_it.py", tests)
    run(items, *(XDIST if isolation == "auto" else ())).demand()


ASYNC = """
import os
import asyncpg

dsn = os.environ["DATABASE_URL"]
pools = []

async def pool():
    if not pools:
        pools.append(await asyncpg.create_pool(dsn, min_size=1))
    return pools[0]

async def add(name):
    async with (await pool()).acquire() as connection:
        await connection.execute("insert into item (name) values ($1)", name)

async def names():
    connection = await asyncpg.connect(dsn)
    try:
        return [name for (name,) in await connection.fetch("select name from item order by id")]
    finally:
        await connection.close()
"""

ASYNC_TESTS = """
import pytest
import app

pytestmark = pytest.mark.asyncio(loop_scope="session")

@pytest.mark.parametrize("n", range(3))
async def test_fresh(n):
    await app.add(f"book {n}")
    assert await app.names() == ["seeded", f"book {n}"]

async def test_ddl():
    await (await app.pool()).execute("alter table item add extra int")
    assert await app.names() == ["seeded"]

async def test_after_ddl():
    await app.add("book")
    assert await app.names() == ["seeded", "book"]

async def test_the_end():
    await app.pools.pop().close()
"""


def test_asynchronous(items: Project) -> None:
    """One pool for all tests, on a loop for all of them."""
    items.settings(route=["DATABASE_URL"], autouse=True)
    items.environment["DATABASE_URL"] = SOMEBODYS.format(driver="asyncpg").replace(
        "+asyncpg", ""
    )
    items.write("app.py", ASYNC)
    items.write("test_it.py", ASYNC_TESTS)
    assert "6 passed" in run(items, *STRICT).demand().out


BESIDE = """
import asyncio
import asyncpg, psycopg2
from sqlalchemy import text

def test_synchronous(clonedb_session, clonedb_url):
    assert clonedb_session.scalar(text("select count(*) from item")) == 1
    assert clonedb_url.startswith("postgresql+asyncpg://")

def test_by_both_drivers(clonedb_dsn, clonedb):
    connection = psycopg2.connect(clonedb_dsn)
    assert connection.info.dbname == clonedb.name
    connection.close()

    async def where():
        async with asyncpg.create_pool(clonedb_dsn, min_size=1) as pool:
            return await pool.fetchval("select current_database()")

    assert asyncio.run(where()) == clonedb.name
"""


@pytest.mark.parametrize("required", ["asyncpg", "asyncpg psycopg2-binary"])
def test_asynchronous_tests_of_synchronous_migrations(items: Project, required: str) -> None:
    """Each gets a URL in its own form: an env.py that has no word of asyncio no asyncpg."""
    items.write(
        "pyproject.toml",
        f"""
        [project]
        name = "items"
        version = "1"
        dependencies = {required.split()}

        [tool.clonedb]
        driver = "asyncpg"
        salt = "{required}"
        """,
    )
    items.write("alembic.ini", "[alembic]\nscript_location = %(here)s/migrations\n")
    items.environment.pop("DATABASE_URL", None)
    driver = "psycopg2" if "psycopg2" in required else "psycopg"
    items.revision(
        "three", f"assert os.environ['DATABASE_URL'].startswith('postgresql+{driver}://')"
    )
    items.write("test_it.py", BESIDE)
    assert "2 passed" in run(items).demand().out


PEEWEE = """
import os
import pytest
from peewee import Model, TextField
from playhouse.db_url import connect

db = connect(os.environ["DATABASE_URL"])

class Item(Model):
    name = TextField()

    class Meta:
        database = db

@pytest.mark.parametrize("n", range(3))
def test_fresh(n):
    with db.connection_context():
        Item.create(name="book")
        assert [item.name for item in Item.select().order_by(Item.id)] == ["seeded", "book"]
"""


def test_a_library_that_stands_on_a_driver(items: Project) -> None:
    """peewee takes the URL apart at import."""
    items.settings(route=["DATABASE_URL"], autouse=True)
    items.environment["DATABASE_URL"] = (
        SOMEBODYS.format(driver="").replace("+", "").partition("?")[0]
    )
    items.write("test_it.py", PEEWEE)
    assert "3 passed" in run(items).demand().out
