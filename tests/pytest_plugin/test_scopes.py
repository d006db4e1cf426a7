"""`clonedb.fixture()`: databases for classes, modules, packages and sessions, seeded or not, beside a test's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.campaigns import VARIANT
from tests.projects import Project

SCOPES = """
import clonedb as package, pytest

class_database = package.fixture(scope="class")
module_database = package.fixture(scope="module", name="module_db")
package_database = package.fixture(scope="package", isolation="clone")
session_database = package.fixture(scope="session", isolation="truncate")

def scope(fixture_name, config):
    return "module" if config.getoption("--clonedb-keep-count") == "7" else "function"

dynamic = package.fixture(scope)

def seed(connection):
    connection.exec_driver_sql("insert into item (name) values ('by a function')")

seeded = package.fixture(seed=["more.sql", seed], isolation="truncate")

def names(database):
    with database.connect() as connection:
        return [row[0] for row in connection.execute("select name from item order by id")]

def add(database, name):
    with database.connect() as connection:
        connection.execute("insert into item (name) values (%s)", [name])

class TestOne:
    def test_first(self, class_database, module_db, package_database, session_database, clonedb):
        everyone = class_database, module_db, package_database, session_database, clonedb
        assert len({database.name for database in everyone}) == 5
        for database in everyone:
            assert names(database) == ["seeded"]
            add(database, "first")

    def test_second(self, class_database, module_db, package_database, session_database, clonedb):
        for database in class_database, module_db, package_database, session_database:
            assert names(database) == ["seeded", "first"]
        assert names(clonedb) == ["seeded"]

class TestTwo:
    def test_third(self, class_database, module_db):
        assert names(class_database) == ["seeded"]
        assert names(module_db) == ["seeded", "first"]

@pytest.mark.parametrize("number", range(2))
def test_seeds(seeded, number):
    assert names(seeded) == ["seeded", "more", "by a function"]
    add(seeded, "x")

@pytest.mark.parametrize("number", range(2))
def test_dynamic(dynamic, number, request):
    assert names(dynamic) == ["seeded"] + ["x"] * number * (request.config.getoption("--clonedb-keep-count") == "7")
    add(dynamic, "x")

@pytest.mark.clonedb(seed="more.sql")
def test_a_marker_seeds_too(clonedb_session):
    assert clonedb_session.connection().exec_driver_sql("select count(*) from item").scalar() == 2
"""

FAMILY = """
import clonedb as package, sqlalchemy as sa

clonedb = package.fixture(scope="module", name="clonedb", isolation="clone")

def test_writes(clonedb_session):
    clonedb_session.execute(sa.text("insert into item (name) values ('x')"))
    clonedb_session.commit()

def test_reads(clonedb_engine, clonedb_connection):
    with clonedb_engine.connect() as connection:
        assert connection.scalar(sa.text("select count(*) from item")) == 2
    assert clonedb_connection.execute("select count(*) from item").fetchone() == (2,)
"""


@pytest.mark.parametrize(
    "arguments",
    [(), pytest.param(("-n", "2", "--dist", "loadfile"), marks=VARIANT)],
    ids=["alone", "xdist"],
)
def test_every_scope(
    items: Project, clones: Callable[[], list[str]], arguments: tuple[str, ...]
) -> None:
    """Each lives as long as its scope, and a text among the seeds costs one template, not a test."""
    items.write("more.sql", "insert into item (name) values ('more')")
    items.write("test_it.py", SCOPES)
    outcome = items.pytest("-W", "error", *arguments).demand()
    assert "8 passed" in outcome.out
    assert clones() == []
    assert (
        "8 passed"
        in items.pytest("-W", "error", "--clonedb-keep-count", "7", *arguments).demand().out
    )


def test_a_fixture_named_clonedb_brings_the_others(items: Project) -> None:
    """The module's engine and session are on the module's database."""
    items.write("test_it.py", FAMILY)
    assert "2 passed" in items.pytest("-W", "error").demand().out


def test_a_failed_test_keeps_its_modules_database(items: Project) -> None:
    """What several tests share is kept for the first of them that fails, and named."""
    items.write("test_it.py", FAMILY + "\ndef test_fails(clonedb): assert 0\n")
    outcome = items.pytest().demand(1)
    assert outcome.out.count("database kept: ") == 1
    items.clonedb("drop", "--all").demand()


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (
            "scope='modul'",
            "clonedb.fixture(): scope is 'modul' (did you mean 'module'?); it takes one of function,",
        ),
        (
            "seed=5",
            "clonedb.fixture(): seed is 5; it takes a text, a function, or a list of these",
        ),
        (
            "isolation='wrok'",
            "clonedb.fixture(): isolation is 'wrok' (did you mean 'worker'?); it takes one of auto,",
        ),
        (
            "template='shp'",
            "template 'shp' is not configured (did you mean 'shop'?); there is default, shop",
        ),
    ],
)
def test_bad_input(items: Project, call: str, complaint: str) -> None:
    """A scope, an isolation and a template that there are not."""
    items.settings(templates={"shop": {"target": "one"}})
    items.write(
        "test_it.py",
        f"import clonedb as package\nother = package.fixture({call})\ndef test_it(other): pass\n",
    )
    outcome = items.pytest()
    assert outcome.code != 0
    assert complaint in outcome.text
