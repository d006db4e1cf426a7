"""What a test did to a connection that stays open does not reach the next test, however it was done."""

from __future__ import annotations

import pytest

from tests.projects import Project
from tests.pytest_plugin.plugins import STRICT, run

APPLICATION = (
    "import os, sqlalchemy as sa\nengine = sa.create_engine(os.environ['DATABASE_URL'])\n"
)

HOLDERS = """
import psycopg, pytest, sqlalchemy as sa
import shop

@pytest.fixture(params=["clonedb_engine", "shop"])
def connection(request, clonedb):
    engine = shop.engine if request.param == "shop" else request.getfixturevalue(request.param)
    with engine.connect() as connection:
        yield connection

@pytest.fixture
def driver(connection):
    return connection.connection.driver_connection
"""

OBJECTS = (
    HOLDERS
    + """
from psycopg.types.json import set_json_loads
from psycopg.types import TypeInfo

class Point:
    pass

CHANGES = {
    "info": lambda connection, driver: connection.info.update(tenant=1),
    "loaders": lambda connection, driver: set_json_loads(lambda text: "LOADED", driver),
    "dumpers": lambda connection, driver: driver.adapters.register_dumper(Point, psycopg.types.string.StrDumper),
    "types": lambda connection, driver: TypeInfo("point of mine", 999999, 999998).register(driver),
    "rows": lambda connection, driver: setattr(driver, "row_factory", psycopg.rows.dict_row),
    "cursors": lambda connection, driver: setattr(driver, "cursor_factory", psycopg.ClientCursor),
    "server cursors": lambda connection, driver: setattr(driver, "server_cursor_factory", psycopg.RawServerCursor),
    "notices": lambda connection, driver: driver.add_notice_handler(print),
    "notifications": lambda connection, driver: driver.add_notify_handler(print),
    "preparing": lambda connection, driver: setattr(driver, "prepare_threshold", 1),
    "read only": lambda connection, driver: setattr(driver, "read_only", True),
    "deferrable": lambda connection, driver: setattr(driver, "deferrable", True),
    "isolation": lambda connection, driver: setattr(driver, "isolation_level", psycopg.IsolationLevel.SERIALIZABLE),
    "autocommit": lambda connection, driver: driver.set_autocommit(True),
    "an attribute": lambda connection, driver: setattr(driver, "tenant", 1),
}

def look(connection, driver):
    driver.rollback()
    return {
        "info": {key for key in connection.info if not key.startswith("clonedb")},
        "loaders": driver.execute("select '{}'::json").fetchone()[0],
        "dumpers": Point in driver.adapters._dumpers[psycopg.adapt.PyFormat.TEXT],
        "types": driver.adapters.types.get("point of mine"),
        "handlers": [len(driver._notice_handlers), len(driver._notify_handlers)],
        "tenant": getattr(driver, "tenant", None),
        **{name: getattr(driver, name) for name in (
            "row_factory", "cursor_factory", "server_cursor_factory", "prepare_threshold", "read_only", "deferrable",
            "isolation_level", "autocommit")},
    }

fresh, pids = [], set()

@pytest.mark.parametrize("what", [None, *CHANGES, None])
def test_the_object_is_as_new(connection, driver, what):
    found = look(connection, driver)
    driver.rollback()
    fresh.append(found)
    assert found == fresh[0]
    if what is not None:
        CHANGES[what](connection, driver)

@pytest.mark.parametrize("n", range(2))
def test_what_is_only_noted_costs_no_connection(connection, driver, n):
    assert n == 0 or driver.info.backend_pid in pids
    assert "tenant" not in connection.info
    pids.add(driver.info.backend_pid)
    connection.info["tenant"] = 1
"""
)

SETTINGS = (
    HOLDERS.replace('"shop"])', '"shop", "clonedb_connection"])')
    .replace(
        "    with engine.connect()",
        '    if request.param == "clonedb_connection":\n        yield engine\n        return\n    with engine.connect()',
    )
    .replace(
        "return connection.connection.driver_connection",
        "return getattr(getattr(connection, 'connection', None), 'driver_connection', connection)",
    )
    + """
from psycopg import sql

CALL = "select set_config('app.tenant', '1', false)"

def server(driver):
    with driver.cursor("mine") as cursor:
        cursor.execute(CALL).fetchall()

def copy(driver):
    with driver.cursor().copy(f"copy ({CALL}) to stdout") as copied:
        list(copied)

WAYS = {
    "a raw cursor": lambda driver: driver.execute("set app.tenant = '1'"),
    "bytes": lambda driver: driver.execute(b"set app.tenant = '1'"),
    "composed": lambda driver: driver.execute(sql.SQL("set {} = 1").format(sql.Identifier("app.tenant"))),
    "many": lambda driver: driver.cursor().executemany("select set_config('app.tenant', %s, false)", [["1"], ["2"]]),
    "a client cursor": lambda driver: psycopg.ClientCursor(driver).execute("set app.tenant = %s", ["1"]),
    "a server cursor": server,
    "copy": copy,
    "stream": lambda driver: list(driver.cursor().stream(CALL)),
    "a block": lambda driver: driver.execute("do $$ begin execute 'set ' || 'app' || '.tenant = 1'; end $$"),
    "a comment": lambda driver: driver.execute("set /* whose */ app.tenant = '1'"),
    "a transaction": lambda driver: driver.execute("set local app.tenant = '1'"),
}

@pytest.mark.parametrize("way", [*WAYS, None])
def test_no_setting_is_left(driver, way):
    assert driver.execute("select current_setting('app.tenant', true)").fetchone() == (None,)
    if way is not None:
        WAYS[way](driver)
        driver.commit()
"""
)


def _application(items: Project, driver: str) -> None:
    items.settings(route=["DATABASE_URL"])
    items.environment["DATABASE_URL"] = f"postgresql+{driver}://shop@db.example.invalid/shop"
    items.write("shop.py", APPLICATION)


@pytest.mark.parametrize("content", [OBJECTS, SETTINGS], ids=["objects", "settings"])
@pytest.mark.parametrize("isolation", ["auto", "truncate"])
def test_psycopgs_connections(items: Project, isolation: str, content: str) -> None:
    """Those of clonedb's own fixtures and of an application alike."""
    items.environment["CLONEDB_ISOLATION"] = isolation
    _application(items, "psycopg")
    items.write("test_it.py", content)
    run(items).demand()


PSYCOPG2 = """
import psycopg2.extras, pytest, sqlalchemy as sa
from shop import engine

@pytest.fixture
def driver(clonedb):
    with engine.connect() as connection:
        yield connection.connection.driver_connection

def scalar(driver, statement):
    with driver.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]

@pytest.mark.parametrize("n", range(2))
def test_adapters(driver, n):
    assert scalar(driver, "select '[1]'::json") == [1]
    psycopg2.extras.register_json(driver, loads=lambda text: "LOADED")

@pytest.mark.parametrize("n", range(2))
def test_cursors(driver, n):
    assert driver.cursor_factory is None
    driver.cursor_factory = psycopg2.extras.DictCursor

@pytest.mark.parametrize("n", range(2))
def test_a_setting_that_a_function_of_the_database_reads(driver, n):
    assert scalar(driver, "select current_setting('app.read', true)") is None
    assert scalar(driver, "select set_config('app' || '.read', '1', false)") == "1"
    driver.commit()

tenant = None

@pytest.fixture
def telling(clonedb):
    def tell(connection, entry, proxy):
        if tenant is not None:
            with connection.cursor() as cursor:
                cursor.execute(f"set app.tenant = {tenant}")
    sa.event.listen(engine, "checkout", tell)
    yield
    sa.event.remove(engine, "checkout", tell)

@pytest.mark.parametrize("n", range(2))
def test_a_listener_to_checkouts(clonedb, telling, n):
    global tenant
    with engine.connect() as connection:
        assert connection.scalar(sa.text("select current_setting('app.tenant', true)")) is None
    tenant = 1
    with engine.begin() as connection:
        assert connection.scalar(sa.text("select current_setting('app.tenant', true)")) == "1"
    tenant = None

@pytest.mark.parametrize("n", range(2))
def test_a_connection_beside_the_engine(clonedb, n):
    connection = engine.raw_connection()
    assert scalar(connection, "select current_setting('app.tenant', true)") is None
    assert scalar(connection, "select set_config('app.tenant', '1', false)") == "1"
    connection.commit()
    connection.close()
"""


def test_psycopg2s_connections(items: Project) -> None:
    """What nobody hears is asked of the server, or the connection is another one."""
    _application(items, "psycopg2")
    items.revision(
        "three",
        "op.execute(\"create view mine as select * from item where name = current_setting('app.read', true)\")",
        'op.execute("drop view mine")',
    )
    items.write("test_it.py", PSYCOPG2)
    run(items).demand()


ASYNCPG = """
import pytest, sqlalchemy as sa

pytestmark = pytest.mark.asyncio(loop_scope="session")

async def driver(connection):
    return (await connection.get_raw_connection()).driver_connection

@pytest.mark.parametrize("n", range(2))
async def test_codecs(clonedb_async_engine, n):
    async with clonedb_async_engine.connect() as connection:
        found = await driver(connection)
        assert str(await found.fetchval("select '1.5'::numeric")) == "1.5"
        await found.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=lambda t: "L", format="text")

@pytest.mark.parametrize("n", range(2))
async def test_listeners(clonedb_async_engine, n):
    async with clonedb_async_engine.connect() as connection:
        found = await driver(connection)
        assert not found._listeners and not found._log_listeners
        await found.add_listener("news", print)
        found.add_log_listener(print)

pids = set()

@pytest.mark.parametrize("n", range(2))
async def test_ordinary_types_cost_no_connection(clonedb_async_engine, n):
    async with clonedb_async_engine.connect() as connection:
        pids.add(await connection.scalar(sa.text("select pg_backend_pid()")))
        assert await connection.scalar(sa.text("select array[1.5::numeric]"))
    assert len(pids) == 1
"""


def test_asyncpgs_connections(items: Project) -> None:
    """Codecs and listeners that a test gave to one are not the next test's."""
    items.settings(driver="asyncpg")
    items.write("test_it.py", ASYNCPG)
    run(items, *STRICT).demand()
