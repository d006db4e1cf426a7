"""The asynchronous fixtures under each plugin, with each driver, and without what they need."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.campaigns import VARIANT
from tests.projects import Project
from tests.pytest_plugin.plugins import ANYIO, AUTO, STRICT, XDIST, anyio_backends, mark, run

EACH_FIXTURE = """
import gc
import psycopg, pytest, sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

{mark}
INSERT = sa.text("insert into item (name) values ('of the test')")
COUNT = sa.text("select count(*) from item")
left_open = []

def committed(clonedb):
    with clonedb.connect() as connection:
        return connection.execute("select count(*) from item").fetchone()[0]

@mark
async def test_engine(clonedb, clonedb_async_engine):
    assert isinstance(clonedb_async_engine, AsyncEngine)
    assert clonedb_async_engine.url.database == clonedb.name
    async with clonedb_async_engine.begin() as connection:
        await connection.execute(INSERT)
    assert committed(clonedb) == 2

@mark
async def test_sessionmaker(clonedb, clonedb_async_engine, clonedb_async_sessionmaker):
    async with clonedb_async_sessionmaker.begin() as one, clonedb_async_sessionmaker() as other:
        assert one.bind is clonedb_async_engine
        await one.execute(INSERT)
        assert await other.scalar(COUNT) == 1
    assert committed(clonedb) == 2

@mark
async def test_session(clonedb, clonedb_async_session):
    assert isinstance(clonedb_async_session, AsyncSession)
    await clonedb_async_session.execute(INSERT)
    await clonedb_async_session.commit()
    assert committed(clonedb) == 2
    await clonedb_async_session.execute(INSERT)

@mark
async def test_connection(clonedb, clonedb_async_connection):
    assert isinstance(clonedb_async_connection, psycopg.AsyncConnection)
    assert clonedb_async_connection.info.dbname == clonedb.name
    await clonedb_async_connection.execute("insert into item (name) values ('of the test')")
    assert committed(clonedb) == 1
    await clonedb_async_connection.commit()
    assert committed(clonedb) == 2

@mark
async def test_closes_its_own(clonedb_async_engine, clonedb_async_session, clonedb_async_connection):
    await clonedb_async_session.execute(INSERT)
    await clonedb_async_session.close()
    await clonedb_async_connection.close()
    await clonedb_async_engine.dispose()

@mark
@pytest.mark.parametrize("n", range(4))
async def test_fresh(clonedb_async_session, clonedb_async_engine, n):
    assert await clonedb_async_session.scalar(COUNT) == 1
    await clonedb_async_session.execute(INSERT)
    await clonedb_async_session.commit()
    left_open.append(await clonedb_async_engine.connect())
    await left_open[-1].execute(sa.text("lock table item"))

def test_nothing_was_left_to_the_garbage_collector():
    left_open.clear()
    gc.collect()
"""


@pytest.mark.parametrize(
    "distributed", [(), pytest.param(XDIST, marks=VARIANT)], ids=["alone", "n2"]
)
@pytest.mark.parametrize("plugin", [STRICT, AUTO, ANYIO], ids=["strict", "auto", "anyio"])
def test_each_fixture_keeps_its_word(
    items: Project,
    clones: Callable[[], list[str]],
    plugin: tuple[str, ...],
    distributed: tuple[str, ...],
) -> None:
    """Every test has a database of its own by each fixture, and nothing warns of what it left open."""
    items.write("conftest.py", anyio_backends("asyncio"))
    items.write("test_it.py", EACH_FIXTURE.replace("{mark}", mark(plugin)))
    outcome = run(items, *plugin, *distributed).demand()
    assert "10 passed" in outcome.out
    assert "after their tests 9 rewound" in outcome.out
    assert clones() == []


@pytest.mark.parametrize(
    "plugins", [(*STRICT, *ANYIO), (*ANYIO, *STRICT)], ids=["asyncio-first", "anyio-first"]
)
def test_both_plugins(items: Project, plugins: tuple[str, ...]) -> None:
    """anyio's plugin comes with httpx and starlette: whichever plugin is loaded first, each test finds its own loop."""
    items.write("conftest.py", anyio_backends("asyncio"))
    items.write("test_asyncio.py", EACH_FIXTURE.replace("{mark}", mark(STRICT)))
    items.write("test_anyio.py", EACH_FIXTURE.replace("{mark}", mark(ANYIO)))
    assert "20 passed" in run(items, *plugins).demand().out


def test_trio(items: Project) -> None:
    """No driver of PostgreSQL runs on it: the message says so, and what to write."""
    items.write("conftest.py", anyio_backends("asyncio", "trio"))
    items.write(
        "test_it.py",
        """
        import pytest

        pytestmark = pytest.mark.anyio

        async def test_session(clonedb_async_session):
            await clonedb_async_session.connection()

        async def test_connection(clonedb_async_connection):
            await clonedb_async_connection.execute("select 1")
        """,
    )
    message = (
        "CloneDBError: anyio runs this test on 'trio', and PostgreSQL's asynchronous drivers (psycopg, asyncpg) need"
        " asyncio; write a fixture anyio_backend that returns 'asyncio'"
    )
    outcome = run(items, *ANYIO).demand(1)
    assert "2 passed, 2 errors" in outcome.out
    assert outcome.out.splitlines().count(message) == 1


def test_the_driver(items: Project, server_url: str) -> None:
    """The configured one if it runs on asyncio, else asyncpg; libpq's parameters reach either in its own words."""
    plain = server_url.replace("postgresql+psycopg:", "postgresql:")
    items.write(
        "conftest.py",
        f"""
        import pytest

        CONFIGURED = {{
            "nothing": {{}},
            "psycopg": {{"driver": "psycopg"}},
            "psycopg_async": {{"driver": "psycopg_async"}},
            "asyncpg": {{"driver": "asyncpg"}},
            "psycopg2": {{"driver": "psycopg2"}},
            "url": {{"url": {plain!r} + "?connect_timeout=7&application_name=shop&sslmode=prefer&options=-c%20jit%3Doff"}},
            "url of psycopg": {{"url": {server_url!r} + "?application_name=shop&options=-c%20jit%3Doff"}},
        }}

        @pytest.fixture(scope="session", params=CONFIGURED)
        def configured(request):
            return request.param

        @pytest.fixture(scope="session")
        def clonedb_config(clonedb_config, configured):
            return clonedb_config.replace("conftest.py", **CONFIGURED[configured])
        """,
    )
    items.write(
        "test_it.py",
        """
        import asyncio
        import sqlalchemy as sa

        def test_driver(clonedb, clonedb_async_engine, configured):
            expected = "psycopg" if configured in ("psycopg", "psycopg_async", "url of psycopg") else "asyncpg"
            assert clonedb_async_engine.dialect.driver.removesuffix("_async") == expected
            async def look():
                query = "select current_database(), current_setting('application_name'), current_setting('jit')"
                async with clonedb_async_engine.connect() as connection:
                    return (await connection.execute(sa.text(query))).one()
            database, name, jit = asyncio.run(look())
            assert database == clonedb.name == clonedb_async_engine.url.database
            if "url" in configured:
                assert (name, jit) == ("shop", "off")
        """,
    )
    assert "7 passed" in run(items).demand().out


def without(*packages: str) -> str:
    """A conftest for an environment that has some packages not."""
    return f"import sys\nsys.modules.update(dict.fromkeys({packages}))\n"


def test_what_is_not_installed_is_named(items: Project) -> None:
    """One message that says what to install; without asyncpg, unless it is configured, psycopg does its work."""
    items.write(
        "test_it.py",
        """
        import asyncio

        def test_session(clonedb_async_session):
            asyncio.run(clonedb_async_session.connection())

        def test_engine(clonedb_async_engine):
            assert clonedb_async_engine.dialect.driver == "psycopg"
        """,
    )
    needs = (
        "an asynchronous SQLAlchemy engine needs {}, not installed here; install clonedb[async]"
    )
    items.write("conftest.py", without("asyncpg"))
    assert "2 passed" in run(items).demand().out
    items.write("conftest.py", without("greenlet"))
    outcome = run(items).demand(1)
    assert "2 errors" in outcome.out
    assert outcome.out.splitlines().count(f"CloneDBError: {needs.format('greenlet')}") == 1
    assert "async_fixtures.py" not in outcome.out
    items.settings(driver="asyncpg")
    items.write("conftest.py", without("greenlet", "asyncpg"))
    assert (
        "the driver is 'asyncpg', which is not installed here; pip install asyncpg"
        in " ".join(run(items).demand(1).out.split())
    )


@pytest.mark.parametrize(
    "distributed", [(), pytest.param(XDIST, marks=VARIANT)], ids=["alone", "n2"]
)
def test_no_plugin_is_needed(
    items: Project, clones: Callable[[], list[str]], distributed: tuple[str, ...]
) -> None:
    """Synchronous tests may run a loop of their own; of an asynchronous one pytest says what to install."""
    items.write(
        "test_it.py",
        """
        import asyncio
        import pytest, sqlalchemy as sa
        from clonedb import CloneDBError

        def test_session(clonedb_async_session, clonedb):
            assert asyncio.run(clonedb_async_session.scalar(sa.text("select current_database()"))) == clonedb.name

        def test_connection(clonedb_async_connection, clonedb):
            async def look():
                return await (await clonedb_async_connection.execute("select current_database()")).fetchone()
            assert asyncio.run(look()) == (clonedb.name,)

        def test_on_a_running_loop(request, clonedb):
            async def main():
                connection = request.getfixturevalue("clonedb_async_connection")
                await connection.execute("select 1")
                await request.getfixturevalue("clonedb_async_session").connection()
            asyncio.run(main())

        def test_without_a_loop(clonedb_async_engine):
            with pytest.raises(CloneDBError, match="where no asyncio loop runs; await it on asyncio"):
                clonedb_async_engine.sync_engine.connect()

        async def test_async(clonedb_async_session, clonedb_async_connection): pass
        """,
    )
    outcome = run(items, "--clonedb-keep=none", *distributed).demand(1)
    assert "1 failed, 4 passed" in outcome.out
    assert "async def functions are not natively supported" in outcome.out
    assert "pytest-asyncio" in outcome.out
    assert "never awaited" not in outcome.text
    assert clones() == []


def test_registering_them_imports_nothing(items: Project, tmp_path: Path) -> None:
    """Neither asyncio nor a driver nor a plugin, though `pytest --fixtures` tells of each fixture."""
    items.write(
        "test_it.py",
        f"""
        import json, sys

        def test_modules():
            with open({str(tmp_path / "modules")!r}, "w") as file:
                json.dump(sorted(sys.modules), file)
        """,
    )
    items.starts_anew = True
    run(items).demand()
    modules = {
        name.partition(".")[0] for name in json.loads((tmp_path / "modules").read_text())
    }
    assert "clonedb" in modules
    assert modules.isdisjoint(
        {"anyio", "asyncio", "asyncpg", "greenlet", "psycopg", "pytest_asyncio", "sqlalchemy"}
    )
    shown = run(items, "--fixtures").demand().out
    for name in ("connection", "engine", "session", "sessionmaker"):
        assert f"\nclonedb_async_{name} -- " in shown
