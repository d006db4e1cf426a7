"""From Python: `clonedb.template()` opens a project's template, and `clone()` makes databases."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

import clonedb
from clonedb.clones.database import PlainDatabase
from clonedb.clones.gc import collect, inventory
from clonedb.errors import ConfigError, NoMigrationsError, ServerError
from clonedb.sessions.loans import Loans
from clonedb.templates.metadata import Kept
from clonedb.url import DatabaseURL
from tests.campaigns import VARIANT
from tests.projects import Project, databases, one

pytestmark = pytest.mark.usefixtures("variables")


def test_a_template_and_its_clones(items: Project, admin_dsn: str, prefix: str) -> None:
    """A template opened in a directory, and databases that are gone at the end of their `with`."""
    with clonedb.template(items.directory) as template:
        assert template.heads == ("two",)
        assert len(template.fingerprint) == 64
        assert repr(template) == f"<template {template.name!r} on {template.server.about}>"
        with template.clone() as first, template.clone() as second:
            assert {first.name, second.name} < set(databases(admin_dsn, prefix))
            engine = first.engine()
            with engine.begin() as connection:
                connection.execute(sa.text("insert into item (name) values ('of the first')"))
            assert one(first, "select count(*) from item") == (2,)
            assert one(second, "select count(*) from item") == (1,)
            assert 0 < first.seconds < 5
            assert DatabaseURL.parse(first.url) == DatabaseURL.parse(first.dsn).replace(
                driver="psycopg"
            )
            secret = DatabaseURL.parse(first.dsn).password
            assert secret
            assert secret not in repr(first) + repr(template)
        assert databases(admin_dsn, prefix) == [template.name]
        first.drop()  # once more does nothing
    for use in (template.clone, template.database):
        with pytest.raises(
            ServerError, match=r"was closed here; open it again with clonedb\.template\(\)"
        ):
            use()
    with clonedb.template(str(items.directory)) as again:
        assert again.name == template.name
        assert not again.record.built


def test_settings_as_arguments(
    items: Project, prefix: str, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys of [tool.clonedb], which win over every other place; a wrong one is an error that says so."""
    items.settings(target="base", isolation="worker")
    monkeypatch.setenv("CLONEDB_DRIVER", "psycopg2")
    options: clonedb.Settings = {
        "target": "one",
        "driver": "asyncpg",
        "prefix": f"{prefix}_x",
        "url": server_url,
    }
    with clonedb.template(items.directory, **options) as template, template.clone() as clone:
        assert template.heads == ("one",)
        assert clone.name.startswith(f"{prefix}_x_c_")
        assert clone.url.startswith("postgresql+asyncpg://")
        assert template.recipe.config.source("target") == "argument of clonedb.template()"
        assert not template.server.embedded
    with pytest.raises(
        ConfigError,
        match=r"argument of clonedb.template\(\): unknown setting 'tagret' \(did you mean",
    ):
        clonedb.template(items.directory, tagret="one")  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="strategy is 'copy'"):
        clonedb.template(items.directory, strategy="copy")  # type: ignore[arg-type]
    with pytest.raises(NoMigrationsError, match="no Alembic migrations were found"):
        clonedb.template(Path("/"))


def test_a_clone_outlives_nothing(items: Project, admin_dsn: str, prefix: str) -> None:
    """What was neither dropped nor kept goes with the next collection, once its template is closed."""
    template = clonedb.template(items.directory)
    forgotten, kept = template.clone(), template.clone()
    kept.keep(Kept(project="project", run="1", when=0.0, test=None))
    collect(template.server)
    assert {forgotten.name, kept.name} < set(databases(admin_dsn, prefix))
    template.close()
    template.close()
    with clonedb.template(items.directory) as other:
        assert collected(other, {forgotten.name})
        assert databases(admin_dsn, prefix) == sorted([kept.name, template.name])
        kept.drop()  # a kept one stays
        assert kept.name in databases(admin_dsn, prefix)


def test_a_template_that_nobody_closes(items: Project) -> None:
    """It is closed when it is forgotten, and when its process ends, by whatever death."""
    name = clonedb.template(items.directory).clone().name
    gc.collect()
    script = "import clonedb, os; print(clonedb.template().clone().name, flush=True); os.kill(os.getpid(), 9)"
    process = items.run(sys.executable, "-c", script).demand(-9)
    left = {name, process.out.strip()}
    with clonedb.template(items.directory) as template:
        assert collected(template, left)


def test_leaving_by_an_error_drops_the_clone_and_shows_the_error(
    items: Project, admin_dsn: str, prefix: str
) -> None:
    """An error in clean-up never hides the first one."""
    with clonedb.template(items.directory) as template:
        with pytest.raises(ZeroDivisionError), template.clone():
            raise ZeroDivisionError
        assert databases(admin_dsn, prefix) == [template.name]
        clone = template.clone()
        _be_a_template(clone, template=True)
        with pytest.raises(ZeroDivisionError), clone:
            raise ZeroDivisionError
        _be_a_template(clone, template=False)


def test_a_template_that_somebody_dropped(items: Project, admin_dsn: str) -> None:
    """Cloning it says what happened and what to do; keeping a clone that is gone says so too."""
    with clonedb.template(items.directory) as template, template.clone() as clone:
        with psycopg.connect(admin_dsn, autocommit=True) as connection:
            connection.execute(f'alter database "{template.name}" is_template false'.encode())
            connection.execute(f'drop database "{template.name}"'.encode())
        with pytest.raises(
            ServerError, match=rf"{template.name}' is gone from .*; run again to rebuild it"
        ):
            template.clone()
        clone.drop()
        with pytest.raises(ServerError, match=rf"database '{clone.name}' is gone from"):
            clone.keep(Kept(project="project", run="1", when=0.0, test=None))


def collected(template: clonedb.Template, names: set[str]) -> bool:
    """Whether collections drop databases within seconds: the server has to notice that their owners are gone."""
    deadline = time.monotonic() + 10
    while names & {item.name for item in inventory(template.server)}:
        if time.monotonic() > deadline:
            return False
        collect(template.server)
    return True


def _be_a_template(clone: clonedb.Clone, *, template: bool) -> None:
    """A database that is a template cannot be dropped."""
    value = str(template).lower()
    clone.server.run(
        lambda connection: connection.execute(
            f'alter database "{clone.name}" is_template {value}'.encode()
        )
    )


def test_a_synchronous_engine_beside_an_asynchronous_driver(items: Project) -> None:
    """With `driver = "asyncpg"` the URL names it, and clonedb_engine still works, by psycopg."""
    items.settings(driver="asyncpg")
    items.write(
        "test_items.py",
        """
        import sqlalchemy

        def test_items(clonedb_url, clonedb_session):
            assert clonedb_url.startswith("postgresql+asyncpg://")
            assert clonedb_session.scalar(sqlalchemy.text("select count(*) from item")) == 1
        """,
    )
    assert "1 passed" in items.pytest().demand().out


def test_a_refused_connection_shows_no_password(items: Project) -> None:
    """pytest prints the arguments of each frame: none of those shown holds the URL."""
    items.write(
        "test_items.py",
        """
        def test_items(clonedb):
            clonedb.connect(options="-c no_such_setting=1")
        """,
    )
    out = items.pytest("--clonedb-keep=none", "--showlocals").demand(1).out
    assert "no_such_setting" in out
    assert "postgres:" not in out


CLOSED = """
import pathlib
import pytest, sqlalchemy as sa
from clonedb.url import DatabaseURL

@pytest.fixture(autouse=True)
def closed(clonedb):
    pathlib.Path("secret").write_text(DatabaseURL.parse(clonedb.dsn).password)
    def allow(said):
        clonedb.clone.server.run(lambda c: c.execute(f'alter database "{clonedb.name}" allow_connections {said}'))
    allow("false")
    yield
    allow("true")

def test_engine(clonedb_engine):
    clonedb_engine.connect()

def test_raw_connection(clonedb_engine):
    clonedb_engine.raw_connection()

def test_session(clonedb_session):
    clonedb_session.execute(sa.text("select 1"))

def test_own_engine(clonedb):
    clonedb.engine(connect_args={"application_name": "own"}).connect()

def test_asynchronous_engine(clonedb_async_engine):
    import asyncio
    async def connect():
        async with clonedb_async_engine.connect():
            pass
    asyncio.run(connect())
"""


@pytest.mark.campaign("long")
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
@pytest.mark.parametrize(
    "options", [pytest.param((), marks=VARIANT), ("--full-trace", "-vv")], ids=["long", "full"]
)
def test_an_engine_that_cannot_connect_shows_no_password(
    items: Project, driver: str, options: tuple[str, ...]
) -> None:
    """Not in SQLAlchemy's variables, nor the driver's, whatever pytest is asked to show."""
    items.settings(driver=driver)
    items.write("test_items.py", CLOSED)
    outcome = items.pytest("--clonedb-keep=none", "--showlocals", "--tb=long", *options).demand(
        1
    )
    assert "5 failed" in outcome.out
    assert "not currently accepting connections" in outcome.out
    secret = (items.directory / "secret").read_text()
    assert len(secret) > 3
    assert secret not in outcome.text


@pytest.mark.parametrize(
    "options", [("--tb=long",), ("--full-trace", "-vv")], ids=["long", "full"]
)
def test_a_server_that_cannot_be_reached_shows_no_password(
    items: Project, options: tuple[str, ...]
) -> None:
    """Nor is that of the server's own URL in a variable that pytest shows."""
    items.write("test_items.py", "def test_items(clonedb): pass")
    url = "postgresql://someone:verysecret@127.0.0.1:1/postgres"
    outcome = items.pytest("--showlocals", *options, CLONEDB_URL=url).demand(1)
    assert "cannot connect" in outcome.out
    assert "verysecret" not in outcome.text


@pytest.fixture
def stranger() -> Iterator[tuple[int, list[bytes]]]:
    """A server that has taken a port, and asks whoever comes for the password itself; the port, and what it was sent."""
    heard: list[bytes] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(10)
                    while len(connection.recv(4096)) == 8:  # SSLRequest, GSSENCRequest
                        connection.sendall(b"N")
                    connection.sendall(
                        b"R\x00\x00\x00\x08\x00\x00\x00\x03"
                    )  # AuthenticationCleartextPassword
                    heard.append(connection.recv(4096))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], heard
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_no_password_for_who_has_taken_the_port(
    items: Project, stranger: tuple[int, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that stopped has left its port to anybody: what is handed out tells the password by SCRAM only."""
    port, heard = stranger
    with clonedb.template(items.directory) as template, template.clone() as clone:
        server = template.server
        assert server.embedded
        lent = PlainDatabase(clone, Loans().begin("test 'it'", clone.name))
        monkeypatch.setattr(server, "public", server.public.replace(port=port))
        for connect in (
            clone.connect,
            lent.connect,
            clone.engine().connect,
            sa.create_engine(lent.url).connect,
            lambda: asyncio.run(
                psycopg.AsyncConnection.connect(lent.url.replace("+psycopg", ""))
            ),
        ):
            with pytest.raises(
                (psycopg.OperationalError, sa.exc.OperationalError), match="scram-sha-256"
            ):
                connect()
        for driver in ("asyncpg", "psycopg2", "pg8000"):
            monkeypatch.setattr(server, "public", server.public.replace(driver=driver))
            assert ("require_auth" in lent.url) == (driver == "psycopg2")
        assert "require_auth" not in lent.dsn
        monkeypatch.setattr(psycopg.pq, "version", lambda: 150012)
        monkeypatch.setattr(server, "public", server.public.replace(driver="psycopg"))
        assert "require_auth" not in lent.url
        monkeypatch.setattr(
            server,
            "public",
            server.public.replace(port=server.lease.port if server.lease else 0),
        )
    assert set(heard) == {b""}
