"""`autouse = true`: a database for every test of a suite that never heard of clonedb."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.applications.shops import ASYNC_APP, SOMEBODYS, SYNC_APP, write_shop
from tests.campaigns import VARIANT
from tests.projects import Project
from tests.pytest_plugin.plugins import STRICT, XDIST, run


@pytest.fixture
def shop(items: Project) -> Project:
    """A project with an application, whose suite gets a clone for every test."""
    write_shop(items, SYNC_APP)
    items.settings(route=["DATABASE_URL"], autouse=True)
    items.environment["DATABASE_URL"] = SOMEBODYS.format(driver="psycopg")
    return items


CONFTEST = """
import os
import psycopg, pytest
from sqlalchemy import create_engine, select, text
from shop.app import Item, engine, make_session

reached = {}

def where():
    with engine.connect() as connection:
        return connection.scalar(text("select current_database()"))

@pytest.fixture(scope="session", autouse=True)
def company():
    reached["session"] = where()
    with make_session.begin() as session:
        session.add(Item(name="of the session"))
    yield
    assert where() == reached["session"]
    with make_session() as session:
        assert list(session.scalars(select(Item.name))) == ["seeded", "of the session"]
    print("torn down in time")

@pytest.fixture(scope="session")
def engine_of_the_session(company):
    engine = create_engine(os.environ["DATABASE_URL"])
    yield engine
    engine.dispose()

@pytest.fixture(scope="module", autouse=True)
def catalogue():
    assert where() == reached["session"]
    yield
    assert where() == reached["session"]

@pytest.fixture(autouse=True)
def before_each():
    reached["before"] = where()
    yield
    assert where() == reached["before"]
"""

TESTS = """
import os, unittest
import psycopg, pytest
from sqlalchemy import select, text
from conftest import reached, where
from shop.app import Item, engine, make_session

@pytest.mark.parametrize("n", range(4))
def test_fresh(n):
    with make_session.begin() as session:
        assert list(session.scalars(select(Item.name))) == ["seeded"]
        session.add(Item(name="book"))
    assert where() == reached["before"] != reached["session"]

def test_with_fixtures_of_its_own(clonedb, engine_of_the_session, clonedb_session):
    assert where() == clonedb.name == reached["before"]
    assert clonedb_session.scalar(text("select current_database()")) == clonedb.name
    with engine_of_the_session.connect() as connection:
        assert connection.scalar(text("select current_database()")) == clonedb.name

def test_without_sqlalchemy():
    with psycopg.connect("") as connection:
        assert connection.info.dbname == where()
    with psycopg.connect(os.environ["DATABASE_URL"].replace("+psycopg", "")) as connection:
        assert connection.info.dbname == where()
        assert connection.info.get_parameters()["application_name"] == "shop"

class TestOldStyle(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        assert where() == reached["session"]

    def setUp(self):
        self.reached = where()

    def test_unittest(self):
        assert where() == self.reached == reached["before"] != reached["session"]

    def test_another(self):
        assert where() == self.reached == reached["before"] != reached["session"]

def documented():
    '''
    >>> where() == reached["before"] != reached["session"]
    True
    '''
"""


@pytest.mark.campaign("long")
@pytest.mark.parametrize(
    "options",
    [pytest.param(("-p", "no:xdist"), marks=VARIANT), pytest.param((), marks=VARIANT), XDIST],
    ids=["no-xdist", "alone", "n2"],
)
def test_every_test_has_a_clone(
    shop: Project, clones: Callable[[], list[str]], options: tuple[str, ...]
) -> None:
    """Functions, unittest's classes and doctests; the project's wider fixtures have the process's own."""
    shop.write("conftest.py", CONFTEST)
    shop.write("test_it.py", TESTS)
    outcome = run(shop, *options, "--doctest-modules", "test_it.py").demand()
    assert "9 passed" in outcome.out
    assert clones() == []


ASYNC_CONFTEST = """
import os
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from shop.app import app, engine, lifespan

reached = {}

async def where(engine=engine):
    async with engine.connect() as connection:
        return await connection.scalar(text("select current_database()"))

@pytest_asyncio.fixture(scope="session", loop_scope="session", autouse=True)
async def running_shop():
    reached["session"] = await where()
    async with lifespan(app):
        yield
    assert await where() == reached["session"]
    await engine.dispose()

@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine_of_the_session():
    engine = create_async_engine(os.environ["DATABASE_URL"])
    yield engine
    await engine.dispose()

@pytest_asyncio.fixture(autouse=True)
async def before_each():
    reached["before"] = await where()
    yield
    assert await where() == reached["before"]
"""

ASYNC_TESTS = """
import asyncio
import httpx, pytest
from conftest import reached, where
from shop.app import app

@pytest.mark.parametrize("n", range(4))
@pytest.mark.parametrize("scope", [
    pytest.param(scope, marks=pytest.mark.asyncio(loop_scope=scope)) for scope in ("function", "session")
])
async def test_fresh(engine_of_the_session, scope, n):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
        assert (await client.post("/items", params={"name": "book"})).json() == 2
        answers = await asyncio.gather(*(client.get("/items") for _ in range(5)))
    assert [answer.json() for answer in answers] == [["seeded", "book"]] * 5
    assert await where() == await where(engine_of_the_session) == reached["before"] != reached["session"]
"""


@pytest.mark.campaign("long")
@pytest.mark.parametrize("driver", ["asyncpg", pytest.param("psycopg", marks=VARIANT)])
@pytest.mark.parametrize(
    "distributed", [(), pytest.param(XDIST, marks=VARIANT)], ids=["alone", "n2"]
)
def test_loops_of_any_scope(
    shop: Project, clones: Callable[[], list[str]], driver: str, distributed: tuple[str, ...]
) -> None:
    """A session's fixtures, a test and its fixtures each have a loop, and the application one pool."""
    write_shop(shop, ASYNC_APP)
    shop.environment["DATABASE_URL"] = SOMEBODYS.format(driver=driver).partition("?")[0]
    shop.write("conftest.py", ASYNC_CONFTEST)
    shop.write("test_it.py", ASYNC_TESTS)
    outcome = run(shop, *STRICT, *distributed).demand()
    assert "8 passed" in outcome.out
    assert "Captured log" not in outcome.out
    assert clones() == []


def test_collecting_does_nothing(shop: Project) -> None:
    """No server is needed, and nothing is installed, to list the tests."""
    shop.write("test_it.py", "import shop.app\ndef test_one(): pass\n")
    shop.environment["CLONEDB_URL"] = "postgresql://nobody@localhost:1/x"
    outcome = run(shop, "--collect-only", "-q").demand()
    assert "test_it.py::test_one" in outcome.out
    assert "template" not in outcome.text
    assert "1 error" in run(shop).demand(1).out


def test_what_fails_is_an_error_of_the_test(shop: Project) -> None:
    """A template that cannot be built is shown once, as with the fixture."""
    shop.revision("three", 'op.execute("select 1 / 0")')
    shop.write("test_it.py", "def test_one(): pass\ndef test_two(): pass\n")
    outcome = run(shop).demand(1)
    assert "2 errors" in outcome.out
    assert outcome.out.count("division by zero") <= 3
    assert "INTERNALERROR" not in outcome.text


def test_off(shop: Project) -> None:
    """Tests that want a database are skipped, and the others are run."""
    shop.write("test_it.py", "def test_one(): pass\ndef test_two(clonedb): pass\n")
    assert "1 passed, 1 skipped" in run(shop, "--clonedb-off").demand().out


def test_without_routing(items: Project, clones: Callable[[], list[str]]) -> None:
    """Each test has a clone, and no other one is made for what would not be led there."""
    items.settings(autouse=True)
    items.write(
        "test_it.py", "def test_one(request): assert 'clonedb' in request.fixturenames\n"
    )
    assert "1 clone;" in run(items).demand().out
    assert clones() == []


def test_a_worker_has_one_database(shop: Project) -> None:
    """The application and clonedb's own fixtures reach the worker's clone, in one test after another."""
    shop.write(
        "test_it.py",
        """
        import pytest
        from sqlalchemy import text
        from shop.app import engine

        @pytest.mark.parametrize("number", range(3))
        def test_all_reach_it(clonedb_session, clonedb_engine, clonedb_connection, number):
            query = "select current_database()"
            with clonedb_engine.connect() as own, engine.connect() as applications:
                names = {clonedb_session.scalar(text(query)), own.scalar(text(query)), applications.scalar(text(query))}
            assert {*names, clonedb_connection.execute(query).fetchone()[0]} == names
            assert len(names) == 1
        """,
    )
    assert "3 passed" in run(shop, "--clonedb-isolation=worker").demand().out
