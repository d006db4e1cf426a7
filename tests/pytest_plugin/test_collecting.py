"""What a run of one test does beside it: its clone is dropped while pytest reports, and leftovers are collected."""

from __future__ import annotations

from collections.abc import Callable

from clonedb.names import clone_name
from clonedb.postgres import sql
from clonedb.postgres.server import Server
from tests.projects import Project


def test_the_only_tests_clone_is_gone_when_pytest_is(
    items: Project, clones: Callable[[], list[str]]
) -> None:
    """It is dropped beside pytest's report, and the run does not end before that: nor does a later one collect it."""
    items.write(
        "test_it.py",
        """
        def test_writes(clonedb_connection):
            clonedb_connection.execute("insert into item values (9, 'nine')")
            clonedb_connection.commit()
        """,
    )
    items.write(
        "conftest.py",
        """
        import threading
        import time
        import pytest
        from clonedb.clones.clone import Clone

        drop_by = Clone.drop_by

        def slowly(clone, session):
            time.sleep(0.5)
            drop_by(clone, session)

        Clone.drop_by = slowly

        @pytest.hookimpl(tryfirst=True)
        def pytest_sessionfinish():
            print("threads", [one.name for one in threading.enumerate()])

        @pytest.hookimpl(wrapper=True)
        def pytest_unconfigure(config):
            yield
            print("in the end", [one.name for one in threading.enumerate()])
        """,
    )
    outcome = items.pytest("-s").demand()
    assert "1 clone" in outcome.text
    assert "clonedb-drop" in outcome.text.split("threads")[1].splitlines()[0]
    assert "in the end ['MainThread']" in outcome.text
    assert clones() == []


def test_a_clone_that_could_not_be_dropped_is_named(
    items: Project, server: Server, clones: Callable[[], list[str]]
) -> None:
    """What went wrong beside the report is said after it, and fails no test."""
    items.write(
        "test_it.py",
        """
        def test_makes_a_template_of_its_database(clonedb):
            with clonedb.connect(autocommit=True) as connection:
                connection.execute(f'alter database "{clonedb.name}" is_template true')
        """,
    )
    outcome = items.pytest().demand()
    (left,) = clones()
    server.run(sql.unseal, left)
    assert (
        f"could not drop {left!r}: cannot drop a template database; the next run does"
        in outcome.text
    )


def test_a_run_of_one_test_collects_what_a_dead_owner_left(
    items: Project, server: Server, prefix: str, clones: Callable[[], list[str]]
) -> None:
    """It begins when the first clone is on its way, and however short the test, the run waits for it."""
    items.write(
        "test_it.py",
        "def test_reads(clonedb_connection):\n    clonedb_connection.execute('select 1')\n",
    )
    left = clone_name(prefix, "0" * 12, "a" * 10, 1)
    server.run(sql.create_database, left)
    assert clones() == [left]
    items.pytest().demand()
    assert clones() == []
