"""`auto`: used clones handed on when they are as new, and replaced when that is not certain."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.campaigns import VARIANT
from tests.projects import Project

TESTS = """
import os, psycopg, pytest, sqlalchemy as sa

STATE = '''
    select (select array_agg(i order by id) from item i)::text, (select count(*) from log),
           (select array_agg(a) from "Odd Names"."a table" a)::text, (select array_agg(h)::text from hen h),
           (select array_agg(p)::text from part p)
'''
FRESH = ('{"(1,seeded,seededseeded)","(2,also,alsoalso)"}', 2, '{"(1,1)"}', '{"(1,1)"}', '{"(1,a)"}')
names = []

def demand_fresh(dsn):
    with psycopg.connect(dsn) as connection:
        assert connection.execute(STATE).fetchone() == FRESH

@pytest.mark.parametrize("number", range(4))
def test_writes(clonedb, number):
    demand_fresh(clonedb.dsn)
    names.append(clonedb.name)
    with clonedb.connect() as connection:
        assert connection.execute("insert into item (name) values ('new') returning id").fetchone() == (3,)
        assert connection.execute("select nextval('own_numbers')").fetchone() == (105,)
        connection.execute('insert into "Odd Names"."a table" (item) values (3)')
        connection.execute("delete from egg; update hen set egg = null; delete from part")

def test_by_the_fixtures_connections(clonedb, clonedb_connection, clonedb_session, clonedb_engine):
    demand_fresh(clonedb.dsn)
    names.append(clonedb.name)
    clonedb_connection.autocommit = True
    clonedb_connection.execute("set search_path to nowhere; set role pg_monitor")
    clonedb_connection.row_factory = psycopg.rows.dict_row
    clonedb_session.execute(sa.text("set statement_timeout = '1ms'"))
    clonedb_session.execute(sa.text("select pg_advisory_lock(1)"))
    clonedb_session.commit()
    sa.event.listen(clonedb_engine, "before_cursor_execute", lambda *_: names.append("listened"))

def test_connections_are_as_new(clonedb, clonedb_connection, clonedb_session, clonedb_engine):
    demand_fresh(clonedb.dsn)
    names.append(clonedb.name)
    query = "select current_setting('search_path'), current_user = session_user, current_setting('statement_timeout')"
    assert clonedb_connection.execute(query).fetchone() == ('"$user", public', True, "0")
    assert tuple(clonedb_session.execute(sa.text(query)).one()) == ('"$user", public', True, "0")
    assert clonedb_session.scalar(sa.text("select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())")) == 0
    assert "listened" not in names
    for _ in range(12):
        clonedb_connection.execute("select name from item where id = %s", [1])
        clonedb_session.execute(sa.text("select name from item where id = :id"), {"id": 1})

@pytest.mark.parametrize("number", range(3))
def test_prepared_statements_go_on(clonedb_connection, clonedb_session, number):
    for _ in range(12):
        clonedb_connection.execute("select name from item where id = %s", [1])
        clonedb_session.execute(sa.text("select name from item where id = :id"), {"id": 1})

def test_one_clone_served_them_all(clonedb):
    assert set(names) == {clonedb.name}

def test_ddl(clonedb_connection, clonedb):
    clonedb_connection.execute("create table more (id int)")
    clonedb_connection.commit()
    names.append(clonedb.name)

def test_after_ddl(clonedb, clonedb_session):
    demand_fresh(clonedb.dsn)
    assert names[-1] != clonedb.name

@pytest.mark.clonedb(isolation="clone")
def test_clone_stays_what_it_is(clonedb):
    names.append(clonedb.name)

def test_auto_goes_on_with_its_own(clonedb):
    assert clonedb.name != names[-1]
"""


@pytest.mark.usefixtures("own_server")
@pytest.mark.parametrize(
    "arguments",
    [(), pytest.param(("-n", "2", "--dist", "loadfile"), marks=VARIANT)],
    ids=["alone", "xdist"],
)
def test_one_clone_goes_from_test_to_test(shop: Project, arguments: tuple[str, ...]) -> None:
    """The same URL and the same open connections, each as good as new; DDL costs a new clone."""
    shop.write("test_it.py", TESTS)
    outcome = shop.pytest("-W", "error", "--clonedb-report", *arguments).demand()
    assert "14 passed" in outcome.out
    assert (
        "after their tests 4 rewound, 8 only read, 1 not rewound, so that the next test got a new clone"
        in outcome.out
    )
    assert "  1 not rewound: a catalog was written (DDL)" in outcome.out
    assert "; 3 clones;" in outcome.out


SETTINGS = """
import pytest, sqlalchemy as sa

WAYS = ["set app.tenant = '1'", "set local app.tenant = '1'", "select set_config('app.tenant', '1', false)", CALL]

@pytest.mark.parametrize("way", WAYS * 2)
def test_psycopg(clonedb_connection, way):
    assert clonedb_connection.execute("select current_setting('app.tenant', true)").fetchone() == (None,)
    clonedb_connection.execute(way)
    clonedb_connection.commit()

@pytest.mark.parametrize("way", WAYS * 2)
def test_sqlalchemy(clonedb_session, way):
    assert clonedb_session.scalar(sa.text("select current_setting('app.tenant', true)")) is None
    clonedb_session.execute(sa.text(way))
    clonedb_session.commit()
"""


@pytest.mark.parametrize("hidden", [False, True])
def test_a_setting_of_nobodys_is_not_there_for_the_next_test(
    shop: Project, *, hidden: bool
) -> None:
    """RESET would leave '' where a new session has NULL, also if a function of the project's made the setting."""
    call = "select 1"
    if hidden:
        call = "select tenant()"
        shop.revision(
            "two",
            "op.execute(\"create function tenant() returns text language sql as $$ select set_config('app.tenant', '1', false) $$\")",
        )
    shop.write("test_it.py", SETTINGS.replace("CALL", repr(call)))
    shop.pytest("-W", "error").demand()


def test_a_setting_of_a_neighbour_s(shop: Project, admin_dsn: str, prefix: str) -> None:
    """Another database of the server, or another role, that gives its sessions a setting of the same name is no reason."""
    create = "op.execute(\"create function tenant() returns text language sql as $$ select set_config('app.tenant', '1', false) $$\")"
    shop.revision("two", create)
    shop.write("test_it.py", SETTINGS.replace("CALL", repr("select tenant()")))
    name = f"{prefix}_neighbour"
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
        connection.execute(f"create role {name}".encode())
        try:
            connection.execute(f"alter database {name} set app.tenant = 'other'".encode())
            connection.execute(f"alter role {name} set app.tenant = 'other'".encode())
            shop.pytest("-W", "error").demand()
        finally:
            connection.execute(f"drop database {name}".encode())
            connection.execute(f"drop role {name}".encode())


def test_a_server_that_cannot_be_read(
    shop: Project, server_url: str, admin_dsn: str, prefix: str
) -> None:
    """A role that is no superuser gets a clone for every test, and is told once."""
    from clonedb.url import DatabaseURL

    role = f"{prefix}_plain"
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(f"create role {role} login createdb password 'x'")
        try:
            shop.environment["CLONEDB_URL"] = (
                DatabaseURL.parse(server_url).replace(user=role, password="x").render()
            )
            shop.environment["CLONEDB_PREFIX"] = f"{prefix}_p"
            shop.write(
                "test_it.py",
                "import pytest\n@pytest.mark.parametrize('n', range(3))\ndef test_it(clonedb, n): pass\n",
            )
            outcome = shop.pytest("-n", "2").demand()
            assert outcome.out.count("no rewinding, every test got a new clone: role") == 1
            assert "; 3 clones;" in outcome.out
        finally:
            shop.clonedb("drop", "--all").demand()
            connection.execute(f"drop role {role}")


def test_a_failed_tests_database_is_kept_as_it_left_it(
    shop: Project, clones: Callable[[], list[str]]
) -> None:
    """Keeping wins over rewinding; the next test gets another."""
    shop.write(
        "test_it.py",
        """
        def test_fails(clonedb_connection, clonedb):
            clonedb_connection.execute("insert into item (name) values ('evidence')")
            clonedb_connection.commit()
            assert 0, clonedb.dsn

        def test_next(clonedb_connection):
            assert clonedb_connection.execute("select count(*) from item").fetchone() == (2,)
        """,
    )
    outcome = shop.pytest().demand(1)
    assert "1 failed, 1 passed" in outcome.out
    (name,) = clones()
    query = "select count(*) from item where name = 'evidence'"
    assert "1" in shop.clonedb("psql", name, "-Atc", query).demand().out.split()


FORGETFUL = """
import clonedb.rewind.witness as witness

really = witness.sort_out

def sort_out(*arguments):
    written = really(*arguments)
    written.gained.clear()
    return written

witness.sort_out = sort_out
"""

VERIFIED = """
import pytest

@pytest.mark.parametrize("number", range(3))
def test_it(clonedb_connection, number):
    clonedb_connection.execute("insert into item (id, name) values (%s, 'new')", [100 + number])
    clonedb_connection.execute("create temporary table t (id int)")
    clonedb_connection.commit()
"""


@pytest.mark.campaign("long")
def test_a_rewound_database_is_compared_with_a_new_one_on_demand(items: Project) -> None:
    """With CLONEDB_VERIFY=1 what a broken rewinding leaves is an error that names table and row, and else nothing is."""
    items.write("test_it.py", VERIFIED)
    outcome = items.pytest(CLONEDB_VERIFY="1", CLONEDB_ISOLATION="auto").demand()
    assert "3 rewound" in outcome.out, outcome.text
    items.write("conftest.py", FORGETFUL)
    items.pytest(CLONEDB_ISOLATION="auto").demand()
    outcome = items.pytest(CLONEDB_VERIFY="1", CLONEDB_ISOLATION="auto").demand(1)
    assert "3 passed, 3 errors" in outcome.out, outcome.text
    assert "was rewound after the test, but differs from a new clone" in outcome.out
    assert "public.item" in outcome.out
