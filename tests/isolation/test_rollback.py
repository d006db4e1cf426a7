"""`rollback`: commits that are seen and undone, and the bounds that a test is told of."""

from __future__ import annotations

import pytest

from tests.campaigns import VARIANT
from tests.projects import Project, lean_pytest

SYNC = """
import pytest, sqlalchemy as sa, psycopg

count = sa.text("select count(*) from item")
add = sa.text("insert into item (name) values (:name)")

@pytest.mark.parametrize("number", range(3))
def test_commits_are_seen_and_lost(clonedb_session, clonedb_sessionmaker, number, clonedb):
    assert clonedb_session.scalar(count) == 2
    clonedb_session.execute(add, {"name": "committed"})
    clonedb_session.commit()
    clonedb_session.execute(add, {"name": "rolled back"})
    clonedb_session.rollback()
    with clonedb_sessionmaker() as another:
        assert another.scalar(count) == 3
    with clonedb_sessionmaker.begin() as third:
        third.execute(add, {"name": "third"})
    assert clonedb_session.scalar(count) == 4
    print("database", clonedb.name)

def test_an_error_is_rolled_back_to_its_savepoint(clonedb_session):
    clonedb_session.execute(add, {"name": "kept"})
    clonedb_session.commit()
    with pytest.raises(sa.exc.IntegrityError):
        clonedb_session.execute(add, {"name": "seeded"})
    clonedb_session.rollback()
    assert clonedb_session.scalar(count) == 3
"""

BOUNDS = """
import pytest, sqlalchemy as sa, psycopg, clonedb as package

def test_engine(clonedb_engine): pass

def test_connection(clonedb_connection): pass

def test_second_connection(clonedb_session, clonedb_dsn):
    clonedb_session.execute(sa.text("select 1"))
    psycopg.connect(clonedb_dsn)

def test_second_connection_before_the_session(clonedb_dsn):
    psycopg.connect(clonedb_dsn)

def test_commit_of_the_outer(clonedb_session):
    connection = clonedb_session.connection()
    connection.execute(sa.text("insert into item (name) values ('lost')"))
    connection.get_transaction().commit()

def test_raw_commit(clonedb_session):
    clonedb_session.execute(sa.text("insert into item (name) values ('lost')"))
    clonedb_session.execute(sa.text("commit"))

def test_drivers_commit(clonedb_session):
    clonedb_session.execute(sa.text("insert into item (name) values ('lost')"))
    clonedb_session.connection().connection.driver_connection.commit()

def test_the_next_has_the_templates_rows(clonedb_session):
    assert clonedb_session.scalar(sa.text("select count(*) from item")) == 2
"""

ASYNC = """
import pytest, sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

pytestmark = pytest.mark.asyncio
count = sa.text("select count(*) from item")
add = sa.text("insert into item (name) values (:name)")

@pytest.mark.parametrize("number", range(3))
async def test_commits_are_seen_and_lost(clonedb_async_session, clonedb_async_sessionmaker, number):
    assert await clonedb_async_session.scalar(count) == 2
    clonedb_async_session.add
    await clonedb_async_session.execute(add, {"name": "committed"})
    await clonedb_async_session.commit()
    await clonedb_async_session.execute(add, {"name": "rolled back"})
    await clonedb_async_session.rollback()
    async with clonedb_async_sessionmaker() as another:
        assert await another.scalar(count) == 3
    async with clonedb_async_sessionmaker.begin() as third:
        await third.execute(add, {"name": "third"})
    assert await clonedb_async_session.scalar(count) == 4

async def test_engine(clonedb_async_engine): pass

async def test_connection(clonedb_async_connection): pass

async def test_both(clonedb_async_session, clonedb_session): pass

async def test_commit(clonedb_async_session):
    await clonedb_async_session.execute(add, {"name": "lost"})
    await clonedb_async_session.execute(sa.text("commit"))

async def test_the_next_has_the_templates_rows(clonedb_async_session):
    assert await clonedb_async_session.scalar(count) == 2
"""


@pytest.mark.parametrize(
    "arguments", [pytest.param((), marks=VARIANT), ("-n", "2")], ids=["alone", "xdist"]
)
def test_sessions_commit_and_lose_it_at_the_end(
    shop: Project, arguments: tuple[str, ...]
) -> None:
    """Several sessions of a test share the one transaction; one clone serves all tests."""
    shop.write("test_it.py", SYNC)
    outcome = shop.pytest(
        "--clonedb-isolation=rollback", "-s", "-W", "error", *arguments
    ).demand()
    assert "4 passed" in outcome.out
    if not arguments:
        assert (
            len(
                {
                    line.rpartition("database ")[2]
                    for line in outcome.out.splitlines()
                    if "database " in line
                }
            )
            == 1
        )


def test_whoever_leaves_the_transaction_is_told(shop: Project) -> None:
    """An engine, a second connection, and a commit by three ways; the test after them finds nothing of it."""
    shop.write("test_it.py", BOUNDS)
    outcome = shop.pytest("--clonedb-isolation=rollback", "-rA").demand(1)
    for line in (
        "ERROR test_it.py::test_engine",
        "ERROR test_it.py::test_connection",
        "FAILED test_it.py::test_second_connection",
        "FAILED test_it.py::test_second_connection_before_the_session",
        "FAILED test_it.py::test_commit_of_the_outer",
        "FAILED test_it.py::test_raw_commit",
        "PASSED test_it.py::test_drivers_commit",
        "ERROR test_it.py::test_drivers_commit",
        "PASSED test_it.py::test_the_next_has_the_templates_rows",
    ):
        assert line in outcome.out, line
    assert (
        "clonedb_engine opens connections of its own; under isolation 'rollback'" in outcome.out
    )
    assert "test_it.py::test_second_connection opened a second connection" in outcome.out
    assert "a commit of the outer transaction was refused" in outcome.out
    assert "'commit' ended the outer transaction" in outcome.out
    assert (
        "the test ended its outer transaction, by a way that SQLAlchemy does not see"
        in outcome.out
    )


@pytest.mark.parametrize("driver", [pytest.param("psycopg", marks=VARIANT), "asyncpg"])
@pytest.mark.parametrize(
    "arguments", [(), pytest.param(("-n", "2"), marks=VARIANT)], ids=["alone", "xdist"]
)
def test_asynchronous_sessions(shop: Project, arguments: tuple[str, ...], driver: str) -> None:
    """The same on the test's loop; the fixtures that cannot hold one transaction say so."""
    shop.environment["PYTEST_ADDOPTS"] = (
        lean_pytest("asyncio") + " -o asyncio_default_fixture_loop_scope=function"
    )
    shop.write("test_it.py", ASYNC)
    outcome = shop.pytest(
        "--clonedb-isolation=rollback",
        f"--clonedb-driver={driver}",
        "-rA",
        "-W",
        "error",
        *arguments,
    ).demand(1)
    assert "4 passed" in outcome.out
    assert (
        "clonedb_async_engine opens connections of its own; under isolation 'rollback'"
        in outcome.out
    )
    assert (
        "clonedb_async_connection opens a connection of its own; under isolation 'rollback'"
        in outcome.out
    )
    assert (
        "a test asks for a synchronous and an asynchronous session, which are two connections"
        in outcome.out
    )
    assert "'commit' ended the outer transaction" in outcome.out


OUTLIVE = """
import psycopg, pytest, sqlalchemy as sa

PID = sa.text("select pg_backend_pid()")
pids = []

def run(session, *statements):
    for one in statements:
        session.execute(sa.text(one))
    session.commit()

@pytest.mark.parametrize("part", ["does", "finds"])
@pytest.mark.parametrize("statements", [
    ["select nextval('quiet'), nextval('quiet')"],
    ["insert into item (name) values ('third')"],
    ["select setval('own_numbers', 7, false)"],
    ["select pg_advisory_lock(1), pg_advisory_lock_shared(2)"],
])
def test_on_one_connection(clonedb_session, statements, part):
    pids.append(clonedb_session.scalar(PID))
    assert len({*pids}) == 1
    finds_nothing(clonedb_session)
    clonedb_session.commit()
    if part == "does":
        run(clonedb_session, *statements)

@pytest.mark.parametrize("part", ["does", "finds"])
@pytest.mark.parametrize("statements", [
    ["prepare mine as select 1"],
    ["set app.tenant = 'one'"],
    ["select set_config('app.tenant', 'one', true)"],
    ["deallocate all"],
])
def test_on_another_connection(clonedb_session, statements, part):
    for _ in range(7):  # the driver prepares what it sends often
        clonedb_session.execute(sa.text("select count(*) from item where id = :id"), {"id": 1})
    finds_nothing(clonedb_session)
    clonedb_session.commit()
    if part == "does":
        run(clonedb_session, *statements)

def finds_nothing(session):
    assert session.scalar(sa.text("select last_value = 105 from own_numbers")) is False
    assert session.scalar(sa.text("select last_value = 100 and is_called from own_numbers"))
    assert session.scalar(sa.text("select last_value = 2 and is_called from item_id_seq"))
    assert session.scalar(sa.text("select last_value = 1 and not is_called from quiet"))
    assert session.scalar(sa.text("select count(*) from pg_locks where locktype = 'advisory'"
                                  " and pid = pg_backend_pid()")) == 0
    assert session.scalar(sa.text("select count(*) from pg_prepared_statements where from_sql")) == 0
    assert session.scalar(sa.text("select current_setting('app.tenant', true)")) is None
    with pytest.raises(sa.exc.DBAPIError), session.begin_nested():
        session.execute(sa.text("select currval('own_numbers')"))
"""


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_what_outlives_a_rollback_is_undone(shop: Project, driver: str, admin_dsn: str) -> None:
    """Sequences, locks and currval on the connection that stays open; for the rest there is a new connection."""
    import psycopg

    with psycopg.connect(admin_dsn) as connection:
        unlogged = "unlogged" if connection.info.server_version >= 150000 else ""
    shop.revision("two", f'op.execute("create {unlogged} sequence quiet")')
    shop.write("test_it.py", OUTLIVE)
    outcome = shop.pytest("--clonedb-isolation=rollback", f"--clonedb-driver={driver}").demand()
    assert "16 passed" in outcome.out
    assert "1 clone" in outcome.out


ASYNC_SEQUENCE = """
import pytest, sqlalchemy as sa

@pytest.mark.asyncio
@pytest.mark.parametrize("number", range(2))
async def test_it(clonedb_async_session, number):
    assert await clonedb_async_session.scalar(sa.text("insert into item (name) values ('x') returning id")) == 3
"""


def test_an_asynchronous_tests_sequences_are_set_back(shop: Project) -> None:
    """When the server has rolled back what its connection did, which was closed with the loop."""
    shop.environment["PYTEST_ADDOPTS"] = (
        lean_pytest("asyncio") + " -o asyncio_default_fixture_loop_scope=function"
    )
    shop.write("test_it.py", ASYNC_SEQUENCE)
    outcome = shop.pytest("--clonedb-isolation=rollback").demand()
    assert "1 clone" in outcome.out
