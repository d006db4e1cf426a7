"""Connections of applications and of the asynchronous fixtures that stay open while a database goes from test to test."""

from __future__ import annotations

import pytest

from tests.campaigns import VARIANT
from tests.projects import Project
from tests.pytest_plugin.plugins import STRICT, run

STATE = """
STATE = {
    "settings": ("set work_mem = '5MB'", "show work_mem"),
    "role": ("set role pg_monitor", "select current_user = session_user"),
    "search path": ("set search_path = nowhere", "show search_path"),
    "advisory locks": ("select pg_advisory_lock(7)", "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"),
    "listening": ("listen a", "select count(*) from pg_listening_channels()"),
    "a setting of nobody's": ("set app.tenant = 'me'", "select current_setting('app.tenant', true)"),
    "a prepared statement": ("prepare mine as select 1", "select count(*) from pg_prepared_statements where from_sql"),
    "isolation": ("set session characteristics as transaction read only", "show default_transaction_read_only"),
    "temporary tables": ("create temp table item (id int)", "select count(*) from item"),
}
FRESH = {
    "settings": "4MB", "role": True, "search path": '"$user", public', "advisory locks": 0, "temporary tables": 1,
    "listening": 0, "a setting of nobody's": None, "a prepared statement": 0, "isolation": "off",
}
SPOIL = ("a setting of nobody's", "a prepared statement", "temporary tables")  # no reset takes these away
SELECT = "select name from item where id = :id"
PID = "select pg_backend_pid()"
before = None  # the process that served the last test


def demand_stayed(pid, stayed):
    global before
    last, before = before, pid
    assert last is None or (pid == last) == stayed
"""

SYNC = (
    STATE
    + """
import gc
import pytest, sqlalchemy as sa
from shop import engine

def scalar(statement, **values):
    with engine.connect() as connection:
        value = connection.scalar(sa.text(statement), values)
        connection.commit()
        return value

def execute(statement):
    with engine.begin() as connection:
        connection.execute(sa.text(statement))

@pytest.fixture(autouse=True)
def database(clonedb):
    yield clonedb

stays = True

@pytest.mark.parametrize("what", STATE)
def test_the_next_test_finds_nothing(what):
    global stays
    demand_stayed(scalar(PID), stays)
    for one, (_, question) in STATE.items():
        assert scalar(question) == FRESH[one], one
    for _ in range(8):  # psycopg prepares what it has sent five times
        assert scalar(SELECT, id=1) == "seeded"
    execute("insert into item (name) values ('new')")
    execute(STATE[what][0])
    stays = what not in SPOIL

def test_a_listener_is_told_of_its_first_connection():
    seen = []
    def look(connection, entry):
        seen.append(connection)
    sa.event.listen(engine, "connect", look)
    demand_stayed(scalar(PID), False)
    assert len(seen) == 1
    sa.event.remove(engine, "connect", look)

def test_a_connection_made_under_it_has_not_stayed():
    demand_stayed(scalar(PID), False)

left_open = []

@pytest.mark.filterwarnings("ignore::clonedb.LeakedConnectionWarning")
def test_leaves_one_open():
    scalar(PID)
    left_open.append(engine.connect())
    left_open[0].execute(sa.text("insert into item (name) values ('never')"))

def test_is_told_by_the_process():
    global before
    before = scalar(PID)
    assert scalar("select count(*) from item") == 1

def test_ends_its_own_process():
    global before
    other = sa.create_engine(engine.url)
    with other.connect() as connection, connection.begin():
        connection.execute(sa.text("select pg_terminate_backend(:pid)"), {"pid": scalar(PID)})
    other.dispose()
    before = None

def test_takes_another():
    assert scalar("select count(*) from item") == 1

many = []

@pytest.mark.parametrize("n", range(4))
def test_an_engine_for_each_test_does_not_fill_the_server(n):
    count = "select count(*) from pg_stat_activity where application_name = 'each' and datname = current_database()"
    assert scalar(count) <= 1
    many.append(sa.create_engine(engine.url, connect_args={"application_name": "each"}))
    with many[-1].connect() as connection:
        connection.execute(sa.text(PID))

def test_nothing_is_left_to_the_garbage_collector():
    many.clear()
    gc.collect()
"""
)


@pytest.mark.parametrize(
    ("driver", "isolation"),
    [("psycopg", "auto"), ("psycopg2", "auto"), ("psycopg", "truncate")],
)
def test_an_applications_connections(items: Project, driver: str, isolation: str) -> None:
    """They stay, and the next test finds nothing on them; one that cannot be made as new is another one."""
    items.environment["CLONEDB_ISOLATION"] = isolation
    items.settings(route=["DATABASE_URL"])
    items.environment["DATABASE_URL"] = f"postgresql+{driver}://shop@db.example.invalid/shop"
    items.write(
        "shop.py",
        "import os, sqlalchemy as sa\nengine = sa.create_engine(os.environ['DATABASE_URL'])\n",
    )
    items.write("test_it.py", SYNC)
    run(items).demand()


ASYNC = (
    STATE
    + """
import asyncio, gc
import pytest, sqlalchemy as sa
{source}

lasting = pytest.mark.asyncio(loop_scope="session")

async def scalar(engine, statement, **values):
    async with engine.connect() as connection:
        value = await connection.scalar(sa.text(statement), values)
        await connection.commit()
        return value

async def execute(engine, statement):
    async with engine.begin() as connection:
        await connection.execute(sa.text(statement))

stays = True

@pytest.mark.parametrize("what", STATE)
@lasting
async def test_the_next_test_finds_nothing(what, engine):
    global stays
    demand_stayed(await scalar(engine, PID), stays)
    for one, (_, question) in STATE.items():
        assert await scalar(engine, question) == FRESH[one], one
    for _ in range(8):
        assert await scalar(engine, SELECT, id=1) == "seeded"
    await execute(engine, "insert into item (name) values ('new')")
    await execute(engine, STATE[what][0])
    stays = what not in SPOIL

@lasting
async def test_more_at_once_than_a_pool_has(engine):
    await asyncio.gather(*(scalar(engine, "select pg_sleep(0.01)") for _ in range(20)))

@pytest.mark.asyncio(loop_scope="function")
async def test_another_loop(engine):
    await asyncio.gather(*(scalar(engine, "select pg_sleep(0.01)") for _ in range(20)))

@lasting
async def test_the_first_loop_again(engine):
    global before
    await asyncio.gather(*(scalar(engine, "select pg_sleep(0.01)") for _ in range(20)))
    before = None

def test_a_loop_of_its_own(engine):
    asyncio.run(scalar(engine, PID))

def test_a_loop_closed_by_hand(engine):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(scalar(engine, PID))
    loop.close()

@lasting
async def test_a_listener_is_told_of_its_first_connection(engine):
    assert await scalar(engine, PID)
    seen = []
    def look(connection, entry):
        seen.append(connection)
    sa.event.listen(engine.sync_engine, "connect", look)
    async with engine.connect() as one, engine.connect() as two:
        assert await one.scalar(sa.text(PID)) != await two.scalar(sa.text(PID))
    assert seen
    listened.append((engine, look))

listened = []

@lasting
async def test_what_a_test_listened_to_is_its_own(engine):
    (other, look), = listened
    if other is engine:
        sa.event.remove(engine.sync_engine, "connect", look)
    else:
        assert look not in list(engine.sync_engine.pool.dispatch.connect)

left_open = []

@pytest.mark.filterwarnings("ignore::clonedb.LeakedConnectionWarning")
@lasting
async def test_leaves_one_open(engine):
    left_open.append(await engine.connect())
    await left_open[0].execute(sa.text("insert into item (name) values ('never')"))

@lasting
async def test_is_told_by_nothing(engine):
    assert await scalar(engine, "select count(*) from item") == 1

def test_nothing_is_left_to_the_garbage_collector():
    left_open.clear()
    gc.collect()
"""
)

FIXTURE = """
@pytest.fixture
def engine(clonedb_async_engine):
    return clonedb_async_engine
"""
APPLICATION = """
import shop

@pytest.fixture
def engine(clonedb):
    return shop.engine
"""


@pytest.mark.parametrize(
    ("driver", "routed", "isolation"),
    [
        *(
            (driver, routed, "auto")
            for driver in ("asyncpg", "psycopg")
            for routed in (False, True)
        ),
        pytest.param("asyncpg", True, "truncate", marks=VARIANT),
        ("psycopg", False, "truncate"),
    ],
)
def test_asynchronous_connections(
    items: Project, driver: str, isolation: str, *, routed: bool
) -> None:
    """Those whose loop outlives the test stay, and the next test finds nothing on them; others end with their loop."""
    items.environment["CLONEDB_ISOLATION"] = isolation
    items.settings(driver=driver, **({"route": ["DATABASE_URL"]} if routed else {}))
    items.environment["DATABASE_URL"] = f"postgresql+{driver}://shop@db.example.invalid/shop"
    items.write(
        "shop.py",
        "import os\nfrom sqlalchemy.ext.asyncio import create_async_engine\n"
        "engine = create_async_engine(os.environ['DATABASE_URL'], pool_size=2)\n",
    )
    items.write("test_it.py", ASYNC.replace("{source}", APPLICATION if routed else FIXTURE))
    outcome = run(items, *STRICT).demand()
    assert "Captured log" not in outcome.out
