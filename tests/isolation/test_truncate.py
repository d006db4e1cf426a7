"""`truncate`: what a test finds after others have written, and what a first new row looks like."""

from __future__ import annotations

import psycopg
import pytest

from clonedb.embedded.leases import Lease
from tests.campaigns import VARIANT
from tests.projects import Project, databases

TESTS = """
import pytest, psycopg

STATE = '''
    select (select array_agg(i order by id) from item i)::text, (select count(*) from log),
           (select array_agg(a) from "Odd Names"."a table" a)::text, (select array_agg(h)::text from hen h),
           (select array_agg(p)::text from part p), (select array_agg(v)::text from alembic_version v)
'''

FRESH = ('{"(1,seeded,seededseeded)","(2,also,alsoalso)"}', 2, '{"(1,1)"}', '{"(1,1)"}', '{"(1,a)"}', '{(one)}')

def state(dsn):
    with psycopg.connect(dsn) as connection:
        return connection.execute(STATE).fetchone()

@pytest.mark.parametrize("number", range(3))
def test_writes(clonedb, number):
    assert state(clonedb.dsn) == FRESH
    with clonedb.connect() as connection:
        assert connection.execute("insert into item (name) values ('new') returning id").fetchone() == (3,)
        assert connection.execute("select nextval('own_numbers')").fetchone() == (105,)
        connection.execute('insert into "Odd Names"."a table" (item) values (3)')
        connection.execute("delete from egg; update hen set egg = null; truncate part")
        connection.execute("create table more (id int); insert into more values (1)")
        connection.execute("drop table more")

def test_takes_a_table_away(clonedb):
    with clonedb.connect() as connection:
        connection.execute("drop table egg cascade")

def test_after_that_there_is_a_new_clone(clonedb):
    assert state(clonedb.dsn) == FRESH
"""


@pytest.mark.parametrize(
    "arguments", [pytest.param((), marks=VARIANT), ("-n", "2")], ids=["alone", "xdist"]
)
def test_the_templates_rows_are_back(shop: Project, arguments: tuple[str, ...]) -> None:
    """Rows, generated columns, identities, partitions and cycles are the template's, and no trigger has fired."""
    shop.write("test_it.py", TESTS)
    outcome = shop.pytest("--clonedb-isolation=truncate", *arguments).demand()
    assert "5 passed" in outcome.out
    if not arguments:
        assert "2 clones" in outcome.out


SESSIONS = """
import clonedb, pytest, sqlalchemy as sa

PID = "select pg_backend_pid()"
pids = []

@pytest.mark.parametrize("number", range(3))
def test_a_session_stays_open(clonedb_session, clonedb_connection, number):
    pids.append((clonedb_session.scalar(sa.text(PID)), *clonedb_connection.execute(PID).fetchone()))
    assert len({*pids}) == 1
    assert clonedb_connection.execute("show search_path").fetchone() == ('"$user", public',)
    assert clonedb_session.scalar(sa.text("select count(*) from item")) == 2
    clonedb_session.execute(sa.text("set search_path = nowhere"))
    clonedb_connection.execute("listen channel")
    clonedb_session.commit()
    clonedb_connection.commit()

left = []

@pytest.mark.filterwarnings("ignore::clonedb.LeakedConnectionWarning")
def test_leaves_one_open_in_a_transaction(clonedb):
    left.append(clonedb.connect())
    left[0].execute("delete from part")

def test_which_was_ended(clonedb_connection):
    query = "select count(*) from pg_stat_activity where pid = %s"
    assert clonedb_connection.execute(query, [left[0].info.backend_pid]).fetchone() == (0,)
    with pytest.raises(clonedb.EndedTestError):
        left[0].execute("select 1")
    assert clonedb_connection.execute("select count(*) from part").fetchone() == (1,)

def test_ends_every_other_session(clonedb_connection):
    clonedb_connection.execute("select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()")

def test_has_a_new_clone(clonedb_connection):
    assert clonedb_connection.execute("select count(*) from part").fetchone() == (1,)
"""


def test_sessions_stay_open(shop: Project) -> None:
    """Those of the fixtures go from test to test as new, a test's own is ended, and clonedb's may be ended by a test."""
    shop.write("test_it.py", SESSIONS)
    outcome = shop.pytest("--clonedb-isolation=truncate").demand()
    assert "7 passed" in outcome.out
    assert "2 clones" in outcome.out


ELSEWHERE = """
import pytest

@pytest.mark.parametrize("number", range(2))
def test_writes(clonedb, number):
    with clonedb.connect() as connection:
        assert connection.execute("select count(*) from item").fetchone() == (1,)
        connection.execute("insert into item values (2)")
"""


def test_another_access_method(project: Project) -> None:
    """Whether its rows tell when they were written is not known: each test gets a new clone, and the report says why."""
    project.revision(
        "one",
        "op.execute('create access method other type table handler heap_tableam_handler')\n"
        "op.execute('create table item (id int) using other')\n"
        "op.execute('insert into item values (1)')",
    )
    project.write("test_it.py", ELSEWHERE)
    outcome = project.pytest("--clonedb-isolation=truncate", "--clonedb-report").demand()
    assert "2 clones" in outcome.out
    assert "public.item is stored by access method 'other', not by 'heap'" in outcome.out


def test_a_table_that_cannot_be_counted(
    project: Project, lease: Lease, admin_dsn: str, prefix: str
) -> None:
    """The server refuses to read it, as it may a distributed table: the report has its name and what the server said."""
    project.environment["CLONEDB_PREFIX"] = f"{prefix}_damaged"
    project.revision(
        "one",
        "op.execute('create table item (id int)')\nop.execute('create table other (id int)')\n"
        "op.execute('insert into item values (1)')\nop.execute('insert into other values (1)')",
    )
    project.clonedb("build").demand()
    (template,) = databases(admin_dsn, f"{prefix}_damaged")
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(f"alter database {template} allow_connections true")
        with psycopg.connect(admin_dsn, dbname=template, autocommit=True) as connection:
            row = connection.execute("select pg_relation_filepath('item')").fetchone()
        admin.execute(f"alter database {template} allow_connections false")
        admin.execute("checkpoint")
    assert row
    (lease.data_dir / row[0]).write_bytes(b"no page of a table" * 1024)
    project.write("test_it.py", ELSEWHERE.replace(" item", " other"))
    outcome = project.pytest("--clonedb-isolation=truncate", "--clonedb-report").demand()
    assert "2 clones" in outcome.out
    assert "the rows of public.item cannot be counted: invalid page in block 0" in outcome.out


def test_without_the_right_to_silence_triggers(
    shop: Project, server_url: str, admin_dsn: str, prefix: str
) -> None:
    """A role that is no superuser is told what to grant, and is content when it has that."""
    from clonedb.url import DatabaseURL

    role = f"{prefix}_limited"
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(f"create role {role} login createdb password 'x'")
        major = connection.info.server_version // 10000
    try:
        shop.environment["CLONEDB_URL"] = (
            DatabaseURL.parse(server_url).replace(user=role, password="x").render()
        )
        shop.environment["CLONEDB_PREFIX"] = f"{prefix}_l"
        shop.write("test_it.py", "def test_it(clonedb): pass\n")
        outcome = shop.pytest("--clonedb-isolation=truncate").demand(1)
        assert "GRANT SET ON PARAMETER session_replication_role" in outcome.out
        if major >= 15:
            with psycopg.connect(admin_dsn, autocommit=True) as connection:
                connection.execute(f"grant set on parameter session_replication_role to {role}")
            shop.write("test_it.py", TESTS)
            shop.pytest("--clonedb-isolation=truncate").demand()
    finally:
        shop.clonedb("drop", "--all").demand()
        with psycopg.connect(admin_dsn, autocommit=True) as connection:
            connection.execute(f"drop owned by {role}; drop role {role}")
