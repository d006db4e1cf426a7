"""libpq's variables in the shell, which were meant for another server than the embedded one."""

from __future__ import annotations

import os
import sys

import pytest

from clonedb.postgres import libpq_variables
from tests.projects import Project

# each of them alone keeps libpq from connecting to the embedded server, or changes what its sessions do
HOSTILE = {
    "PGHOST": "production.invalid",
    "PGHOSTADDR": "192.0.2.1",
    "PGPORT": "1",
    "PGDATABASE": "production",
    "PGSSLMODE": "require",
    "PGSSLNEGOTIATION": "direct",
    "PGSSLROOTCERT": "system",
    "PGGSSENCMODE": "require",
    "PGCHANNELBINDING": "require",
    "PGREQUIREAUTH": "none",
    "PGREQUIREPEER": "nobody",
    "PGTARGETSESSIONATTRS": "standby",
    "PGCONNECT_TIMEOUT": "soon",
    "PGCLIENTENCODING": "LATIN1",
    "PGOPTIONS": "-c role=nobody_of_that_name",
    "PGTZ": "Asia/Tokyo",
}
UNSEEN_BY_DRIVERS = {
    "PGSERVICE": "of_that_name_there_is_none",
    "PGTZ": "Nowhere/Never",
    "PGDATESTYLE": "never",
}

TESTS = """
import asyncio, os, subprocess, sys
import asyncpg, psycopg, psycopg2, sqlalchemy as sa

QUERY = "select array_agg(case name when 'seeded' then name when 'Asia/Tokyo' then 'here' else 'elsewhere' end order by id), current_setting('role'), pg_client_encoding() from item"
EXPECTED = (["seeded", "elsewhere"], "none", "UTF8")

def test_fixtures(clonedb, clonedb_connection, clonedb_engine):
    assert clonedb_connection.execute(QUERY).fetchone() == EXPECTED
    with clonedb_engine.connect() as connection:
        assert tuple(connection.execute(sa.text(QUERY)).one()) == EXPECTED
    with clonedb.connect() as connection:
        assert connection.execute(QUERY).fetchone() == EXPECTED

def test_drivers(clonedb_dsn, clonedb_url):
    with psycopg.connect(clonedb_dsn) as connection:
        assert connection.execute(QUERY).fetchone() == EXPECTED
    connection = psycopg2.connect(clonedb_dsn)
    with connection.cursor() as cursor:
        cursor.execute(QUERY)
        assert cursor.fetchone() == EXPECTED
    connection.close()
    async def by_asyncpg():
        connection = await asyncpg.connect(clonedb_dsn)
        found = await connection.fetchrow(QUERY)
        await connection.close()
        return tuple(found)
    assert asyncio.run(by_asyncpg()) == EXPECTED
    engine = sa.create_engine(clonedb_url)
    with engine.connect() as connection:
        assert tuple(connection.execute(sa.text(QUERY)).one()) == EXPECTED
    engine.dispose()

def test_more_databases(clonedb_factory, clonedb_at):
    assert clonedb_factory().name != clonedb_factory().name
    db = clonedb_at("one")
    db.upgrade("+1")
    db.downgrade("-1")

def test_changes(clonedb_engine):
    with clonedb_engine.begin() as connection:
        connection.execute(sa.text("insert into item (name) values ('later')"))

def test_is_clean(clonedb_connection):
    assert clonedb_connection.execute(QUERY).fetchone() == EXPECTED
"""

ROUTED = """
import asyncio, os, subprocess
import asyncpg, psycopg, sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

sync = sa.create_engine("postgresql+psycopg://me@localhost/shop")
asynchronous = create_async_engine("postgresql+asyncpg://me@localhost/shop", poolclass=sa.pool.NullPool)

async def count(engine):
    async with engine.connect() as connection:
        return await connection.scalar(sa.text("select count(*) from item"))

def test_routed(clonedb):
    with sync.connect() as connection:
        assert connection.scalar(sa.text("select count(*) from item")) == 2
    assert asyncio.run(count(asynchronous)) == 2
    assert asyncio.run(count(create_async_engine(os.environ["SHOP_URL"], poolclass=sa.pool.NullPool))) == 2
    assert psycopg.connect("").execute("select count(*) from item").fetchone() == (2,)
"""


@pytest.fixture
def zones(project: Project) -> Project:
    """A project whose rows show in which time zone they were migrated."""
    project.revision(
        "one", 'op.execute("create table item (id serial primary key, name text not null)")'
    )
    migrated = "insert into item (name) values ('seeded'), (current_setting('TimeZone'))"
    project.revision("two", f'op.execute("{migrated}")')
    return project


def test_the_shells_variables_do_not_matter(zones: Project) -> None:
    """clonedb's sessions, migrations and what tests are handed lead to the embedded server, and do what they do there."""
    zones.write("test_it.py", TESTS)
    zones.pytest(**{**HOSTILE, **UNSEEN_BY_DRIVERS}).demand()
    assert (
        "2"
        in zones.clonedb(
            "psql",
            "--",
            "-Atc",
            "select count(*) from item",
            **{**HOSTILE, **UNSEEN_BY_DRIVERS},
        )
        .demand()
        .out
    )
    program = "import psycopg; print(psycopg.connect('').execute('select count(*) from item').fetchone())"
    assert (
        "(2,)"
        in zones.clonedb(
            "run", sys.executable, "-c", program, **{**HOSTILE, **UNSEEN_BY_DRIVERS}
        )
        .demand()
        .out
    )
    zones.clonedb("export", "template.clonedb", **{**HOSTILE, **UNSEEN_BY_DRIVERS}).demand()


def test_clonedbs_own_sessions_need_no_service(zones: Project) -> None:
    """What no parameter takes back is unset for libpq while clonedb connects; the tests keep their environment."""
    zones.write(
        "test_it.py",
        "import os\ndef test_it(clonedb): assert os.environ['PGTZ'] == 'Nowhere/Never'\n",
    )
    zones.pytest(**UNSEEN_BY_DRIVERS).demand()


def test_routed_engines_do_not_mind(zones: Project) -> None:
    """An engine that is led to the clone is led past the variables, too."""
    zones.settings(route=["SHOP_URL"])
    zones.write("test_it.py", ROUTED)
    mild = {
        name: HOSTILE[name] for name in ("PGSSLMODE", "PGHOSTADDR", "PGTARGETSESSIONATTRS")
    } | UNSEEN_BY_DRIVERS
    zones.pytest(SHOP_URL="postgresql+asyncpg://me@localhost/shop", **mild).demand()


def test_what_the_environment_does_not_say_is_not_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without such variables URLs are as short as ever."""
    for name in [*os.environ]:
        if name.startswith("PG"):
            monkeypatch.delenv(name)
    assert libpq_variables.against_environment() == {}
    monkeypatch.setenv("PGSSLMODE", "require")
    assert libpq_variables.against_environment() == {"sslmode": "prefer"}
    monkeypatch.setenv("PGSERVICE", "of_that_name_there_is_none")
    assert libpq_variables.against_environment() == {"sslmode": "prefer"}


@pytest.mark.parametrize("name", libpq_variables.SHAPING)
def test_on_a_server_of_ones_own_they_are_in_the_fingerprint(
    items: Project, server_url: str, name: str
) -> None:
    """There they may be meant, and another value gives another template."""
    values = {
        "PGOPTIONS": "-c enable_sort=off",
        "PGTZ": "Asia/Tokyo",
        "PGDATESTYLE": "German",
        "PGGEQO": "off",
    }
    own = {"CLONEDB_URL": server_url}
    plain = items.clonedb("fingerprint", **own).demand().out
    assert (
        items.clonedb("fingerprint", **own, **{name: values.get(name, "LATIN1")}).demand().out
        != plain
    )
