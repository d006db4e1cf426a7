"""What belongs to an ended test: refused in this process, and noticed from others, with that test's name."""

from __future__ import annotations

import pytest

from tests.campaigns import VARIANT
from tests.projects import Project
from tests.pytest_plugin.plugins import STRICT

# `second` lets what `first` was handed be used, each way in a thread, when `first` has ended
WAYS = """
import asyncio, threading
import psycopg, pytest, sqlalchemy as sa
from psycopg import connect
from sqlalchemy.ext.asyncio import create_async_engine
import clonedb as package

INSERT = "insert into item (name) values ('late')"
handed = {}

def write(engine):
    with engine.begin() as connection:
        connection.execute(sa.text(INSERT))

def write_again(engine):
    with pytest.raises(sa.exc.OperationalError):  # what its pool still has was ended by the server
        write(engine)
    write(engine)

def by_driver(connect, dsn, **keywords):
    connection = connect(dsn, **keywords)
    connection.cursor().execute(INSERT)
    connection.commit()

async def by_async_psycopg(dsn):
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await connection.execute(INSERT)

async def by_asyncpg(connect, dsn):
    connection = await connect(dsn)
    await connection.execute(INSERT)

async def by_async_engine(url):
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(sa.text(INSERT))

def test_first(clonedb, clonedb_url, clonedb_dsn, clonedb_engine, clonedb_session, clonedb_sessionmaker, clonedb_connection):
    import asyncpg, psycopg2
    from asyncpg import connect as asyncpg_connect
    dsn, url = clonedb_dsn, clonedb_url
    engines = {name: sa.create_engine(url.replace("+psycopg", "+" + name)) for name in ("psycopg", "psycopg2")}
    own, held, optional = clonedb.engine(), clonedb.engine().connect(), clonedb_engine.execution_options(logging_token="x")
    for engine in (*engines.values(), own, optional):
        engine.connect().close()
    asyncio.run(by_async_engine_only_reads(url.replace("+psycopg", "+asyncpg")))
    held.execute(sa.text("select 1"))
    pooled = clonedb_engine.connect()
    session, left_open = clonedb_sessionmaker(), clonedb.connect()
    session.execute(sa.text("select 1"))
    clonedb_session.execute(sa.text("select 1"))
    cursor = clonedb_connection.cursor()
    cursor.execute("select 1")
    left_open.execute("select 1")
    handed.update({
        "psycopg.connect": lambda: by_driver(psycopg.connect, dsn),
        "an imported connect": lambda: by_driver(connect, dsn),
        "psycopg.connect with a name": lambda: by_driver(psycopg.connect, dsn, application_name="mine"),
        "Connection.connect": lambda: by_driver(psycopg.Connection.connect, dsn),
        "AsyncConnection.connect": lambda: asyncio.run(by_async_psycopg(dsn)),
        "psycopg2.connect": lambda: by_driver(psycopg2.connect, dsn),
        "asyncpg.connect": lambda: asyncio.run(by_asyncpg(asyncpg.connect, dsn)),
        "an imported asyncpg connect": lambda: asyncio.run(by_asyncpg(asyncpg_connect, dsn)),
        "a new engine": lambda: write(sa.create_engine(url)),
        "a new async engine": lambda: asyncio.run(by_async_engine(url.replace("+psycopg", "+asyncpg"))),
        "an engine on psycopg": lambda: write_again(engines["psycopg"]),
        "an engine on psycopg2": lambda: write_again(engines["psycopg2"]),
        "clonedb.connect": lambda: by_driver(lambda _: clonedb.connect(), dsn),
        "clonedb.url": lambda: write(sa.create_engine(clonedb.url)),
        "clonedb.engine": lambda: write(clonedb.engine()),
        "an engine of clonedb.engine": lambda: write(own),
        "its connection": lambda: held.execute(sa.text(INSERT)),
        "clonedb_engine": lambda: write(clonedb_engine),
        "clonedb_engine with options": lambda: write(optional),
        "a raw connection of clonedb_engine": lambda: clonedb_engine.raw_connection().cursor().execute(INSERT),
        "a connection of clonedb_engine": lambda: pooled.execute(sa.text(INSERT)),
        "clonedb_session": lambda: clonedb_session.execute(sa.text(INSERT)),
        "clonedb_sessionmaker": lambda: clonedb_sessionmaker().execute(sa.text(INSERT)),
        "a session that was left open": lambda: session.execute(sa.text(INSERT)),
        "clonedb_connection": lambda: clonedb_connection.execute(INSERT),
        "a new cursor of clonedb_connection": lambda: clonedb_connection.cursor().execute(INSERT),
        "a cursor of clonedb_connection": lambda: cursor.execute(INSERT),
        "executemany of a cursor": lambda: cursor.executemany("insert into item (name) values (%s)", [("late",)] * 2),
        "a connection that was left open": lambda: left_open.execute(INSERT),
    })

async def by_async_engine_only_reads(url):
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        await connection.execute(sa.text("select 1"))
    await engine.dispose()

@pytest.mark.parametrize("way", [
    "psycopg.connect", "an imported connect", "psycopg.connect with a name", "Connection.connect",
    "AsyncConnection.connect", "psycopg2.connect", "asyncpg.connect", "an imported asyncpg connect", "a new engine",
    "a new async engine", "an engine on psycopg", "an engine on psycopg2", "clonedb.connect", "clonedb.url",
    "clonedb.engine", "an engine of clonedb.engine", "its connection", "clonedb_engine", "clonedb_engine with options",
    "a raw connection of clonedb_engine", "a connection of clonedb_engine", "clonedb_session", "clonedb_sessionmaker",
    "a session that was left open", "clonedb_connection", "a new cursor of clonedb_connection",
    "a cursor of clonedb_connection", "executemany of a cursor", "a connection that was left open",
])
def test_second(way, clonedb, clonedb_connection, clonedb_session):
    assert clonedb_connection.execute("select name from item").fetchall() == [("seeded",)]
    clonedb_connection.commit()
    raised = []
    def run():
        try:
            handed[way]()
        except BaseException as error:
            raised.append(error)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert [type(error) for error in raised] == [package.EndedTestError], raised
    assert "test 'test_it.py::test_first' has ended: its database 'p" in str(raised[0])
    assert clonedb_session.scalars(sa.text("select name from item")).all() == ["seeded"]
    assert clonedb_connection.execute("select name from item").fetchall() == [("seeded",)]

def test_all_ways_were_tried():
    assert len(handed) == 29
"""


@pytest.mark.parametrize(
    "isolation",
    [
        "auto",
        pytest.param("truncate", marks=VARIANT),
        pytest.param("readonly", marks=VARIANT),
        pytest.param("clone", marks=VARIANT),
    ],
)
def test_whatever_a_test_was_handed_is_refused_after_its_end(
    items: Project, isolation: str
) -> None:
    """By whichever driver and object, also where the next test has the same database and the same sessions."""
    items.write("test_it.py", WAYS)
    outcome = items.pytest(f"--clonedb-isolation={isolation}").demand()
    assert "31 passed" in outcome.out


ASYNC = """
import asyncio
import pytest, sqlalchemy as sa
import clonedb as package

INSERT = "insert into item (name) values ('late')"
handed = {}

async def write(engine):
    async with engine.begin() as connection:
        await connection.execute(sa.text(INSERT))

async def test_first(clonedb_async_engine, clonedb_async_sessionmaker, clonedb_async_session, clonedb_async_connection):
    left_open = await clonedb_async_engine.connect()
    await clonedb_async_session.execute(sa.text("select 1"))
    cursor = clonedb_async_connection.cursor()
    await cursor.execute("select 1")
    handed.update({
        "clonedb_async_engine": lambda: write(clonedb_async_engine),
        "a connection of clonedb_async_engine": lambda: left_open.execute(sa.text(INSERT)),
        "clonedb_async_session": lambda: clonedb_async_session.execute(sa.text(INSERT)),
        "clonedb_async_sessionmaker": lambda: clonedb_async_sessionmaker().execute(sa.text(INSERT)),
        "clonedb_async_connection": lambda: clonedb_async_connection.execute(INSERT),
        "a cursor of clonedb_async_connection": lambda: cursor.execute(INSERT),
    })

@pytest.mark.parametrize("way", [
    "clonedb_async_engine", "a connection of clonedb_async_engine", "clonedb_async_session",
    "clonedb_async_sessionmaker", "clonedb_async_connection", "a cursor of clonedb_async_connection",
])
async def test_second(way, clonedb_async_session):
    with pytest.raises(package.EndedTestError, match="test 'test_it.py::test_first' has ended"):
        await asyncio.create_task(handed[way]())
    assert (await clonedb_async_session.scalars(sa.text("select name from item"))).all() == ["seeded"]
"""


@pytest.mark.parametrize("isolation", ["auto", pytest.param("clone", marks=VARIANT)])
@pytest.mark.parametrize("loop", ["function", "module"])
def test_tasks_are_refused_what_an_ended_test_was_handed(
    items: Project, isolation: str, loop: str
) -> None:
    """On a loop of their own, and on one that goes from test to test with the connections that were opened on it."""
    marks = f"pytestmark = pytest.mark.asyncio(loop_scope={loop!r})"
    items.write("test_it.py", ASYNC.replace("handed = {}", f"handed = {{}}\n{marks}"))
    outcome = items.pytest(*STRICT, f"--clonedb-isolation={isolation}").demand()
    assert "7 passed" in outcome.out


def test_late_sessions_stay_out_of_the_next_tests_transaction(items: Project) -> None:
    """Under `rollback` all tests share one connection."""
    items.write(
        "test_it.py",
        """
        import pytest, sqlalchemy as sa
        import clonedb as package

        INSERT = sa.text("insert into item (name) values ('late')")
        handed = []

        def test_first(clonedb, clonedb_session, clonedb_sessionmaker):
            clonedb_session.execute(INSERT)
            handed.extend([clonedb_sessionmaker, lambda: clonedb_session, lambda: clonedb.sessionmaker()()])

        @pytest.mark.parametrize("number", range(3))
        def test_second(number, clonedb_session):
            assert clonedb_session.scalars(sa.text("select name from item")).all() == ["seeded"]
            with pytest.raises(package.EndedTestError, match="test_first"):
                handed[number]().execute(INSERT)
            assert clonedb_session.scalars(sa.text("select name from item")).all() == ["seeded"]
        """,
    )
    outcome = items.pytest("--clonedb-isolation=rollback").demand()
    assert "4 passed" in outcome.out
