"""What dead processes left is collected beside the tests of a run, however short that is."""

from __future__ import annotations

from collections.abc import Callable

from clonedb.names import clone_name
from clonedb.postgres import sql
from clonedb.postgres.server import Server
from tests.projects import Project


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


def test_the_only_tests_clone_is_gone_when_pytest_is(
    items: Project, clones: Callable[[], list[str]]
) -> None:
    """No later run has to collect it, and no thread is left."""
    items.write(
        "test_it.py",
        "def test_reads(clonedb_connection):\n    clonedb_connection.execute('select 1')\n",
    )
    items.write(
        "conftest.py",
        """
        import threading
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_unconfigure(config):
            yield
            print("in the end", [one.name for one in threading.enumerate()])
        """,
    )
    assert "in the end ['MainThread']" in items.pytest("-s").demand().text
    assert clones() == []
