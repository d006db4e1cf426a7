"""`migrate`: up before a test, down after it, in the worker's database."""

from __future__ import annotations

import pytest

from tests.campaigns import VARIANT
from tests.projects import ALEMBIC_INI, ENV_PY, Project

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


@pytest.mark.parametrize(
    "arguments", [(), pytest.param(("-n", "2"), marks=VARIANT)], ids=["alone", "xdist"]
)
def test_each_test_is_migrated_for(items: Project, arguments: tuple[str, ...]) -> None:
    """What the tests before wrote went away with its tables."""
    items.revision("three", "pass")
    items.write("migrations/versions/one.py", _one("drop table item"))
    items.write("test_it.py", TESTS)
    outcome = items.pytest("--clonedb-isolation=migrate", "-s", *arguments).demand()
    assert "3 passed" in outcome.out
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


@pytest.mark.campaign("long")
def test_a_downgrade_that_leaves_something(items: Project) -> None:
    """The test after which it is found has the error, which names what is left; the next has a new database."""
    items.write("migrations/versions/one.py", _one("select 1"))
    items.write("test_it.py", TESTS)
    outcome = items.pytest("--clonedb-isolation=migrate").demand(1)
    assert "3 passed, 3 errors" in outcome.out
    assert "MigrationError: the downgrade to base left table item" in outcome.out


@pytest.mark.campaign("long")
def test_a_downgrade_that_fails_on_what_a_test_wrote(items: Project) -> None:
    """Downgrades meet the rows that the test left, which an empty database never shows."""
    down = "do $$ begin if (select count(*) from item) > 1 then raise exception 'too many rows'; end if; end $$"
    items.write("migrations/versions/one.py", _one(down))
    items.write("test_it.py", TESTS)
    outcome = items.pytest("--clonedb-isolation=migrate").demand(1)
    assert "too many rows" in outcome.out
    assert "revision 'one'" in outcome.out
    assert "3 passed, 3 errors" in outcome.out


UPON = """
import pytest

names = []

@pytest.mark.parametrize("again, statement", [  # whether what the test before did leaves its database
    (None, "insert into report default values"),
    (True, "update item set name = 'changed'"),
    (False, "select nextval('item_id_seq')"),
    (False, "drop table item"),
    (False, "alter database {name} set work_mem = '3MB'"),
    (False, "select"),
])
def test_it(clonedb, clonedb_connection, statement, again):
    names.append(clonedb.name)
    assert clonedb_connection.execute("select name, last_value from item, item_id_seq").fetchone() == ("seeded", 1)
    assert clonedb_connection.execute("show work_mem").fetchone() == ("4MB",)
    assert again is None or (names[-1] == names[-2]) is again
    clonedb_connection.execute(statement.replace("{name}", clonedb.name))
    clonedb_connection.commit()
"""


@pytest.mark.campaign("long")
def test_what_is_not_of_the_migrations_is_brought_back_too(items: Project) -> None:
    """Rows and sequences of the template that this one is built upon, and settings: by a new database."""
    items.settings(
        templates={"reports": {"base": "default", "alembic_ini": "reports.ini"}},
        template="reports",
    )
    items.write("reports.ini", ALEMBIC_INI.replace("/migrations", "/reports"))
    version_table = "connection=connection, version_table='reports_version',"
    items.write("reports/env.py", ENV_PY.replace("connection=connection,", version_table))
    report = (
        _one("drop table report")
        .replace("item", "report")
        .replace("name text not null", "name text")
    )
    items.write("reports/versions/one.py", report)
    items.write("test_it.py", UPON)
    items.pytest("--clonedb-isolation=migrate").demand()


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

STATEMENTS = [
    "create type mood as enum ('ok')", "create function f() returns int language sql as 'select 1'", "create schema s",
    "select lo_create(5)", "create table mine (id serial primary key)", "create domain d as int",
]

@pytest.mark.parametrize("number", range(len(STATEMENTS) + 1))
def test_it(clonedb, number):
    assert clonedb.name not in names
    names.append(clonedb.name)
    with clonedb.connect() as connection:
        if number > 0:
            connection.execute(STATEMENTS[number - 1])  # which fails if the test before left it
            connection.rollback()
        if number < len(STATEMENTS):
            connection.execute(STATEMENTS[number])
"""


@pytest.mark.campaign("long")
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
    items.write(
        "test_it.py",
        "def test_it(clonedb):\n    clonedb.connect().execute('create domain d as int')\n",
    )
    outcome = items.pytest("--clonedb-isolation=migrate").demand(1)
    assert "left extension citext, function f(), schema away, type mood behind" in outcome.out
