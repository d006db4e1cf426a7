"""Which servers can be read, and what a server's death does to a clone."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from clonedb.clones.clone import create
from clonedb.embedded.leases import Lease
from clonedb.errors import ServerError
from clonedb.postgres.server import Server
from clonedb.postgres.servers import open_server
from clonedb.rewind.rewinder import Outcome, Pristine, Rewinder, why_not
from clonedb.settings.config import Config
from tests.embedded.sandbox import Sandbox, is_alive, make_sandbox, wait_until
from tests.rewind.ordinary import ordinary_server
from tests.rewind.shapes import contents, make_template
from tests.rewind.test_shapes import write


@pytest.fixture
def own(postgres_bin: str | None) -> Iterator[Sandbox]:
    """A state directory of the test's own."""
    sandbox = make_sandbox(postgres_bin)
    yield sandbox
    sandbox.close()


def test_processes_that_ask_at_once(own: Sandbox) -> None:
    """The extension is made once, and nobody minds who made it."""
    servers = [open_server(own.config) for _ in range(6)]
    with ThreadPoolExecutor(len(servers)) as threads:
        assert list(threads.map(why_not, servers)) == [None] * len(servers)
    for server in servers:
        server.close()


def test_a_role_without_rights(config: Config, lease: Lease, admin_dsn: str) -> None:
    """Who is no superuser cannot read the WAL; the reason says so."""
    role, password = f"role_{secrets.token_hex(4)}", secrets.token_hex(8)
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(f"create role {role} login createdb password '{password}'".encode())
        url = f"postgresql://{role}:{password}@127.0.0.1:{lease.port}/"
        with contextlib.closing(open_server(config.replace("the test", url=url))) as server:
            assert (
                why_not(server)
                == f"role {role!r} is not a superuser, so it may neither read the WAL nor undo in silence"
            )
        connection.execute(f"drop role {role}".encode())


def test_a_server_that_writes_less_wal(postgres_bin: str | None, config: Config) -> None:
    """With wal_level = minimal not everything is in the WAL."""
    with ordinary_server(postgres_bin, "wal_level=minimal", "max_wal_senders=0") as url:
        server = open_server(config.replace("the test", url=url))
        assert why_not(server) == "wal_level is minimal, which leaves writes out of the WAL"
        server.close()


def test_prepared_transactions(postgres_bin: str | None, config: Config) -> None:
    """One that is open is refused; one that came to its end is undone."""
    with ordinary_server(
        postgres_bin, "max_prepared_transactions=5", "wal_level=logical"
    ) as url:
        server = open_server(config.replace("the test", url=url, prefix="two"))
        assert why_not(server) is None
        template = make_template(
            server, "create table t (n int); insert into t values (1)", secrets.token_hex(32)
        )
        with contextlib.closing(Pristine(server, template)) as pristine:
            with create(server, template) as clone:
                fresh, rewinder = contents(clone), Rewinder(clone, pristine)
                write(clone, "begin; update t set n = 2; prepare transaction 'p'")
                write(clone, "commit prepared 'p'")
                assert rewinder.rewind() == Outcome("rewound")
                assert contents(clone) == fresh
                write(clone, "begin; update t set n = 2; prepare transaction 'p'")
                assert rewinder.rewind() == Outcome("refused", "a prepared transaction is open")
                write(clone, "rollback prepared 'p'")
            with create(server, template) as clone:
                rewinder = Rewinder(clone, pristine)
                write(clone, "select pg_create_logical_replication_slot('s', 'pgoutput')")
                assert rewinder.rewind() == Outcome("refused", "a replication slot was made")
                write(clone, "select pg_drop_replication_slot('s')")
        server.close()


def test_a_server_that_crashed(own: Sandbox) -> None:
    """After a crash WAL may be lost: the clone is refused, and the next one is rewound as ever."""
    server: Server = open_server(own.config)
    assert why_not(server) is None
    template = make_template(
        server, "create table t (n int); insert into t values (1)", secrets.token_hex(32)
    )
    with contextlib.closing(Pristine(server, template)) as pristine:
        with create(server, template) as clone:
            rewinder = Rewinder(clone, pristine)
            write(clone, "delete from t")
            assert rewinder.rewind() == Outcome("rewound")
            write(clone, "delete from t")
            with psycopg.connect(clone.dsn) as victim:
                witness = pristine.witness()._connection.info.backend_pid
                os.kill(victim.info.backend_pid, signal.SIGKILL)
                wait_until(lambda: not is_alive(witness) and _is_up(server))
            assert rewinder.rewind().kind == "refused"
        with create(server, template) as clone:
            fresh, rewinder = contents(clone), Rewinder(clone, pristine)
            write(clone, "delete from t")
            assert rewinder.rewind() == Outcome("rewound")
            assert contents(clone) == fresh
            rewinder.close()
    server.close()


def _is_up(server: Server) -> bool:
    try:
        with server.connect("postgres", connect_timeout=2) as connection:
            return (
                connection.execute("select pg_postmaster_start_time()").fetchone() is not None
            )
    except (psycopg.Error, ServerError):
        return False
