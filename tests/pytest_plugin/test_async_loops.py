"""The asynchronous fixtures on loops of any scope, and what a test leaves open on them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.campaigns import VARIANT
from tests.projects import Project
from tests.pytest_plugin.plugins import STRICT, run

WIDER_LOOPS = """
import asyncio
import pytest, sqlalchemy as sa

loops = {{}}

async def all_of_them(clonedb, session, connection, engine):
    assert await session.scalar(sa.text("select current_database()")) == clonedb.name
    assert await (await connection.execute("select current_database()")).fetchone() == (clonedb.name,)
    async with engine.connect() as other:
        assert await other.scalar(sa.text("select count(*) from item")) == 1
    await session.execute(sa.text("insert into item (name) values ('not committed')"))

@pytest.fixture
def used(clonedb, clonedb_async_session, clonedb_async_connection, clonedb_async_engine):
    return clonedb, clonedb_async_session, clonedb_async_connection, clonedb_async_engine

@pytest.mark.parametrize("n", range(2))
@pytest.mark.parametrize("scope", [
    pytest.param(scope, marks=pytest.mark.asyncio(loop_scope=scope)) for scope in ("function", "module", "session")
])
async def test_scope(scope, n, used):
    assert loops.setdefault(scope, asyncio.get_running_loop()) is asyncio.get_running_loop() or scope == "function"
    await all_of_them(*used)

@pytest.mark.asyncio(loop_scope="class")
class TestClass:
    async def test_one(self, used):
        await all_of_them(*used)

    async def test_two(self, used):
        await all_of_them(*used)
"""


@pytest.mark.parametrize("driver", ["asyncpg", pytest.param("psycopg", marks=VARIANT)])
def test_loops_of_any_scope(
    items: Project, clones: Callable[[], list[str]], driver: str
) -> None:
    """A test may run on a wider loop than that of the fixtures, and nobody has to configure anything for it."""
    items.settings(driver=driver)
    items.write("test_it.py", WIDER_LOOPS.replace("{{}}", "{}"))
    assert "8 passed" in run(items, *STRICT).demand().out
    assert clones() == []


LEFT_OPEN = """
import asyncio, gc, threading
import pytest, sqlalchemy as sa

left_open = []
SELECT = sa.text("select name from item")

async def leave_open(maker):
    for keep in (left_open.append, id):  # one that is still known after the test, and one that nobody knows
        session = maker()
        keep(session)
        await session.execute(SELECT)

@pytest.fixture(autouse=True)
def nobody_else_is_connected(clonedb, clonedb_connection):
    clonedb_connection.autocommit = True
    others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    for _ in range(100):  # a session that was closed takes a moment to end
        if clonedb_connection.execute(others).fetchone() == (0,):
            return
        clonedb_connection.execute("select pg_sleep(0.05)")
    raise AssertionError("a test's connection is open after it")

@pytest.mark.asyncio
async def test_on_the_functions_loop(clonedb_async_sessionmaker):
    await leave_open(clonedb_async_sessionmaker)

@pytest.mark.asyncio(loop_scope="session")
async def test_on_a_wider_loop(clonedb_async_sessionmaker):
    await leave_open(clonedb_async_sessionmaker)

def test_on_a_loop_of_its_own(clonedb_async_sessionmaker):
    asyncio.run(leave_open(clonedb_async_sessionmaker))
    asyncio.run(leave_open(clonedb_async_sessionmaker))

def test_on_a_loop_that_runs_in_a_thread(clonedb_async_sessionmaker):
    loop = asyncio.new_event_loop()
    def serve():
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    thread = threading.Thread(target=serve)
    thread.start()
    asyncio.run_coroutine_threadsafe(leave_open(clonedb_async_sessionmaker), loop).result()
    stop.append((loop, thread))

stop = []

def test_on_a_loop_that_runs_no_more():
    for loop, thread in stop:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()

def test_on_a_loop_closed_by_hand(clonedb_async_sessionmaker):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave_open(clonedb_async_sessionmaker))
    loop.close()

@pytest.fixture
def event_loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()

def test_on_a_loop_that_is_a_fixture(clonedb_async_sessionmaker, event_loop):
    event_loop.run_until_complete(leave_open(clonedb_async_sessionmaker))

async def dependency(maker):
    async with maker() as session:
        yield session

@pytest.mark.asyncio
async def test_in_a_generator(clonedb_async_sessionmaker):
    left_open.append(dependency(clonedb_async_sessionmaker))
    session = await anext(left_open[-1])
    await session.execute(SELECT)

@pytest.mark.asyncio
async def test_in_a_generator_that_nobody_knows(clonedb_async_sessionmaker):
    async for session in dependency(clonedb_async_sessionmaker):
        await session.execute(SELECT)
        break

@pytest.mark.asyncio
async def test_in_a_running_query(clonedb_async_sessionmaker):
    async def work():
        async with clonedb_async_sessionmaker() as session:
            await session.execute(sa.text("select pg_sleep(60)"))
    left_open.append(asyncio.create_task(work()))
    await asyncio.sleep(0.1)

@pytest.mark.asyncio
async def test_ended_by_the_server(clonedb_async_session, clonedb_async_connection, clonedb_connection):
    await clonedb_async_session.execute(SELECT)
    end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    assert clonedb_connection.execute(end).fetchall() == [(True,), (True,)]

def test_nothing_was_left_to_the_garbage_collector():
    left_open.clear()
    gc.collect()
"""


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_what_is_left_open_is_closed(
    items: Project, clones: Callable[[], list[str]], driver: str
) -> None:
    """Wherever the loop runs or has ended, without a warning, an error in a log or a session on the server."""
    items.settings(driver=driver, isolation="worker")
    items.write("test_it.py", LEFT_OPEN.replace("{driver}", driver))
    outcome = run(items, *STRICT).demand()
    assert "Captured log" not in outcome.out
    assert clones() == []
