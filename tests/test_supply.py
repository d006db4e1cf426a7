"""`template.database()`: every isolation without pytest."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings, strategies

import clonedb
from clonedb.isolation.modes import MODES
from clonedb.settings.typed import Isolation
from tests.projects import Project, databases

README = Path(__file__).parents[1] / "README.md"

Clones = Callable[[], list[str]]


@pytest.fixture
def clones(admin_dsn: str, prefix: str) -> Clones:
    """A function that names the clones that are there."""
    return lambda: databases(admin_dsn, f"{prefix}_c")


@pytest.fixture
def template(project: Project, variables: None) -> Iterator[clonedb.Template]:
    """The project's template; its downgrades do what they say."""
    del variables
    project.revision(
        "one",
        'op.execute("create table item (id serial, name text)")',
        'op.execute("drop table item")',
        down=None,
    )
    project.revision("two", "op.execute(\"insert into item (name) values ('seeded')\")")
    with clonedb.template(project.directory) as opened:
        yield opened


def count(db: clonedb.Database) -> int:
    """How many rows there are."""
    with db.connect() as connection:
        found = connection.execute("select count(*) from item").fetchone()
    assert found is not None
    return int(found[0])


def add(db: clonedb.Database) -> None:
    """Commit a row."""
    with db.connect() as connection:
        connection.execute("insert into item (name) values ('more')")


@pytest.mark.parametrize("isolation", ["auto", "clone", "truncate", "migrate"])
def test_what_one_block_wrote_the_next_does_not_find(
    template: clonedb.Template, isolation: Isolation, clones: Clones
) -> None:
    """Whatever gives the second block its database, and nothing is left on the server after `close()`."""
    for _ in range(3):
        with template.database(isolation) as db:
            assert count(db) == 1
            add(db)
            assert count(db) == 2
    template.close()
    assert clones() == []


def test_under_rollback_sessions_see_their_commits_which_are_lost(
    template: clonedb.Template, clones: Clones
) -> None:
    """And a connection of the block's own is refused."""
    from sqlalchemy import text

    for _ in range(2):
        with template.database("rollback") as db:
            with pytest.raises(clonedb.BoundsError):
                db.connect()
            for expected in (1, 2):
                with db.sessionmaker().begin() as session:
                    assert session.scalar(text("select count(*) from item")) == expected
                    session.execute(text("insert into item (name) values ('more')"))
    template.close()
    assert clones() == []


def test_under_worker_every_block_has_the_same_database(
    template: clonedb.Template, clones: Clones
) -> None:
    """What one wrote the next finds, and so does one within it."""
    with template.database("worker") as first:
        add(first)
        with template.database("worker") as second:
            assert (second.name, count(second)) == (first.name, 2)
    with template.database("worker") as third:
        assert (third.name, count(third)) == (first.name, 2)
    template.close()
    assert clones() == []


def test_under_readonly_postgresql_refuses_to_write(
    template: clonedb.Template, clones: Clones
) -> None:
    """The next block gets the same database."""
    names = set()
    for _ in range(2):
        with template.database("readonly") as db:
            assert count(db) == 1
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                add(db)
            names.add(db.name)
    assert len(names) == 1
    template.close()
    assert clones() == []


@pytest.mark.parametrize("isolation", sorted(MODES))
def test_every_isolation_gives_sessions(
    template: clonedb.Template, isolation: Isolation
) -> None:
    """By one name, and they see what is in the database."""
    from sqlalchemy import text

    with template.database(isolation) as db, db.sessionmaker().begin() as session:
        assert session.scalar(text("select count(*) from item")) == 1
        assert session.scalar(text("select current_database()")) == db.name


def test_every_isolation_is_tried_above() -> None:
    """The modes that there are."""
    assert set(MODES) == {
        "auto",
        "clone",
        "truncate",
        "migrate",
        "rollback",
        "worker",
        "readonly",
    }


def test_the_configured_isolation_is_the_default(template: clonedb.Template) -> None:
    """Which is `auto` here: the second block gets the rewound clone."""
    with template.database() as first:
        add(first)
    with template.database() as second:
        assert (second.name, count(second)) == (first.name, 1)


def test_an_isolation_that_there_is_not(template: clonedb.Template) -> None:
    """It is said where the word was written, before a clone is made."""
    with pytest.raises(
        clonedb.ConfigError,
        match=r"template.database\(\): isolation is 'rolback' .did you mean 'rollback'",
    ):
        template.database("rolback")  # type: ignore[arg-type]


def test_two_at_once_are_two_databases(template: clonedb.Template, clones: Clones) -> None:
    """One within the other; both are rewound, and one of them is the next block's."""
    with template.database() as first, template.database() as second:
        assert first.name != second.name
        add(first)
        assert (count(first), count(second)) == (2, 1)
    with template.database() as third:
        assert third.name in (first.name, second.name)
        assert count(third) == 1
    template.close()
    assert clones() == []


@pytest.mark.parametrize("isolation", ["auto", "clone"])
def test_threads_have_databases_of_their_own(
    template: clonedb.Template, isolation: Isolation, clones: Clones
) -> None:
    """Each finds what the template holds and what it wrote itself, at whatever time the others come and go."""
    together, found = threading.Barrier(3), list[int]()

    def work() -> None:
        for _ in range(5):
            with template.database(isolation) as db:
                together.wait(30)
                add(db)
                found.append(count(db))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [2] * 15
    template.close()
    assert clones() == []


def fail(template: clonedb.Template, isolation: Isolation, statement: str) -> None:
    """A block that commits a statement and fails."""
    with template.database(isolation) as db:
        with db.connect() as connection:
            connection.execute(statement.encode())
        raise ZeroDivisionError


def test_an_error_of_the_block_is_the_one_to_see(
    template: clonedb.Template, clones: Clones
) -> None:
    """Whatever giving the database back meets: here a downgrade that fails."""
    with pytest.raises(ZeroDivisionError):
        fail(template, "migrate", "drop table item")
    with pytest.raises(ZeroDivisionError):
        fail(template, "auto", "delete from item")
    with template.database() as following:
        assert count(following) == 1
    template.close()
    assert clones() == []


def leave_open(template: clonedb.Template) -> psycopg.Connection[tuple[object, ...]]:
    """A connection that a block did not close."""
    with template.database() as db:
        connection = db.connect(autocommit=True)
        connection.execute("select 1")
    return connection


def test_a_connection_that_was_left_open_is_told_of(template: clonedb.Template) -> None:
    """The warning points at the `with`, and the connection is ended; the next block is none the worse."""
    with pytest.warns(
        clonedb.LeakedConnectionWarning, match=r"with template.database\(\)` ended with an open"
    ) as told:
        left = leave_open(template)
    assert told[0].filename == __file__
    with pytest.raises(clonedb.EndedTestError):
        left.execute("select 1")
    left.close()
    with template.database() as following:
        assert count(following) == 1


def test_a_change_of_the_whole_server_is_undone(
    template: clonedb.Template, admin_dsn: str
) -> None:
    """A role that a block made is gone after it on a server of clonedb's own."""
    with template.database() as db, db.connect(autocommit=True) as connection:
        connection.execute("create role made_by_a_block")
    with psycopg.connect(admin_dsn) as admin:
        assert (
            admin.execute("select from pg_roles where rolname = 'made_by_a_block'").fetchone()
            is None
        )


def test_what_a_block_was_handed_is_refused_after_it(template: clonedb.Template) -> None:
    """The database is the next block's by then."""
    with template.database() as db:
        engine = db.engine()
        sessions = db.sessionmaker()
    with pytest.raises(clonedb.EndedTestError), sessions() as session:
        session.connection()
    with pytest.raises(clonedb.EndedTestError, match=r"with template.database\(\)` has ended"):
        db.connect()
    with pytest.raises(clonedb.EndedTestError), engine.connect() as connection:
        connection.exec_driver_sql("select 1")
    engine.dispose()


def test_a_forked_child_leaves_its_parents_clones_alone(template: clonedb.Template) -> None:
    """It gets a database of its own, and the parent's is still rewound."""
    with template.database() as first:
        add(first)
    child = os.fork()
    if not child:
        code = 1
        try:
            with template.database() as db:
                code = 0 if db.name != first.name and count(db) == 1 else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    with template.database() as following:
        assert (following.name, count(following)) == (first.name, 1)


def test_hypothesis(template: clonedb.Template) -> None:
    """Each example has a database in the template's state."""
    names = set()

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategies.lists(strategies.text("ab"), max_size=3))
    def property_holds(texts: list[str]) -> None:
        with template.database() as db:
            names.add(db.name)
            with db.connect() as connection:
                for text in texts:
                    connection.execute("insert into item (name) values (%s)", [text])
            assert count(db) == 1 + len(texts)

    property_holds()
    assert len(names) == 1


def test_the_readmes_example_for_unittest(items: Project, clones: Clones) -> None:
    """It passes as it stands, and leaves nothing."""
    text = README.read_text(encoding="utf-8").partition("<!-- example: unittest -->")[2]
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    items.write("test_items.py", code[1])
    outcome = items.run(
        sys.executable, "-W", "error", "-m", "unittest", "-v", "test_items"
    ).demand()
    assert "Ran 2 tests" in outcome.err
    assert clones() == []
