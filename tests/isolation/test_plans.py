"""Plans that connections keep from test to test hold nothing of an earlier test."""

from __future__ import annotations

import pytest

from tests.projects import Project

SCHEMA = """
op.execute('''
    create table event (at timestamptz not null);
    insert into event values ('2024-01-01 00:00+00'), ('2023-12-31 20:00+00');
    create function events() returns bigint language plpgsql as $$
        begin return (select count(*) from event where at >= timestamptz '2024-01-01 00:00'); end $$;
    create table rate (value numeric not null);
    insert into rate values (2);
    create function rate() returns numeric language sql immutable as 'select value from rate';
    create function in_rate(n numeric) returns numeric language plpgsql as $$ begin return n * rate(); end $$;
    create function first_staged() returns text language plpgsql as $$
        declare r record; begin select * into r from staging limit 1; return r.a + 1; end $$;
''')
"""

TESTS = """
import psycopg, pytest, sqlalchemy as sa

@pytest.fixture(params=["connection", "session"])
def run(request):
    if request.param == "connection":
        connection = request.getfixturevalue("clonedb_connection")
        yield lambda statement: connection.execute(statement)
        connection.commit()
    else:
        session = request.getfixturevalue("clonedb_session")
        yield lambda statement: session.execute(sa.text(statement))
        session.commit()

EVENTS = "select events(), (select count(*) from event where at >= timestamptz '2024-01-01 00:00')"

@pytest.mark.parametrize("zone, counted", [("Asia/Tokyo", 2), ("UTC", 1)] * 2)
def test_literals_mean_what_the_settings_say(run, zone, counted):
    run(f"set time zone '{zone}'")
    for _ in range(7):  # psycopg prepares what it has seen five times
        assert tuple(run(EVENTS).fetchone()) == (counted, counted)

@pytest.mark.parametrize("rate", [3, 4])
def test_functions_that_are_called_immutable(run, rate):
    assert run("select in_rate(1)").fetchone()[0] == 2
    run(f"update rate set value = {rate}")

@pytest.mark.parametrize("columns, values, staged", [("a int", "1", "2"), ("b text, a numeric", "'q', 1.5", "2.5"), ("a date", "'2020-01-01'", "2020-01-02")])
@pytest.mark.parametrize("kind", ["temporary", ""])
def test_tables_of_one_name(run, clonedb, kind, columns, values, staged):
    run(f"create {kind} table staging ({columns})")
    run(f"insert into staging values ({values})")
    for _ in range(7):
        assert run("select first_staged()").fetchone()[0] == staged
        assert len(run("select * from staging").fetchone()) == columns.count(",") + 1
    if not kind:
        run("commit")
        with psycopg.connect(clonedb.dsn, autocommit=True) as other:
            other.execute("drop table staging")
"""


def test_what_was_planned_for_a_test_ends_with_it(project: Project) -> None:
    """What literals meant, what functions gave that are declared immutable, and the columns of tables that are gone."""
    project.revision("one", SCHEMA)
    project.write("test_it.py", TESTS)
    outcome = project.pytest("--clonedb-isolation=auto").demand()
    assert "24 passed" in outcome.out


PASSING = """
import psycopg, pytest, sqlalchemy as sa

LATE = sa.text("select count(*) from event where at >= timestamptz '2024-01-01 00:00'")

def test_calls_a_function_that_came_and_went(clonedb_session, clonedb):
    with psycopg.connect(clonedb.dsn, autocommit=True) as other:
        other.execute("create function tokyo() returns text language sql"
                      " as $$ select set_config('timezone', 'Asia/Tokyo', false) $$")
        clonedb_session.execute(sa.text("select tokyo()"))
        for _ in range(7):
            assert clonedb_session.scalar(LATE) == 2
        clonedb_session.commit()
        other.execute("drop function tokyo()")

def test_counts(clonedb_session):
    for _ in range(7):
        assert clonedb_session.scalar(LATE) == 1
"""


@pytest.mark.parametrize("isolation", ["auto", "truncate"])
def test_a_function_that_came_and_went(project: Project, isolation: str) -> None:
    """It may have changed a setting, which no statement of the session says."""
    project.revision("one", SCHEMA.partition("create table rate")[0] + "''')\n")
    project.write("test_it.py", PASSING)
    outcome = project.pytest(f"--clonedb-isolation={isolation}").demand()
    assert "2 passed" in outcome.out


BROUGHT = """
import sqlalchemy as sa

LATE = sa.text("select count(*) from event where at >= timestamptz '2024-01-01 00:00'")
RUN = sa.text("select run(:statement)")

def test_brings_a_statement(clonedb_session):
    clonedb_session.execute(RUN, {"statement": "se" + "t time zone 'Asia/Tokyo'"})
    for _ in range(7):
        assert clonedb_session.scalar(LATE) == 2
    clonedb_session.commit()

def test_counts(clonedb_session):
    for _ in range(7):
        assert clonedb_session.scalar(LATE) == 1
"""


def test_a_function_that_runs_what_it_is_given(project: Project) -> None:
    """A parameter may bring a statement that changes a setting, which neither the statement nor the function says."""
    run = "create function run(text) returns void language plpgsql as $$ begin execute $1; end $$;\n''')\n"
    project.revision("one", SCHEMA.partition("create table rate")[0] + run)
    project.write("test_it.py", BROUGHT)
    outcome = project.pytest("--clonedb-isolation=auto").demand()
    assert "2 passed" in outcome.out
