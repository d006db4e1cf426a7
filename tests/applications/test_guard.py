"""The application's own database, which neither a test nor a migration reaches by a driver of its own."""

from __future__ import annotations

import socket

import pytest

from clonedb.url import DatabaseURL
from tests.projects import Project

CONNECTS = """
import asyncio, os
import asyncpg, psycopg, psycopg2, pytest

REAL = os.environ["REAL"]

async def by_asyncpg(dsn):
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval("select current_database()")
    finally:
        await connection.close()

async def by_async_psycopg(dsn):
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        return connection.info.dbname

def by_libpq(connection):
    try:
        return connection.info.dbname
    finally:
        connection.close()

WAYS = {
    "psycopg": lambda dsn: by_libpq(psycopg.connect(dsn)),
    "async psycopg": lambda dsn: asyncio.run(by_async_psycopg(dsn)),
    "psycopg2": lambda dsn: by_libpq(psycopg2.connect(dsn)),
    "asyncpg": lambda dsn: asyncio.run(by_asyncpg(dsn)),
}
"""

TESTS = (
    CONNECTS
    + """
import clonedb

@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("host", ["127.0.0.1", os.environ["HOST_NAME"]])
def test_without_a_database(way, host):
    with pytest.raises(clonedb.RoutingError, match="ask for the fixture `clonedb`"):
        WAYS[way](REAL.replace("127.0.0.1", host))

@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("host", ["127.0.0.1", os.environ["HOST_NAME"]])
def test_with_a_database(way, host, clonedb, clonedb_dsn):
    urls = [REAL.replace("127.0.0.1", host), clonedb_dsn, os.environ["SHOP_URL"]]
    assert [WAYS[way](url) for url in urls] == [clonedb.name] * 3

def test_by_libpqs_variables(monkeypatch):
    monkeypatch.setenv("PGDATABASE", "{database}")
    with pytest.raises(clonedb.RoutingError):
        psycopg.connect("host=127.0.0.1 port={port}")

def test_another_one_is_no_business_of_clonedbs(clonedb):
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect("postgresql://nobody@127.0.0.1:1/elsewhere")
"""
)


@pytest.fixture
def real(empty_database_url: str) -> DatabaseURL:
    """The application's database, on the same server as the clones."""
    return DatabaseURL.parse(empty_database_url).replace(driver=None)


def test_drivers_do_not_reach_the_applications_database(
    items: Project, real: DatabaseURL
) -> None:
    """By whatever driver, and by another name of its host: led to the clone, refused with what to write without one."""
    items.settings(route=["SHOP_URL"])
    items.write(
        "test_it.py",
        TESTS.replace("{database}", str(real.database)).replace("{port}", str(real.port)),
    )
    url = real.render()
    items.pytest(SHOP_URL=url, REAL=url, HOST_NAME=socket.gethostname()).demand()


@pytest.mark.parametrize("way", ["psycopg", "psycopg2", "asyncpg"])
def test_migrations_reach_only_the_database_that_is_built(
    project: Project, real: DatabaseURL, way: str
) -> None:
    """A revision that connects by itself is refused elsewhere, and led by the variable, in the form that it had."""
    project.write("connects.py", CONNECTS)
    project.revision(
        "one",
        f"""
        op.execute("create table item (id int)")
        from connects import WAYS
        assert os.environ["DATABASE_URL"].startswith("postgresql://")
        WAYS[{way!r}](os.environ["DATABASE_URL"])
        WAYS[{way!r}](os.environ["REAL"])
        """,
    )
    url = real.render()
    outcome = project.clonedb("build", DATABASE_URL=url, REAL=url).demand(1)
    assert (
        f"a connection to database {real.database!r} at localhost:{real.port} was refused"
        in outcome.err
    )
    assert str(real.password) not in outcome.text


SERVICE = """
import asyncio
import asyncpg, psycopg, psycopg2, pytest
from clonedb import RoutingError

async def by_asyncpg(*dsn, **keywords):
    connection = await asyncpg.connect(*dsn, **keywords)
    try:
        return await connection.fetchval("select current_database()")
    finally:
        await connection.close()

def by_libpq(connection):
    try:
        return connection.info.dbname
    finally:
        connection.close()

WAYS = {
    "psycopg": lambda: by_libpq(psycopg.connect("service=shop")),
    "psycopg2": lambda: by_libpq(psycopg2.connect(service="shop")),
    "asyncpg": lambda: asyncio.run(by_asyncpg(service="shop")),
    "asyncpg's URL": lambda: asyncio.run(by_asyncpg("postgresql://?service=shop")),
}

@pytest.mark.parametrize("way", WAYS)
def test_without_a_database(way):
    with pytest.raises(RoutingError, match="ask for the fixture `clonedb`"):
        WAYS[way]()

@pytest.mark.parametrize("way", WAYS)
def test_with_a_database(way, clonedb):
    assert WAYS[way]() == clonedb.name
"""


@pytest.fixture
def home(project: Project, real: DatabaseURL) -> str:
    """A home directory with a service file that names the application's database."""
    directory = project.directory / "home"
    named = "".join(f"{name}={value}\n" for name, value in real.conninfo().items())
    project.write("home/.pg_service.conf", f"[shop]\n{named}")
    return str(directory)


def test_a_service_does_not_lead_to_the_applications_database(
    items: Project, real: DatabaseURL, home: str
) -> None:
    """What a service file says wins over libpq's variables; but every driver is led to the clone, or refused."""
    items.settings(route=["SHOP_URL"])
    items.write("test_it.py", SERVICE)
    items.pytest(SHOP_URL=real.render(), HOME=home).demand()


@pytest.mark.parametrize("way", ["psycopg", "psycopg2", "asyncpg"])
def test_a_service_does_not_lead_out_of_a_migration(
    project: Project, real: DatabaseURL, home: str, way: str
) -> None:
    """A revision that names a service is refused, too, and the error has the database that the service names."""
    project.write("connects.py", SERVICE)
    project.revision(
        "one",
        f"""
        op.execute("create table item (id int)")
        from connects import WAYS
        WAYS[{way!r}]()
        """,
    )
    outcome = project.clonedb("build", HOME=home).demand(1)
    assert (
        f"a connection to database {real.database!r} at localhost:{real.port} was refused"
        in outcome.err
    )


NOWHERE = (
    CONNECTS
    + """
import subprocess, sys
import clonedb, sqlalchemy as sa
from pydantic import PostgresDsn, TypeAdapter

AT_IMPORT = os.environ["SHOP_URL"]
dsn = TypeAdapter(PostgresDsn).validate_python(AT_IMPORT)
WAYS["sqlalchemy"] = lambda dsn: sa.create_engine(dsn.replace("://", "+psycopg://", 1)).connect().close()
application = sa.create_engine(AT_IMPORT.replace("://", "+psycopg://", 1))
BY_HAND = {
    "psql": ["psql", "-c", "select 1"],
    "psycopg": [sys.executable, "-c", "import sys, psycopg; psycopg.connect(*sys.argv[1:] or [''])"],
    "psycopg2": [sys.executable, "-c", "import sys, psycopg2; psycopg2.connect(*sys.argv[1:] or [''])"],
}
ASYNCPG = [sys.executable, "-c", "import sys, asyncio, asyncpg; asyncio.run(asyncpg.connect(*sys.argv[1:]))"]

def run(command, *more):
    return subprocess.run([*command, *more], capture_output=True, text=True)

def test_its_form():
    assert (dsn.hosts()[0]["username"], dsn.path) == ("shop", "/{database}")
    assert dsn.hosts()[0]["password"] != "s3cret"
    assert AT_IMPORT.startswith("postgresql://") and AT_IMPORT.endswith("?application_name=shop")

@pytest.mark.parametrize("way", WAYS)
def test_in_this_process(way):
    for url in {os.environ["SHOP_URL"], AT_IMPORT}:
        with pytest.raises(clonedb.RoutingError, match="ask for the fixture `clonedb`"):
            WAYS[way](url)

@pytest.mark.parametrize("way", [way for way in WAYS if way != "sqlalchemy"])
def test_libpqs_variables_in_this_process(way):
    for dsn in ("", "postgresql:///postgres"):
        with pytest.raises(clonedb.RoutingError, match="ask for the fixture `clonedb`"):
            WAYS[way](dsn or None if way == "asyncpg" else dsn)

@pytest.mark.parametrize("program", BY_HAND)
def test_programs(program):
    for url in ([os.environ["SHOP_URL"]], []):
        done = run(BY_HAND[program], *url)
        assert done.returncode and "no-database-in-this-test" in done.stderr and "use-a-clonedb-fixture" in done.stderr

def test_a_program_with_asyncpg():
    for url in ([os.environ["SHOP_URL"]], []):
        assert run(ASYNCPG, *url).returncode

def test_with_a_database(clonedb):
    for program in (*BY_HAND.values(), ASYNCPG):
        for url in ([os.environ["SHOP_URL"]], []):
            assert run(program, *url).returncode == 0
    with application.connect() as connection:
        assert connection.scalar(sa.text("select current_database()")) == clonedb.name

@pytest.mark.parametrize("n", range(2))
def test_what_a_test_sets_is_its_own(n, monkeypatch):
    assert "use-a-clonedb-fixture" in os.environ["SHOP_URL"]
    monkeypatch.setenv("SHOP_URL", "postgresql://me@elsewhere/mine")
    monkeypatch.setenv("PGHOST", "elsewhere")
    assert "elsewhere" in run([sys.executable, "-c", "import os; print(os.environ['SHOP_URL'])"]).stdout
    assert os.environ["PGHOST"] == "elsewhere"

@pytest.fixture(scope="module")
def of_the_module():
    os.environ["SHOP_URL"] = "postgresql://me@elsewhere/mine"

def test_what_a_fixture_sets_stays(of_the_module):
    assert "elsewhere" in os.environ["SHOP_URL"]

def test_beside_a_database(of_the_module, clonedb):
    assert os.environ["SHOP_URL"].endswith(f"/{clonedb.name}?application_name=shop")

def test_and_is_put_back():
    assert os.environ["SHOP_URL"] == "postgresql://me@elsewhere/mine"
"""
)


@pytest.mark.campaign("long")
@pytest.mark.parametrize("route", ["SHOP_URL", "*"])
def test_without_a_database_variables_lead_nowhere(
    items: Project, real: DatabaseURL, route: str
) -> None:
    """Each driver and program is refused, and shown what to do; settings read at import find a URL as it was."""
    items.settings(route=["SHOP_URL", route])
    items.write("test_it.py", NOWHERE.replace("{database}", str(real.database)))
    url = real.replace(query=(("application_name", "shop"),))
    libpqs = {
        f"PG{name.upper()}": str(getattr(url, name))
        for name in ("host", "port", "user", "password", "database")
    }
    shops = url.replace(user="shop", password="s3cret").render()
    items.pytest(**libpqs, SHOP_URL=shops, REAL=url.render()).demand()


LIBPQS_SERVER = """
import os, psycopg, pytest, sqlalchemy as sa

def test_no_database():
    assert "use_a_clonedb_fixture" in os.environ["PGDATABASE"]

def test_another_template(clonedb_at):
    with sa.create_engine(clonedb_at("one").url).connect() as connection:
        assert connection.scalar(sa.text("select count(*) from item")) == 0
"""


def test_variables_that_say_where_clonedbs_server_is(items: Project, real: DatabaseURL) -> None:
    """They are left alone where its URL has no host; the database is none."""
    items.settings(route=["SHOP_URL"], url="postgresql://")
    items.write("test_it.py", LIBPQS_SERVER)
    libpqs = {
        f"PG{name.upper()}": str(getattr(real, name))
        for name in ("host", "port", "user", "password")
    }
    items.pytest(SHOP_URL="postgresql://far.invalid/shop", **libpqs).demand()
