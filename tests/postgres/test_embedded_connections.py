"""libpq's variables in the shell: none of them matters to what the embedded server's databases are reached by."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import psycopg
import psycopg2
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from clonedb.clones.clone import Clone, create_empty
from clonedb.embedded.leases import Lease
from clonedb.postgres import libpq_variables
from clonedb.postgres.server import Server
from clonedb.postgres.servers import open_server
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL

# each of them alone fails a connection to the embedded server by one driver at least, or changes what its sessions do
VARIABLES = {
    "PGHOST": "production.invalid",
    "PGHOSTADDR": "192.0.2.1",
    "PGPORT": "1",
    "PGDATABASE": "production",
    "PGUSER": "stranger",
    "PGPASSWORD": "wrong",
    "PGSERVICE": "of_that_name_there_is_none",
    "PGSERVICEFILE": "/nonexistent/pg_service.conf",
    "PGSYSCONFDIR": "/nonexistent",
    "PGSSLMODE": "require",
    "PGSSLNEGOTIATION": "direct",
    "PGSSLROOTCERT": "system",
    "PGSSLCERTMODE": "require",
    "PGGSSENCMODE": "require",
    "PGCHANNELBINDING": "require",
    "PGREQUIREAUTH": "none",
    "PGREQUIREPEER": "nobody",
    "PGMAXPROTOCOLVERSION": "3.0",
    "PGTARGETSESSIONATTRS": "standby",
    "PGLOADBALANCEHOSTS": "random",
    "PGCONNECT_TIMEOUT": "soon",
    "PGCLIENTENCODING": "LATIN1",
    "PGOPTIONS": "-c role=nobody_of_that_name",
    "PGTZ": "Nowhere/Never",
    "PGDATESTYLE": "never",
    "PGGEQO": "perhaps",
}

QUERY = "select current_database(), current_setting('role'), pg_client_encoding()"


def by_connect(clone: Clone) -> Any:
    """`connect()` of a clone."""
    with clone.connect() as connection:
        return connection.execute(QUERY).fetchone()


def by_engine(clone: Clone) -> Any:
    """`engine()` of a clone."""
    with clone.engine().connect() as connection:
        return connection.execute(sa.text(QUERY)).one()


def by_url(clone: Clone) -> Any:
    """An engine that is made from the URL."""
    engine = sa.create_engine(clone.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return connection.execute(sa.text(QUERY)).one()


def by_url_later(clone: Clone) -> Any:
    """An asynchronous engine that is made from the URL."""

    async def query() -> Any:
        async with create_async_engine(
            clone.url, poolclass=sa.NullPool
        ).connect() as connection:
            return (await connection.execute(sa.text(QUERY))).one()

    return run(query)


def by_psycopg(clone: Clone) -> Any:
    """psycopg with the DSN."""
    with psycopg.connect(clone.dsn) as connection:
        return connection.execute(QUERY).fetchone()


def by_psycopg_later(clone: Clone) -> Any:
    """psycopg's asynchronous connection with the DSN."""

    async def query() -> Any:
        async with await psycopg.AsyncConnection.connect(clone.dsn) as connection:
            return await (await connection.execute(QUERY)).fetchone()

    return run(query)


def by_psycopg2(clone: Clone) -> Any:
    """psycopg2 with the DSN."""
    connection = psycopg2.connect(clone.dsn)
    try:
        cursor = connection.cursor()
        cursor.execute(QUERY)
        return cursor.fetchone()
    finally:
        connection.close()


def by_asyncpg(clone: Clone) -> Any:
    """asyncpg with the DSN."""

    async def query() -> Any:
        connection = await asyncpg.connect(clone.dsn)
        try:
            return await connection.fetchrow(QUERY)
        finally:
            await connection.close()

    return run(query)


def by_asyncpgs_pool(clone: Clone) -> Any:
    """asyncpg's pool with the DSN."""

    async def query() -> Any:
        async with asyncpg.create_pool(clone.dsn, min_size=1) as pool:
            return await pool.fetchrow(QUERY)

    return run(query)


def run(query: Callable[[], Awaitable[Any]]) -> Any:
    """What a coroutine function returns."""

    async def within() -> Any:
        return await query()

    return asyncio.run(within())


WAYS = {
    "connect": ("psycopg", by_connect),
    "engine-psycopg": ("psycopg", by_engine),
    "engine-psycopg2": ("psycopg2", by_engine),
    "url-psycopg": ("psycopg", by_url),
    "url-psycopg2": ("psycopg2", by_url),
    "url-psycopg_async": ("psycopg", by_url_later),
    "url-asyncpg": ("asyncpg", by_url_later),
    "dsn-psycopg": ("psycopg", by_psycopg),
    "dsn-psycopg_async": ("psycopg", by_psycopg_later),
    "dsn-psycopg2": ("psycopg2", by_psycopg2),
    "dsn-asyncpg": ("asyncpg", by_asyncpg),
    "dsn-asyncpg-pool": ("psycopg", by_asyncpgs_pool),
}


@pytest.fixture
def open_with(
    config: Config, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Server]]:
    """A function that opens the run's server where the shell has set some variables."""
    del lease
    servers = []

    def open_one(driver: str, **variables: str) -> Server:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        servers.append(open_server(config.replace("tests", driver=driver)))
        return servers[-1]

    yield open_one
    for server in servers:
        server.close()


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("way", WAYS)
def test_the_shells_variable_does_not_matter(
    open_with: Callable[..., Server], name: str, way: str
) -> None:
    """To no driver, by whatever it is handed; and the process keeps it."""
    driver, query = WAYS[way]
    server = open_with(driver, **{name: VARIABLES[name]})
    with create_empty(server, server.config) as clone:
        assert tuple(query(clone)) == (clone.name, "none", "UTF8")
    assert os.environ[name] == VARIABLES[name]


def test_what_a_test_sets_is_meant(
    open_with: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the values that the shell had are unset."""
    server = open_with("psycopg", PGTZ="Nowhere/Never")
    with create_empty(server, server.config) as clone:
        monkeypatch.setenv("PGTZ", "Asia/Tokyo")
        with clone.connect() as connection:
            assert connection.execute("show timezone").fetchone() == ("Asia/Tokyo",)


def test_another_server_is_reached_as_ever(open_with: Callable[..., Server]) -> None:
    """The variables may be meant for that."""
    server = open_with("psycopg", PGSERVICE="of_that_name_there_is_none")
    with create_empty(server, server.config) as clone:
        elsewhere = DatabaseURL.parse(clone.dsn).replace(port=1).render()
        with pytest.raises(psycopg.OperationalError, match="of_that_name_there_is_none"):
            psycopg.connect(elsewhere)


def test_the_drivers_are_left_as_they_were(open_with: Callable[..., Server]) -> None:
    """Where the environment says nothing they are not touched, and neither after the server was closed."""

    def functions() -> tuple[Any, ...]:
        return (
            psycopg2._connect,
            psycopg2.extensions.make_dsn,
            asyncpg.connect_utils._parse_connect_arguments,
            asyncpg.connect_utils.os,
            vars(psycopg.BaseConnection)["_connect_gen"],
        )

    before = functions()
    open_with("psycopg")
    assert functions() == before
    server = open_with("psycopg", PGTZ="Nowhere/Never")
    assert not set(functions()) & set(before)
    server.close()
    assert functions() == before


def timezone_of_libpq() -> str:
    """What libpq reads of PGTZ: what a program is started with that is given no other environment."""
    return subprocess.run(
        ["printenv", "PGTZ"], capture_output=True, text=True, check=False
    ).stdout.strip()


def test_threads_unset_variables_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that is done does not set them again for the others; `os.environ` has them all the time."""
    monkeypatch.setenv("PGTZ", "Nowhere/Never")
    entered, first_left = threading.Event(), threading.Event()

    def second() -> None:
        with libpq_variables.unset():
            entered.set()
            assert first_left.wait(10)
            seen.append((timezone_of_libpq(), os.environ["PGTZ"]))

    seen: list[tuple[str, str]] = []
    thread = threading.Thread(target=second)
    with libpq_variables.unset():
        thread.start()
        assert entered.wait(10)
    first_left.set()
    thread.join()
    assert seen == [("", "Nowhere/Never")]
    assert (timezone_of_libpq(), os.environ["PGTZ"]) == ("Nowhere/Never", "Nowhere/Never")


def test_what_is_set_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test sets or deletes while another thread connects is what libpq finds afterwards."""
    monkeypatch.setenv("PGTZ", "Nowhere/Never")
    with libpq_variables.unset():
        monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    assert timezone_of_libpq() == "Asia/Tokyo"
    with libpq_variables.unset():
        monkeypatch.delenv("PGTZ")
    assert timezone_of_libpq() == ""


@pytest.mark.parametrize(
    "way", ["connect", "engine-psycopg2", "dsn-psycopg_async", "dsn-asyncpg"]
)
def test_the_process_has_its_variables_while_a_thread_connects(
    open_with: Callable[..., Server], way: str
) -> None:
    """Another thread finds them in `os.environ` at any moment."""
    driver, query = WAYS[way]
    server = open_with(driver, PGTZ="Nowhere/Never")
    done, missing = threading.Event(), []

    def look() -> None:
        while not done.is_set():
            missing.append("PGTZ" not in os.environ)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=look)
    try:
        with create_empty(server, server.config) as clone:
            thread.start()
            for _ in range(20):
                query(clone)
            done.set()
            thread.join()
    finally:
        done.set()
        sys.setswitchinterval(interval)
    assert missing
    assert not any(missing)
