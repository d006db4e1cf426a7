"""The engine, connection and sessionmaker of the fixtures: what stays from test to test, and what of it does not."""

from __future__ import annotations

import pytest

from tests.projects import Project
from tests.pytest_plugin.plugins import run

OWN = """
import pytest, sqlalchemy as sa

seen, pids = [], []

def pid(engine):
    with engine.connect() as connection:
        return connection.scalar(sa.text("select pg_backend_pid()"))

def test_opens_one(clonedb_engine):
    pids.append(pid(clonedb_engine))

def test_it_stays(clonedb_engine):
    assert pid(clonedb_engine) == pids[0]

def test_listens(clonedb_engine):
    sa.event.listen(clonedb_engine, "connect", lambda *_: seen.append("connect"))
    sa.event.listen(clonedb_engine, "checkout", lambda *_: seen.append("checkout"))
    assert pid(clonedb_engine) not in pids
    assert seen == ["connect", "checkout"]

def test_nobody_listens(clonedb_engine):
    pids.append(pid(clonedb_engine))
    assert seen == ["connect", "checkout"]

@pytest.mark.parametrize("statement", ["prepare mine as select 1", "discard all", "set app.tenant = 'me'"])
def test_leaves_what_no_reset_takes_away(clonedb_engine, statement):
    with clonedb_engine.connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        for _ in range(8):  # psycopg prepares what it has sent five times
            assert connection.scalar(sa.text("select name from item where id = 1")) == "seeded"
        connection.execute(sa.text(statement))

def test_another_one(clonedb_engine):
    pids.append(pid(clonedb_engine))
    assert pids[-1] not in pids[:-1]

def test_the_process_is_in_the_middle_of_something(clonedb_engine):
    connection = clonedb_engine.raw_connection()
    connection.driver_connection.pgconn.send_query(b"select pg_sleep(0.1)")
    connection.driver_connection.pgconn.get_result()
    connection.close()

def test_is_told_of_nothing(clonedb_engine):
    with clonedb_engine.connect() as connection:
        assert connection.scalar(sa.text("select count(*) from item")) == 1

def test_many_at_once(clonedb_engine):
    connections = [clonedb_engine.connect() for _ in range(4)]
    for number, connection in enumerate(connections):
        connection.execute(sa.text("select set_config('work_mem', '7MB', false), pg_advisory_lock(:n)"), {"n": number})
        connection.commit()
        connection.close()

def test_all_are_as_good_as_new(clonedb_engine):
    connections = [clonedb_engine.connect() for _ in range(4)]
    locks = "select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())"
    for connection in connections:
        assert connection.scalar(sa.text("show work_mem")) == "4MB"
        assert connection.scalar(sa.text(locks)) == 0
        connection.close()
"""

SESSIONS = """
import sqlalchemy as sa

heard, classes = [], []

def test_a_sessionmaker(clonedb_sessionmaker, clonedb_session):
    classes.append(clonedb_sessionmaker.class_)
    assert type(clonedb_session) is clonedb_sessionmaker.class_
    clonedb_sessionmaker.configure(info={"left": "behind"})

def test_sessions_are_of_the_same_class(clonedb_sessionmaker):
    assert clonedb_sessionmaker.class_ is classes[0]
    assert clonedb_sessionmaker().info == {}
    sa.event.listen(clonedb_sessionmaker, "after_begin", lambda *_: heard.append("begin"))
    with clonedb_sessionmaker() as session:
        session.connection()
    assert heard == ["begin"]

def test_nobody_listens(clonedb_session):
    clonedb_session.connection()
    assert heard == ["begin"]
    type(clonedb_session).left = "behind"

def test_nothing_is_left_behind(clonedb_session):
    assert not hasattr(clonedb_session, "left")
"""


@pytest.mark.parametrize("route", [[], ["*"]], ids=["alone", "routed"])
def test_the_engine_of_the_fixtures(items: Project, route: list[str]) -> None:
    """A routed application changes nothing for it, and what a test listens to is told of its own connections only."""
    items.settings(route=route)
    items.write("test_it.py", OWN)
    run(items).demand()


@pytest.mark.parametrize("isolation", ["auto", "rollback"])
def test_sessionmakers(items: Project, isolation: str) -> None:
    """Each test has its own; the class of their sessions is the last test's if that left nothing in it."""
    items.settings(isolation=isolation)
    items.write("test_it.py", SESSIONS)
    run(items).demand()
