"""Connections that a test left in the middle of something, and functions of a database that make settings."""

from __future__ import annotations

import pytest

from tests.projects import Project
from tests.pytest_plugin.plugins import run

HELD = """
import pytest

held = []

def copy_in(connection):
    held.append(connection.cursor().copy("copy item (name) from stdin"))
    held[-1].__enter__().write_row(("Zed",))

def copy_out(connection):
    held.append(connection.cursor().copy("copy (select generate_series(1, 1000000)) to stdout"))
    next(iter(held[-1].__enter__()))

def stream(connection):
    held.append(connection.cursor().stream("select generate_series(1, 1000000)"))
    next(held[-1])

def notifies(connection):
    connection.execute("listen news")
    connection.execute("notify news")
    connection.commit()
    held.append(connection.notifies(timeout=1))
    next(held[-1])

def pipeline(connection):
    held.append(connection.pipeline())
    held[-1].__enter__()
    connection.execute("select 1")

@pytest.mark.filterwarnings("always::clonedb.LeakedConnectionWarning")
@pytest.mark.parametrize("leave", [copy_in, copy_out, stream, notifies, pipeline])
def test_leaves(clonedb_connection, leave):
    assert clonedb_connection.execute("select count(*) from item").fetchone() == (1,)
    leave(clonedb_connection)

def test_is_told_of_nothing(clonedb_connection):
    assert clonedb_connection.execute("select count(*) from item").fetchone() == (1,)
    held.clear()
"""


@pytest.mark.parametrize("isolation", ["auto", "truncate", "clone"])
def test_what_holds_a_connection_still(items: Project, isolation: str) -> None:
    """A COPY, `stream()`, `notifies()` or pipeline that a test left open: a warning names the test, and nothing hangs."""
    items.environment["CLONEDB_ISOLATION"] = isolation
    items.write("test_it.py", HELD)
    outcome = run(items).demand()
    for leave in ("copy_in", "copy_out", "stream", "notifies", "pipeline"):
        assert f"test_it.py::test_leaves[{leave}] ended in the middle of" in outcome.out


RESTARTED = """
import os, psycopg, pytest, sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

@pytest.fixture(autouse=True)
def restarted():
    # what a restart of the server does between two tests: sessions end, also while nobody looks
    with psycopg.connect(os.environ["ADMIN"], autocommit=True) as admin:
        others = "from pg_stat_activity where starts_with(datname, %s) and backend_type = 'client backend'"
        prefix = [os.environ["CLONEDB_PREFIX"] + "_c_"]
        ended = admin.execute(f"select pid, pg_terminate_backend(pid) {others}", prefix).fetchall()
        while any(os.path.exists(f"/proc/{pid}") for pid, _ in ended):  # it closes its socket last
            pass

@pytest.mark.parametrize("number", range(3))
def test_fixtures_give_what_works(number, restarted, clonedb_connection, clonedb_session, clonedb_engine):
    query = "select name from item"
    assert clonedb_connection.execute(query).fetchone() == ("seeded",)
    assert clonedb_session.scalar(sa.text(query)) == "seeded"
    with clonedb_engine.connect() as connection:
        assert connection.scalar(sa.text(query)) == "seeded"

@pytest.mark.parametrize("number", range(3))
def test_so_do_asynchronous_ones(number, restarted, clonedb_async_session):
    import asyncio

    async def ask():
        assert await clonedb_async_session.scalar(sa.text("select name from item")) == "seeded"
        await clonedb_async_session.close()

    asyncio.run(ask())
"""


@pytest.mark.parametrize("isolation", ["auto", "truncate", "clone", "worker"])
def test_sessions_that_ended_between_tests(
    items: Project, isolation: str, admin_dsn: str
) -> None:
    """No fixture hands out a connection that the server has ended meanwhile."""
    items.environment |= {"CLONEDB_ISOLATION": isolation, "ADMIN": admin_dsn}
    items.write("test_it.py", RESTARTED)
    run(items).demand()


HELD_ONE = (
    RESTARTED[: RESTARTED.index("@pytest.mark")]
    + """
@pytest.mark.parametrize("number", range(3))
def test_the_held_session_works(number, restarted, clonedb_session):
    assert clonedb_session.scalar(sa.text("select name from item")) == "seeded"
    clonedb_session.execute(sa.text("delete from item"))
    clonedb_session.commit()
"""
)


def test_a_held_session_that_ended_between_tests(items: Project, admin_dsn: str) -> None:
    """Under `rollback`, too, where one connection goes from test to test."""
    items.environment |= {"CLONEDB_ISOLATION": "rollback", "ADMIN": admin_dsn}
    items.write("test_it.py", HELD_ONE)
    run(items).demand()


FUNCTIONS = """
    create extension citext;
    create function quick() returns text language sql as $$ select set_config('work_mem', '5MB', false) $$;
    create function any_setting(name text) returns void language plpgsql as $$
        begin execute 'set ' || name || ' = 1'; end $$;
"""
STAYS = """
import pytest, sqlalchemy as sa

pids = []

@pytest.mark.parametrize("n", range(3))
def test_it(clonedb_engine, n):
    with clonedb_engine.begin() as connection:
        pids.append(connection.scalar(sa.text("select pg_backend_pid()")))
        assert connection.scalar(sa.text("select current_setting('app.tenant', true)")) is None
        assert connection.scalar(sa.text("show work_mem")) == "4MB"
        connection.execute(sa.text("select quick()"))
        connection.execute(sa.text("CALL"))
    assert len(set(pids)) == PIDS
"""


@pytest.mark.parametrize("of_library", [True, False])
def test_functions_that_make_settings(items: Project, *, of_library: bool) -> None:
    """Ordinary settings, and what a library's functions could do, close nothing; a setting of any name closes all."""
    library = "alter extension citext add function any_setting(text);" if of_library else ""
    items.revision("three", f"op.execute('''{FUNCTIONS}{library}''')", "pass")
    call = "select 1" if of_library else "select any_setting('app' || '.tenant')"
    items.write(
        "test_it.py",
        STAYS.replace("CALL", call).replace("PIDS", "1" if of_library else "n + 1"),
    )
    run(items).demand()


TEMPORARY = """
import asyncio, pytest, sqlalchemy as sa

@pytest.fixture(params=["clonedb_connection", "clonedb_engine", "clonedb_async_engine"])
def run(request):
    given = request.getfixturevalue(request.param)

    async def later(query):
        async with given.begin() as connection:
            found = await connection.execute(sa.text(query))
            return found.scalar() if found.returns_rows else None

    def now(query):
        if request.param == "clonedb_connection":
            found = given.execute(query)
            return found.fetchone()[0] if found.description else None
        with given.begin() as connection:
            found = connection.execute(sa.text(query))
            return found.scalar() if found.returns_rows else None

    yield (lambda query: asyncio.run(later(query))) if "async" in request.param else now
    if request.param == "clonedb_connection":
        given.commit()

@pytest.mark.parametrize("before", ["select 1", "select set_config('app.tenant', 'me', false)"])
@pytest.mark.parametrize("number", range(3))
def test_it(run, before, number):
    assert run("select to_regclass('pg_temp.mine')") is None
    assert run("select count(*) from pg_class where relname = 'mine'") == 0  # no other session has it either
    run(before)
    run("create temporary table mine as select generate_series(1, 1000) id")
"""


@pytest.mark.parametrize("isolation", ["auto", "truncate"])
def test_a_temporary_table_is_its_tests_alone(items: Project, isolation: str) -> None:
    """Whether the session is reset or closed for what else was done in it, the next test finds none, in no session."""
    items.environment["CLONEDB_ISOLATION"] = isolation
    items.write("test_it.py", TEMPORARY)
    run(items).demand()
