"""What a test may do to its database and its connections: nothing is left after it, and no error is hidden."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.campaigns import VARIANT
from tests.projects import Project


def sessions(dsn: str, prefix: str, pids: list[str]) -> list[tuple[str, ...]]:
    """The server's sessions with a database of ours, and those of processes that are given by pid."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "select datname, application_name, query from pg_stat_activity"
            " where starts_with(datname, %s) or application_name ~ %s",
            [prefix, rf"\mpid ({'|'.join(pids) or 'none'})$"],
        ).fetchall()


@pytest.mark.parametrize(
    "arguments", [pytest.param(("-n", "0"), marks=VARIANT), ("-n", "2")], ids=["n0", "n2"]
)
def test_nothing_is_left_after_a_run(
    items: Project,
    clones: Callable[[], list[str]],
    admin_dsn: str,
    prefix: str,
    arguments: tuple[str, ...],
) -> None:
    """No database and no session, whether tests pass, fail or leave their connections open."""
    items.write(
        "test_it.py",
        """
        import os, subprocess, sys, threading, time
        import psycopg, pytest

        left_open = []

        @pytest.fixture(autouse=True)
        def pid():
            with open("pids", "a") as file:
                print(os.getpid(), file=file)

        @pytest.mark.parametrize("n", range(3))
        def test_leaves_a_connection_open(clonedb, n):
            left_open.append(clonedb.connect())
            left_open[-1].execute("lock table item")

        def test_leaves_an_engine_open(clonedb_engine, clonedb):
            for engine in (clonedb_engine, clonedb.engine()):
                left_open.append(engine.connect())

        def test_leaves_a_query_running(clonedb):
            connection = clonedb.connect()
            def query():
                try:
                    connection.execute("select pg_sleep(60)")
                except psycopg.errors.AdminShutdown:
                    connection.close()
            threading.Thread(target=query, daemon=True).start()
            time.sleep(0.1)

        def test_leaves_a_program_running(clonedb_dsn):
            left_open.append(subprocess.Popen([sys.executable, "-c", f"import psycopg; psycopg.connect({clonedb_dsn!r}).execute('select pg_sleep(60)')"], stderr=subprocess.DEVNULL))
            time.sleep(0.5)

        @pytest.mark.clonedb(isolation="worker")
        def test_leaves_a_connection_to_the_workers_one(clonedb):
            left_open.append(clonedb.connect())

        @pytest.mark.clonedb(keep="none")
        def test_fails(clonedb_connection):
            clonedb_connection.execute("lock table item")
            assert 0
        """,
    )
    outcome = items.pytest(*arguments).demand(1)
    assert "1 failed, 7 passed" in outcome.out
    pids = (items.directory / "pids").read_text().split()
    assert len(pids) == 8
    assert sessions(admin_dsn, prefix, pids) == []
    assert clones() == []


def test_a_running_query_is_ended_quickly(items: Project) -> None:
    """A test's open connections, transactions and running queries cost it some milliseconds, not DROP's patience."""
    items.write(
        "test_it.py",
        """
        import threading, time
        import psycopg, pytest

        @pytest.fixture
        def quick():
            yield
            assert time.monotonic() - ended.pop() < 3

        ended = []

        def test_query(quick, clonedb):
            connections = [clonedb.connect() for _ in range(5)]
            def query(connection):
                with pytest.raises(psycopg.errors.AdminShutdown):
                    connection.execute("select pg_sleep(60)")
                connection.close()
            for connection in connections:
                threading.Thread(target=query, args=[connection], daemon=True).start()
            time.sleep(0.1)
            ended.append(time.monotonic())
        """,
    )
    items.pytest().demand()


def test_what_a_test_may_do_to_its_connections(
    items: Project, clones: Callable[[], list[str]]
) -> None:
    """It may close them itself, end them from the server, leave a broken transaction, and drop its own database."""
    items.write(
        "test_it.py",
        """
        import pytest
        from sqlalchemy import text
        from sqlalchemy.exc import DBAPIError

        END = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"

        def test_closes_its_connection(clonedb_connection):
            clonedb_connection.close()

        def test_closes_its_session(clonedb_session):
            clonedb_session.execute(text("select 1"))
            clonedb_session.close()

        def test_disposes_of_its_engine(clonedb_engine, clonedb_session):
            clonedb_engine.connect().close()
            clonedb_engine.dispose()

        def test_leaves_a_broken_transaction(clonedb_connection, clonedb_session):
            with pytest.raises(Exception):
                clonedb_connection.execute("select nothing")
            with pytest.raises(DBAPIError):
                clonedb_session.execute(text("select nothing"))

        def test_ends_its_connections(clonedb, clonedb_connection, clonedb_session):
            clonedb_connection.execute("select 1")
            clonedb_session.execute(text("select 1"))
            with clonedb.connect() as other:
                other.execute(END)

        def test_drops_its_database(clonedb, clonedb_connection, clonedb_session, clonedb_factory):
            clonedb_session.execute(text("select 1"))
            clonedb.clone.drop()
            clonedb_factory().drop()

        def test_drops_its_database_by_hand(clonedb, clonedb_template):
            clonedb_template.server.run(lambda c: c.execute(f'drop database "{clonedb.name}" with (force)'))

        @pytest.mark.clonedb(isolation="worker")
        def test_drops_the_workers_one(clonedb):
            clonedb.clone.drop()
        """,
    )
    outcome = items.pytest("-W", "error").demand()
    assert "8 passed" in outcome.out
    assert clones() == []


def test_an_error_in_clean_up_hides_nothing(
    items: Project, clones: Callable[[], list[str]], admin_dsn: str
) -> None:
    """A test's own failure stands first, with what clean-up met as an error beside it; other databases are dropped."""
    items.write(
        "test_it.py",
        """
        import pytest

        @pytest.mark.clonedb(keep="none")
        def test_fails(clonedb, clonedb_factory, clonedb_template):
            made = clonedb_factory(), clonedb_factory()
            def seal(connection):  # a database that is a template cannot be dropped
                connection.execute(f'alter database "{made[1].name}" is_template true')
            clonedb_template.server.run(seal)
            assert clonedb is None, "its own failure"

        def test_next(clonedb_connection):
            assert clonedb_connection.execute("select count(*) from item").fetchone() == (1,)
        """,
    )
    outcome = items.pytest().demand(1)
    assert "1 failed, 1 passed, 1 error" in outcome.out
    assert "AssertionError: its own failure" in outcome.out
    assert (
        "ERROR at teardown of test_" in outcome.out
    )  # of whichever was there when it was dropped, behind the tests
    (stuck,) = clones()
    assert "cannot drop a template database" in outcome.out
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(f'alter database "{stuck}" is_template false'.encode())
