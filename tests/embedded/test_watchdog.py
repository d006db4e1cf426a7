"""What waiting for an embedded server does when the clock is not what it was."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from clonedb.clones.clone import create_empty
from clonedb.embedded.leases import _failure_since, _stamp
from clonedb.embedded.machine import is_stopped_server
from clonedb.embedded.places import ServerDirectory, state_files
from clonedb.errors import ServerError
from clonedb.postgres import local_leases, message, sql
from clonedb.postgres.local_leases import LocalLeases
from clonedb.postgres.servers import open_server
from clonedb.sessions import driver_state
from tests.embedded.sandbox import Sandbox, wait_until


def test_an_old_failure_is_old_whatever_the_clock_says(tmp_path: Path) -> None:
    """A failure from the future, as a clock that was set back sees it, is no news; one after it is."""
    place = ServerDirectory(tmp_path / "servers" / "one")
    place.prepare()
    assert _failure_since(place, _stamp(place)) is None
    place.files.write("failed", "no memory")
    os.utime(place.file("failed"), (time.time() + 1e6,) * 2)
    earlier = _stamp(place)
    assert _failure_since(place, earlier) is None
    place.files.write("failed", "no disk")
    assert _failure_since(place, earlier) == "no disk"


def test_a_stopped_process_of_the_server_stops_no_drop_for_ever(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DROP DATABASE waits for every process there is: within a limit, and with a message that says for what."""
    monkeypatch.setattr(sql, "DROP_LIMIT", 1.0)
    with contextlib.closing(open_server(sandbox.config)) as server:
        clone = create_empty(server, server.config)
        with contextlib.closing(server.connect("template1")) as other:
            os.kill(other.info.backend_pid, signal.SIGSTOP)
            try:
                with pytest.raises(
                    ServerError,
                    match=r"could not be dropped within 1 s: the server waits for one",
                ):
                    clone.drop()
            finally:
                os.kill(other.info.backend_pid, signal.SIGCONT)
        clone.drop()
        assert server.run(sql.find_database, clone.name) is None


def test_a_client_that_reads_nothing_is_named(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process cannot take notice of a drop while what it sends is not read; notifications come to idle ones, too."""
    monkeypatch.setattr(sql, "DROP_LIMIT", 1.0)
    with contextlib.closing(open_server(sandbox.config)) as server:
        clone = create_empty(server, server.config)
        with contextlib.closing(server.connect("postgres", application_name="deaf")) as other:
            other.execute("listen news")
            for _ in range(2000):  # each fills some of the buffer of its socket
                server.rows("select pg_notify('news', '')")
            with pytest.raises(
                ServerError,
                match=rf"does not read .* process {other.info.backend_pid} \(deaf\), connected to postgres; end it",
            ):
                clone.drop()
        clone.drop()
        assert server.run(sql.find_database, clone.name) is None


def test_a_lease_file_that_a_stopped_process_holds(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was stopped while it looked at a lease keeps it locked: the wait has a limit and names the file."""
    monkeypatch.setattr(local_leases, "_LIMIT", 0.2)
    leases = state_files(sandbox.config) / "leases"
    leases.make()
    locked = leases.try_lock("owner", fcntl.LOCK_EX)
    assert locked is not None
    ours = LocalLeases(sandbox.config)
    try:
        with pytest.raises(
            ServerError,
            match=r"waited 0\.2 s for the lock on '.+/leases/owner', which another process",
        ):
            ours.take("owner")
    finally:
        os.close(locked)
    ours.take("owner")
    assert local_leases.is_leased(sandbox.config, "owner")
    ours.close()
    assert not local_leases.is_leased(sandbox.config, "owner")


def test_an_answer_that_does_not_come(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait has a limit and names the process."""
    monkeypatch.setattr(message, "LIMIT", 0.2)
    with (
        contextlib.closing(open_server(sandbox.config)) as server,
        contextlib.closing(server.connect("template1")) as other,
        pytest.raises(
            ServerError, match=f"process {other.info.backend_pid} has not answered for 0.2 s"
        ),
    ):
        message.ask(other.pgconn, ["select pg_sleep(10)"])


def test_a_stopped_process_is_seen(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of this machine is told of after some seconds, and not after as long as a statement may take."""
    monkeypatch.setattr(message, "LOOK", 0.1)
    with (
        contextlib.closing(open_server(sandbox.config)) as server,
        contextlib.closing(server.connect("template1")) as other,
    ):
        assert message.ask(other.pgconn, ["select pg_sleep(0.5)", "select 1"])[-1] == [(b"1",)]
        os.kill(other.info.backend_pid, signal.SIGSTOP)
        try:
            with pytest.raises(
                ServerError, match=f"process {other.info.backend_pid} is stopped: let it go on"
            ):
                message.ask(other.pgconn, ["select 1"])
        finally:
            os.kill(other.info.backend_pid, signal.SIGCONT)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_stopped_process_does_not_hold_up_a_rollback(sandbox: Sandbox, driver: str) -> None:
    """The end of a test closes the connection underneath its session, which does not wait for the answer."""
    with contextlib.closing(open_server(sandbox.config)) as server:
        engine = sa.create_engine(server.url("postgres", driver=driver).render())
        session = Session(engine)
        connection = session.connection().connection.dbapi_connection
        assert not driver_state.let_go(connection)
        assert session.scalar(sa.text("select 1")) == 1
        pid = session.scalar(sa.text("select pg_backend_pid()"))
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: is_stopped_server(pid))
            driver_state.let_go(connection)
            assert not driver_state.let_go(connection)  # which is closed now
            with contextlib.suppress(sa.exc.DBAPIError):
                session.close()
        finally:
            os.kill(pid, signal.SIGCONT)
        engine.dispose()


def test_a_lost_session_is_counted_until_another_is_there(sandbox: Sandbox) -> None:
    """`crashes` counts a lost session once: when it is lost, while there is none, and when there is another."""
    with contextlib.closing(open_server(sandbox.config)) as server:
        assert server.crashes == 0
        for number in (1, 2):
            pid = server.run(sql.own_pid)
            with contextlib.closing(server.connect("postgres")) as other:
                other.execute("select pg_terminate_backend(%s, 5000)", [pid])
            assert server.crashes == number
            assert server.run(sql.own_pid) != pid
            assert server.crashes == number
