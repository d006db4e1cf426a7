"""`migrate`: up before a test, down after it, in the worker's database."""

from __future__ import annotations

import pytest

from tests.projects import Project

TESTS = """
import pytest

@pytest.mark.parametrize("number", range(3))
def test_writes(clonedb, clonedb_session, number):
    import sqlalchemy as sa
    assert clonedb_session.scalar(sa.text("select count(*) from item")) == 1
    clonedb_session.execute(sa.text("insert into item (name) values ('x')"))
    clonedb_session.commit()
    print("database", clonedb.name)
"""


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_each_test_is_migrated_for(items: Project, arguments: tuple[str, ...]) -> None:
    """What the tests before wrote went away with its tables."""
    items.revision("three", "pass")
    items.write("migrations/versions/one.py", _one("drop table item"))
    items.write("test_it.py", TESTS)
    outcome = items.pytest("--clonedb-isolation=migrate", "-s", *arguments).demand()
    assert "3 passed" in outcome.out
    if not arguments:
        assert len({line.rpartition("database ")[2] for line in outcome.out.splitlines() if "database " in line}) == 1


def test_a_downgrade_that_leaves_something(items: Project) -> None:
    """The test after which it is found has the error, which names what is left; the next has a new database."""
    items.write("migrations/versions/one.py", _one("select 1"))
    items.write("test_it.py", TESTS)
    outcome = items.pytest("--clonedb-isolation=migrate").demand(1)
    assert "3 passed, 3 errors" in outcome.out
    assert "MigrationError: the downgrade to base left table item" in outcome.out


def test_a_downgrade_that_fails_on_what_a_test_wrote(items: Project) -> None:
    """Downgrades meet the rows that the test left, which an empty database never shows."""
    down = "do $$ begin if (select count(*) from item) > 1 then raise exception 'too many rows'; end if; end $$"
    items.write("migrations/versions/one.py", _one(down))
    items.write("test_it.py", TESTS)
    outcome = items.pytest("--clonedb-isolation=migrate").demand(1)
    assert "too many rows" in outcome.out
    assert "revision 'one'" in outcome.out
    assert "3 passed, 3 errors" in outcome.out


def _one(down: str) -> str:
    return f"""
    from alembic import op

    revision = "one"
    down_revision = None


    def upgrade():
        op.execute("create table item (id serial primary key, name text not null)")


    def downgrade():
        op.execute("{down}")
    """


LEFT = """
import pytest

names = []

@pytest.mark.parametrize("part", ["makes", "finds"])
@pytest.mark.parametrize("statement", [
    "create type mood as enum ('ok')", "create function f() returns int language sql as 'select 1'", "create schema s",
    "select lo_create(5)", "create table mine (id serial primary key)", "create domain d as int",
])
def test_it(clonedb, statement, part):
    names.append(clonedb.name)
    with clonedb.connect() as connection:
        if part == "makes":
            connection.execute(statement)
        else:
            assert names[-1] != names[-2]
            connection.execute(statement)  # which fails if it is there
            connection.rollback()
"""


def test_what_a_test_made_costs_a_new_database(items: Project) -> None:
    """Downgrades know nothing of it, so that it is no fault of theirs."""
    items.write("migrations/versions/one.py", _one("drop table item"))
    items.write("test_it.py", LEFT)
    items.pytest("--clonedb-isolation=migrate").demand()


def test_a_downgrade_that_leaves_other_things_than_tables(items: Project) -> None:
    """A type, a function, a schema and an extension are named, though the test made something, too."""
    items.revision(
        "three",
        """
        op.execute("create type mood as enum ('ok'); create schema away")
        op.execute("create function f() returns int language sql as 'select 1'; create extension citext")
        """,
        "pass",
    )
    items.write("migrations/versions/one.py", _one("drop table item"))
    items.write("test_it.py", "def test_it(clonedb):\n    clonedb.connect().execute('create domain d as int')\n")
    outcome = items.pytest("--clonedb-isolation=migrate").demand(1)
    assert "left extension citext, function f(), schema away, type mood behind" in outcome.out
