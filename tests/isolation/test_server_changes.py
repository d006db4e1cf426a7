"""Roles and what else belongs to the whole server: undone on clonedb's own server, told of on somebody else's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from tests.campaigns import VARIANT
from tests.projects import Project
from tests.rewind.ordinary import ordinary_server

# Each statement is run by one test, and the next one looks. `old` are roles that were there before.
TESTS = """
import os, subprocess, sys
import psycopg, pytest

NAME = os.environ["NAME"]
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
NEW, OLD, OTHERS = f"{NAME}_new_{WORKER}", f"{NAME}_old_{WORKER}", f"{NAME}_others"
STATEMENTS = {
    "role": f"create role {NEW}; grant select on item to {NEW}; create table owned (); alter table owned owner to {NEW}",
    "setting": f"alter role current_user set {NEW}.made = 'yes'",
    "membership": f"grant {OLD} to pg_monitor",
}
CLEAN = [
    f"not exists (select from pg_roles where rolname = '{NEW}')",
    f"current_setting('{NEW}.made', true) is null",
    f"not exists (select from pg_auth_members where roleid = '{OLD}'::regrole)",
]
ISOLATIONS = [pytest.param(name, marks=pytest.mark.clonedb(isolation=name)) for name in ("auto", "clone")]

def run(dsn, statements):
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statements)

@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("kind", STATEMENTS)
def test_makes(clonedb_dsn, clonedb_connection, kind, isolation):
    looks(clonedb_connection)
    run(clonedb_dsn, STATEMENTS[kind])
    run(clonedb_dsn, "select 1")  # a session that has the setting

@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_looks(clonedb_connection, isolation):
    looks(clonedb_connection)

def looks(connection):
    for clean in CLEAN:
        assert connection.execute(f"select {clean}").fetchone() == (True,), clean
"""

BESIDE = """
def test_others(clonedb_connection, tmp_path):
    clonedb_connection.execute("create table mine (id int)")
    clonedb_connection.commit()
    run(os.environ["ADMIN"], f"create role {OTHERS}")
    subprocess.run([sys.executable, "-m", "clonedb", "build"], cwd=os.environ["BESIDE"], check=True)
    assert clonedb_connection.execute(
        f"select count(*) from pg_roles where rolname in ('{OTHERS}', '{NAME}_built', '{NAME}_configured')"
    ).fetchone() == (3,)
"""

KEPT = """
import psycopg, pytest, os

NAME = os.environ["NAME"]

def run(dsn, statements):
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statements)

def test_whose_database_is_handed_on(clonedb_dsn):
    run(clonedb_dsn, "insert into item (name) values ('x')")

def test_fails(clonedb_dsn):
    run(clonedb_dsn, f"create role {NAME}_alone")
    assert False

def test_fails_and_needs_it(clonedb_dsn):
    run(clonedb_dsn, f"create role {NAME}_needed; grant select on item to {NAME}_needed")
    assert False
"""

ELSEWHERE = """
import psycopg, pytest, os

NAME = os.environ["NAME"]

def run(dsn, statements):
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statements)

def test_makes(clonedb_dsn):
    run(clonedb_dsn, f"create role {NAME}_new login password 'SECRET'; alter role {NAME}_old set work_mem = '9MB'")

@pytest.mark.filterwarnings("error::clonedb.ServerChangedWarning")
def test_strict(clonedb_dsn):
    run(clonedb_dsn, f"create role {NAME}_strict")

def test_cleans(clonedb_dsn):
    run(clonedb_dsn, f"create role {NAME}_mine")
    run(clonedb_dsn, f"drop role {NAME}_mine")

def test_reads(clonedb_dsn):
    run(clonedb_dsn, f"select * from item")
"""


_numbers = itertools.count()


@pytest.fixture
def name(prefix: str, admin_dsn: str, items: Project) -> Iterator[str]:
    """What the roles of a test's project are called; those of each worker that are `old` are there."""
    name = f"{prefix}_{next(_numbers)}"
    items.environment |= {"NAME": name, "ADMIN": admin_dsn}
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        for old in ("old", "old_gw0", "old_gw1"):
            connection.execute(SQL("create role {}").format(Identifier(f"{name}_{old}")))
    yield name
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        for role in roles(admin_dsn, name):
            connection.execute(SQL("drop role {}").format(Identifier(f"{name}_{role}")))


def roles(dsn: str, name: str) -> list[str]:
    """The rest of the names of those roles that begin so."""
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "select rolname from pg_roles where starts_with(rolname, %s) order by 1", [name]
        )
        return [role.removeprefix(f"{name}_") for (role,) in found]


@pytest.mark.campaign("long")
@pytest.mark.parametrize(
    "arguments", [(), pytest.param(("-n", "2"), marks=VARIANT)], ids=["alone", "xdist"]
)
def test_what_tests_make_is_undone(
    items: Project,
    name: str,
    admin_dsn: str,
    arguments: tuple[str, ...],
    make_project: Callable[[str], Project],
) -> None:
    """And nothing else: not the configured roles, not those of a build, nor of whoever else is on the server."""
    beside = make_project("beside")
    beside.revision("one", f"op.execute('create role {name}_built')")
    items.settings(roles=[f"{name}_configured"])
    items.environment["BESIDE"] = str(beside.directory)
    items.write("test_it.py", TESTS + BESIDE)
    outcome = items.pytest("-p", "no:randomly", *arguments).demand()
    assert "Warning" not in outcome.out
    assert roles(admin_dsn, name) == [
        "built",
        "configured",
        "old",
        "old_gw0",
        "old_gw1",
        "others",
    ]


def test_one_test_alone(items: Project, name: str, admin_dsn: str) -> None:
    """Its database is a clone that is dropped at once, and the next run meets nothing of it."""
    items.write("test_it.py", TESTS)
    items.pytest("test_it.py::test_makes[role-auto]").demand()
    assert roles(admin_dsn, name) == ["old", "old_gw0", "old_gw1"]


def test_a_database_that_is_kept(items: Project, name: str, admin_dsn: str) -> None:
    """A role that has something in it stays, which is told with the server's reason."""
    items.write("test_it.py", KEPT)
    outcome = items.pytest("-p", "no:randomly").demand(1)
    assert "2 failed, 1 passed, 1 warning" in outcome.out
    assert (
        f"test_it.py::test_fails_and_needs_it made role '{name}_needed' on embedded server"
        in outcome.out
    )
    assert (
        f'(role "{name}_needed" cannot be dropped because some objects depend on it: '
        in outcome.out
    )
    assert roles(admin_dsn, name) == ["needed", "old", "old_gw0", "old_gw1"]
    items.clonedb("drop", "--all").demand()


def test_somebody_elses_server(items: Project, prefix: str, postgres_bin: str | None) -> None:
    """Nothing is undone, as others may want it; a warning has the test's name, and says how to undo it."""
    name = f"{prefix}_elsewhere"
    items.write("test_it.py", ELSEWHERE)
    # not the run's own server, on which other tests make roles at the same time
    with ordinary_server(postgres_bin, "fsync=off") as url:
        items.environment |= {"NAME": name, "ADMIN": url, "CLONEDB_URL": url}
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(SQL("create role {}").format(Identifier(f"{name}_old")))
        outcome = items.pytest("-p", "no:randomly").demand(1)
        assert roles(url, name) == ["new", "old", "strict"]
    assert "4 passed, 1 warning, 1 error" in outcome.out
    assert (
        f"ServerChangedWarning: test_it.py::test_makes changed settings of role '{name}_old' (work_mem) and made role"
        f" '{name}_new' on server '" in outcome.out
    )
    assert f'alter role "{name}_old" reset "work_mem"; drop role "{name}_new"' in outcome.out
    assert (
        f"ServerChangedWarning: test_it.py::test_strict made role '{name}_strict' on server"
        in outcome.out
    )
    assert "SECRET" not in outcome.text
