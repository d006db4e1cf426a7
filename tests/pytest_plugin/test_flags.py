"""--clonedb-off and --clonedb-echo, for people who knew them as --no-db and --echo-db."""

from __future__ import annotations

import pytest

from tests.campaigns import VARIANT
from tests.projects import Project

TESTS = """
import clonedb as package, pytest, sqlalchemy as sa

module_database = package.fixture(scope="module")

def test_without_a_database(): pass

def test_session(clonedb_session):
    clonedb_session.execute(sa.text("select 'a statement'"))

def test_template(clonedb_template): pass

def test_module(module_database): pass

def test_factory(clonedb_factory): clonedb_factory()

def test_empty(clonedb_empty): pass

def test_at(clonedb_at): clonedb_at("one")
"""


@pytest.mark.parametrize(
    "arguments", [pytest.param((), marks=VARIANT), ("-n", "2")], ids=["alone", "xdist"]
)
def test_off_skips_what_needs_a_database(items: Project, arguments: tuple[str, ...]) -> None:
    """And says so; no server is asked for anything."""
    items.write("test_it.py", TESTS)
    nowhere = "postgresql://nobody:SECRET@127.0.0.1:1/"
    outcome = items.pytest(
        "-rs", "--clonedb-off", f"--clonedb-url={nowhere}", *arguments
    ).demand()
    assert "1 passed, 6 skipped" in outcome.out
    assert "needs a database, and clonedb is off (--clonedb-off)" in outcome.out
    assert "SECRET" not in outcome.text


def test_off_by_a_variable(items: Project) -> None:
    """A continuous integration without PostgreSQL sets it once."""
    items.write("test_it.py", TESTS)
    outcome = items.pytest("-rs", CLONEDB_OFF="1").demand()
    assert "6 skipped" in outcome.out
    assert "clonedb is off (CLONEDB_OFF)" in outcome.out


def test_echo_shows_every_statement(items: Project) -> None:
    """Those of the fixtures' engines, and those of the test's own."""
    items.write(
        "test_it.py",
        """
        import sqlalchemy as sa

        def test_it(clonedb_session, clonedb_url):
            clonedb_session.execute(sa.text("select 'by the fixture'"))
            engine = sa.create_engine(clonedb_url)
            with engine.connect() as connection:
                connection.execute(sa.text("select 'by its own'"))
            engine.dispose()
        """,
    )
    outcome = items.pytest("-s", "--clonedb-echo").demand()
    assert "select 'by the fixture'" in outcome.out
    assert "select 'by its own'" in outcome.text
    assert "select" not in items.pytest("-s").demand().out


def test_echo_shows_a_statement_once(items: Project) -> None:
    """In a failed test's output, and not a second time as what was logged."""
    items.write(
        "test_it.py", "def test_it(clonedb_session): assert not clonedb_session.connection()\n"
    )
    shown = items.pytest("--clonedb-echo").demand(1).out
    assert "Captured stdout call" in shown
    assert "Captured log call" not in shown
