"""`route` in runs of pytest: what is led to a test's clone, what is refused, and what cannot be."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.applications.shops import SOMEBODYS, SYNC_APP, write_shop
from tests.campaigns import VARIANT
from tests.projects import Project
from tests.pytest_plugin.plugins import STRICT, XDIST, run

URL = SOMEBODYS.format(driver="psycopg")


@pytest.fixture
def shop(items: Project) -> Project:
    """A project with an application whose database is routed."""
    write_shop(items, SYNC_APP)
    items.settings(route=["DATABASE_URL"])
    items.environment["DATABASE_URL"] = URL
    return items


REFUSED = """
import pytest
from shop.app import engine

@pytest.fixture(scope="session")
def company():
    with engine.connect():
        pass

def test_with_the_fixture(clonedb):
    with engine.connect():
        pass

def test_without():
    with engine.connect():
        pass

def test_a_wider_fixture(company, clonedb):
    pass
"""


@pytest.mark.parametrize(
    "options", [(), pytest.param(XDIST, marks=VARIANT)], ids=["alone", "n2"]
)
def test_outside_a_clone_it_is_refused(shop: Project, options: tuple[str, ...]) -> None:
    """Nobody's database is reached by a test that forgot the fixture; the message says what to write."""
    shop.write("test_it.py", REFUSED)
    outcome = run(shop, *options).demand(1)
    assert "1 passed, 1 error" in outcome.out.replace("1 failed, ", "")
    message = (
        "RoutingError: a connection to database 'shop' was refused: route = ['DATABASE_URL']"
    )
    assert message in outcome.out
    assert "ask for the fixture `clonedb`" in outcome.out
    assert "autouse = true" in outcome.out
    assert "s3cret" not in outcome.text


def test_the_environment_is_patched_and_restored(shop: Project) -> None:
    """psycopg and asyncpg, used directly, have the variable, libpq's own, and clonedb_dsn."""
    shop.environment.pop("PGDATABASE", None)
    shop.write(
        "test_it.py",
        """
        import asyncio, os
        import asyncpg, psycopg, pytest

        before = dict(os.environ)

        def test_psycopg(clonedb, clonedb_dsn):
            url = os.environ["DATABASE_URL"]
            assert url.startswith("postgresql+psycopg://") and url.endswith(f"/{clonedb.name}?application_name=shop")
            for text in ("", clonedb_dsn, url.replace("+psycopg", "")):
                with psycopg.connect(text) as connection:
                    assert connection.info.dbname == clonedb.name

        @pytest.mark.asyncio
        async def test_asyncpg(clonedb, clonedb_dsn):
            for keywords in ({}, {"dsn": clonedb_dsn}):
                connection = await asyncpg.connect(**keywords)
                assert await connection.fetchval("select current_database()") == clonedb.name
                await connection.close()

        def test_restored():
            now = dict(os.environ)
            for environment in (before, now):
                environment.pop("PYTEST_CURRENT_TEST", None)
            assert now == before
        """,
    )
    assert "3 passed" in run(shop, *STRICT).demand().out


def test_two_databases(shop: Project, clones: Callable[[], list[str]], server_url: str) -> None:
    """An application with a second database keeps that one."""
    shop.environment["ARCHIVE_URL"] = f"{server_url}/postgres"
    shop.write(
        "test_it.py",
        """
        import os
        from sqlalchemy import create_engine, text
        from shop.app import engine

        archive = create_engine(os.environ["ARCHIVE_URL"])

        def where(engine):
            with engine.connect() as connection:
                return connection.scalar(text("select current_database()"))

        def test_one(clonedb):
            assert (where(engine), where(archive)) == (clonedb.name, "postgres")

        def test_two():
            assert where(archive) == "postgres"
            archive.dispose()
        """,
    )
    assert "2 passed" in run(shop).demand().out
    assert clones() == []


MANY = """
import os
import clonedb as package
import pytest
from sqlalchemy import create_engine, text
from shop.app import engine

def where(engine):
    with engine.connect() as connection:
        return connection.scalar(text("select current_database()"))

made_by_a_test = []

@pytest.mark.parametrize("n", range(3))
def test_made_by_a_test(clonedb, n):
    if not made_by_a_test:
        made_by_a_test.append(create_engine(os.environ["DATABASE_URL"]))
    assert where(made_by_a_test[0]) == where(engine) == clonedb.name

def test_several(clonedb, clonedb_engine, clonedb_factory):
    other = clonedb_factory()
    assert where(other.engine()) == other.name
    assert where(engine) == where(clonedb_engine) == clonedb.name

@pytest.mark.clonedb(isolation="worker")
@pytest.mark.parametrize("n", range(2))
def test_worker(clonedb, n):
    assert where(engine) == clonedb.name

of_the_module = package.fixture(scope="module", name="of_the_module")

def test_of_the_module(of_the_module):
    assert where(engine) == of_the_module.name

def test_above_it(of_the_module, clonedb):
    assert where(engine) == clonedb.name
    assert where(of_the_module.engine()) == of_the_module.name

def test_below_again(of_the_module):
    assert where(engine) == of_the_module.name
"""


@pytest.mark.parametrize(
    "route",
    ["DATABASE_URL", pytest.param("*", marks=VARIANT), pytest.param(URL, marks=VARIANT)],
    ids=["variable", "everything", "url"],
)
def test_many_clones(shop: Project, clones: Callable[[], list[str]], route: str) -> None:
    """One after another, one above another and side by side: each engine reaches the one that it is meant to."""
    shop.settings(route=[route])
    tests = (
        MANY
        if route == "DATABASE_URL"
        else MANY.replace('os.environ["DATABASE_URL"]', repr(URL))
    )
    shop.write("test_it.py", tests)
    assert "9 passed" in run(shop).demand().out
    assert clones() == []


@pytest.mark.parametrize(
    "options",
    [("-p", "no:xdist"), pytest.param((), marks=VARIANT), pytest.param(XDIST, marks=VARIANT)],
    ids=["no-xdist", "alone", "n2"],
)
@pytest.mark.parametrize(
    ("route", "message"),
    [
        ("DATABSE_URL", "route names the environment variable 'DATABSE_URL', which is not set (did you mean 'DATABASE_URL'?); set it, or"),
        ("MYSQL_URL", "route: variable 'MYSQL_URL': 'mysql://me:***@far/shop' is not the URL of a PostgreSQL server; write postgresql://"),
        ("sqlite:///shop.db", "route: 'sqlite:///shop.db' is not the URL of a PostgreSQL server; write postgresql://"),
    ],
    ids=["not-set", "mysql", "sqlite"],
)  # fmt: skip
def test_what_cannot_be_routed(
    shop: Project, route: str, message: str, options: tuple[str, ...]
) -> None:
    """One line, before any test is run: tests that were to be routed and are not would reach somebody's database."""
    shop.settings(route=[route])
    shop.environment["MYSQL_URL"] = "mysql://me:s3cret@far/shop"
    shop.write("test_it.py", "def test_one(): pass\n")
    outcome = run(shop, *options).demand(4)
    errors = [line for line in outcome.text.splitlines() if line.startswith("ERROR: ")]
    assert len(errors) == 1
    assert f"{shop.directory}/pyproject.toml [tool.clonedb]: {message}" in errors[0]
    assert "Traceback" not in outcome.text
    assert "INTERNALERROR" not in outcome.text
    assert "s3cret" not in outcome.text


@pytest.mark.parametrize("told", ["options", "variables"])
def test_told_elsewhere(shop: Project, told: str) -> None:
    """What the command line or the environment says of routing is as good as pyproject.toml."""
    shop.write("pyproject.toml", "")
    shop.write(
        "test_it.py",
        "from shop.app import engine\n\ndef test_one():\n    with engine.connect(): pass\n",
    )
    options = (
        ("--clonedb-route", "DATABASE_URL", "--clonedb-autouse") if told == "options" else ()
    )
    if told == "variables":
        shop.environment |= {"CLONEDB_ROUTE": "DATABASE_URL", "CLONEDB_AUTOUSE": "true"}
    assert "1 passed" in run(shop, *options).demand().out


def test_only_variables_are_variables(shop: Project) -> None:
    """ "*" and URLs are the names of none, neither while a template is built nor for `clonedb run`."""
    shop.settings(route=["*", URL, "DATABASE_URL"], salt="built for this test")
    shop.revision(
        "three", "assert [name for name in os.environ if '*' in name or '/' in name] == []"
    )
    program = "import os; print([name for name in os.environ if name == '*' or '://' in name], os.environ['DATABASE_URL'])"
    outcome = shop.clonedb("run", "python3", "-c", program).demand()
    assert outcome.out.startswith("[] postgresql+psycopg://")


def test_off(shop: Project) -> None:
    """With --clonedb-off nothing is routed, and no test has a clone."""
    shop.write(
        "test_it.py",
        "import os\ndef test_one(): assert 'far' in os.environ['DATABASE_URL']\ndef test_two(clonedb): pass\n",
    )
    shop.environment["DATABASE_URL"] = "postgresql://far/shop"
    assert "1 passed, 1 skipped" in run(shop, "--clonedb-off").demand().out


def test_leaks_are_reported(shop: Project) -> None:
    """A session that the application leaves open is one of the test's; what its pool keeps is not."""
    shop.write(
        "test_it.py",
        """
        import pytest
        from shop.app import Item, make_session, select

        left_open = []

        def test_tidy(clonedb):
            with make_session() as session:
                session.scalars(select(Item.name)).all()

        @pytest.mark.filterwarnings("default::clonedb.LeakedConnectionWarning")
        def test_leaky(clonedb):
            left_open.append(make_session())
            left_open[0].scalars(select(Item.name)).all()

        def test_next(clonedb):
            left_open[0].close()
            with make_session() as session:
                assert session.scalars(select(Item.name)).all() == ["seeded"]
        """,
    )
    outcome = run(shop).demand()
    assert "3 passed, 1 warning" in outcome.out
    assert "test_leaky ended with an open connection" in outcome.out
    assert "'shop'" in outcome.out


SCOPED = """
import os
import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import scoped_session, sessionmaker
from shop.app import Item

pytestmark = pytest.mark.filterwarnings("default::clonedb.LeakedConnectionWarning")
session = scoped_session(sessionmaker(create_engine(os.environ["DATABASE_URL"])))

def names():
    return list(session.scalars(select(Item.name).order_by(Item.id)))

def test_one(clonedb):
    session.add(Item(name="book"))
    assert names() == ["seeded", "book"]

def test_two(clonedb):
    assert names() == ["seeded"]

def test_three(clonedb):
    assert names() == ["seeded"]
    session.remove()
"""


def test_a_session_left_in_its_transaction(shop: Project) -> None:
    """As code does that has one for each thread: the test that left it is named, and the next is not disturbed."""
    shop.write("test_it.py", SCOPED)
    outcome = run(shop).demand()
    assert "3 passed, 2 warnings" in outcome.out
    for name in ("test_one", "test_two"):
        assert (
            f"test_it.py::{name} ended with an open connection to its database" in outcome.out
        )
