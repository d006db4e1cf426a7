"""A mode that is not there, whose tests connect in another way: one new file, and its name where names are listed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.projects import Project, lean_pytest

ROOT = Path(__file__).parents[2]

MODE = '''
"""`marked`: a new clone for every test, each of whose connections has a setting."""

from __future__ import annotations

import contextlib

from sqlalchemy import event

from clonedb.clones.database import PlainDatabase
from clonedb.isolation.clones import CloneEach

MARK = "set app.mark = 'marked'"


class MarkedDatabase(PlainDatabase):
    def explain(self, error):
        return "looked for what is not in a marked database" if "no_such_table" in str(error) else None

    @property
    def route(self):
        return super().route.replace(host="localhost")  # as if a proxy stood there

    def connect(self, **keywords):
        return marked(super().connect(**keywords))

    def engine(self, **keywords):
        return marking(super().engine(**keywords))

    def lasting_engine(self):
        return marking(super().lasting_engine())

    @contextlib.contextmanager
    def lasting_connection(self, in_the_middle):
        with super().lasting_connection(in_the_middle) as connection:
            yield marked(connection)

    @contextlib.contextmanager
    def async_engine(self, *, around=None):
        with super().async_engine(around=around) as engine:
            marking(engine.sync_engine)
            yield engine

    @contextlib.contextmanager
    def async_connection(self):
        with super().async_connection() as connection:
            yield marked(connection)


def marked(connection):
    connection.pgconn.exec_(MARK.encode())
    return connection


def marking(engine):
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(MARK))
    return engine


class Marked(CloneEach):
    def database(self, clone, loan):
        return MarkedDatabase(clone, loan)
'''

# the name of the mode, where those of the others are
ROWS = {
    "clonedb/isolation/modes.py": (
        '        "clone": ',
        '        "marked": ("marked", "Marked"),\n        "clone": ',
    ),
    "clonedb/settings/keys.py": ('ISOLATIONS = ("auto", ', 'ISOLATIONS = ("auto", "marked", '),
    "clonedb/settings/typed.py": (
        '"auto", "clone", "rollback"',
        '"auto", "marked", "clone", "rollback"',
    ),
}

TESTS = """
import os
import clonedb as package, psycopg, pytest, sqlalchemy as sa

SHOW = "select current_setting('app.mark', true)"

def mark(connection):
    return connection.scalar(sa.text(SHOW))

def test_it_is_the_changed_package():
    assert "changed" in package.__file__

def test_connection(clonedb_connection):
    assert clonedb_connection.execute(SHOW).fetchone() == ("marked",)

def test_engine(clonedb_engine):
    with clonedb_engine.connect() as connection:
        assert mark(connection) == "marked"

def test_session(clonedb_session):
    assert mark(clonedb_session) == "marked"

def test_sessionmaker(clonedb_sessionmaker):
    with clonedb_sessionmaker.begin() as session:
        assert mark(session) == "marked"

def test_database(clonedb):
    assert type(clonedb).__name__ == "MarkedDatabase"
    with clonedb.connect() as connection:
        assert connection.execute(SHOW).fetchone() == ("marked",)
    with clonedb.engine().connect() as connection:
        assert mark(connection) == "marked"

@pytest.mark.asyncio
async def test_async_engine(clonedb_async_engine):
    async with clonedb_async_engine.connect() as connection:
        assert await connection.scalar(sa.text(SHOW)) == "marked"

@pytest.mark.asyncio
async def test_async_session(clonedb_async_session):
    assert await clonedb_async_session.scalar(sa.text(SHOW)) == "marked"
    await clonedb_async_session.close()

@pytest.mark.asyncio
async def test_async_connection(clonedb_async_connection):
    assert await (await clonedb_async_connection.execute(SHOW)).fetchone() == ("marked",)

def seed(connection):
    assert mark(connection) == "marked"
    connection.execute(sa.text("insert into item (name) values ('by the seed')"))

@pytest.mark.clonedb(seed=seed)
def test_seed(clonedb_connection):
    assert clonedb_connection.execute("select 1 from item where name = 'by the seed'").fetchone() == (1,)

@pytest.mark.clonedb(isolation="clone")
def test_another_mode_beside_it(clonedb_connection):
    assert clonedb_connection.execute(SHOW).fetchone() == (None,)

def test_application(clonedb):
    engine = sa.create_engine(os.environ["APP_URL"].replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        info = connection.connection.driver_connection.info
        assert (info.host, info.dbname) == ("localhost", clonedb.name)
    engine.dispose()
    with psycopg.connect(os.environ["APP_URL"]) as connection:
        assert (connection.info.host, connection.info.dbname) == ("localhost", clonedb.name)

module_wide = package.fixture(scope="module", isolation="marked")

def test_wider_scope(module_wide):
    with module_wide.sessionmaker().begin() as session:
        assert mark(session) == "marked"

def test_it_fails(clonedb_connection):
    clonedb_connection.execute("select from no_such_table")

def test_without_fixtures(clonedb_template):
    with clonedb_template.database("marked") as db:
        with db.connect() as connection:
            assert connection.execute(SHOW).fetchone() == ("marked",)
        with db.sessionmaker().begin() as session:
            assert mark(session) == "marked"
"""


@pytest.mark.campaign("long")
def test_a_mode_whose_connections_are_of_another_kind_is_one_file(shop: Project) -> None:
    """Each fixture and `template.database()` gives what the mode says; no other code of the package knows of it."""
    changed = shop.directory / "changed"
    shutil.copytree(
        ROOT / "clonedb",
        changed / "clonedb",
        ignore=shutil.ignore_patterns("demo", "__pycache__"),
    )
    (changed / "clonedb/isolation/marked.py").write_text(MODE, encoding="utf-8")
    for name, (found, replacement) in ROWS.items():
        text = (changed / name).read_text(encoding="utf-8")
        assert text.count(found) == 1
        (changed / name).write_text(text.replace(found, replacement), encoding="utf-8")
    shop.starts_anew = True
    shop.environment["PYTHONPATH"] = str(changed)
    shop.environment["PYTEST_ADDOPTS"] = (
        lean_pytest("asyncio") + " -o asyncio_default_fixture_loop_scope=function"
    )
    shop.environment["APP_URL"] = "postgresql://somebody@database.invalid/application"
    shop.settings(route=["APP_URL"])
    shop.write("test_it.py", TESTS)
    outcome = shop.pytest("--clonedb-isolation=marked", "-W", "error").demand(1)
    assert "1 failed, 14 passed" in outcome.out
    assert (
        "test_it.py::test_it_fails looked for what is not in a marked database" in outcome.out
    )


def test_the_files_of_that_mode_are_those_that_contributing_names() -> None:
    """And no others of the package."""
    told = (
        (ROOT / "CONTRIBUTING.md")
        .read_text(encoding="utf-8")
        .partition("\n## Adding an isolation mode\n")[2]
    )
    told = told.partition("\n## ")[0]
    named = {
        word
        for word in told.replace("`", " ").split()
        if word.startswith("clonedb/") and word.endswith(".py")
    }
    assert named - {
        "clonedb/isolation/NAME.py",
        "clonedb/isolation/mode.py",
        "clonedb/clones/database.py",
    } == set(ROWS)
