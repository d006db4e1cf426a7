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
