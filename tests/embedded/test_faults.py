"""What embedded servers survive: every process killed, files removed or damaged, a full disk, a hung keeper."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg
import pytest

from clonedb.clones.gc import collect
from clonedb.embedded import leases, watchdog
from clonedb.embedded.servers import servers
from clonedb.errors import ServerError
from clonedb.postgres.roles import prepare_role
from clonedb.postgres.servers import open_server
from tests.embedded.sandbox import (
    ROOT,
    Sandbox,
    accepts,
    answer,
    by_loopback,
    by_socket,
    is_alive,
    query,
    wait_until,
)


def test_users_killed_leave_no_server(sandbox: Sandbox) -> None:
    """kill -9 of every user: the server is gone idle_timeout later, shut down properly."""
    users = [sandbox.user() for _ in range(3)]
    for user in users:
        answer(user)
    running = sandbox.running()
    for user in users:
        user.kill()
    wait_until(lambda: not is_alive(running.keeper), 3)
    assert not is_alive(running.pid)
    assert "database system is shut down" in sandbox.place.log.read_text()


def test_a_killed_keeper_takes_its_server_along_and_the_next_lease_recovers(
    sandbox: Sandbox,
) -> None:
    """kill -9 of the keeper: no postgres is orphaned, and the data are there again."""
    with sandbox.lease() as first:
        with psycopg.connect(by_socket(first), options="-c synchronous_commit=on") as session:
            session.execute("create table mark ()")
        running = sandbox.running()
        os.kill(running.keeper, signal.SIGKILL)
        wait_until(lambda: not is_alive(running.pid))
        with sandbox.lease() as second:
            assert second.started
            assert second.port == first.port
            assert query(second, "select 'mark'::regclass::text") == "mark"
            assert not first.socket_dir.exists()


def test_a_killed_postgres_is_started_again_by_the_next_lease(sandbox: Sandbox) -> None:
    """kill -9 of postgres while idle: its keeper clears up and goes, also with a session in a long query."""
    with sandbox.lease() as first:
        with psycopg.connect(by_socket(first), autocommit=True) as session:
            session.execute(
                "create function spin() returns void language plpgsql as 'begin loop end loop; end'"
            )
            session.pgconn.send_query(
                b"select spin()"
            )  # a backend that never looks whether postgres lives
            running = sandbox.running()
            os.kill(running.pid, signal.SIGKILL)
            wait_until(lambda: not is_alive(running.pid))
            with sandbox.lease() as second:
                assert second.started
                assert query(second, "select 1") == 1
            session.close()
        assert not is_alive(running.keeper)


def test_keeper_and_postgres_killed_together(sandbox: Sandbox) -> None:
    """Nobody is left to clear up: the next lease does it."""
    with sandbox.lease():
        running = sandbox.running()
        os.kill(running.keeper, signal.SIGKILL)
        os.kill(running.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(running.pid))
        with sandbox.lease() as second:
            assert second.started
            assert query(second, "select 1") == 1


def test_the_state_directory_removed_while_running(sandbox: Sandbox) -> None:
    """The next lease starts a new server at once; the old one notices and goes, its socket directory too."""
    with sandbox.lease() as first:
        running = sandbox.running()
        shutil.rmtree(sandbox.config.state_dir or "")
        Path(sandbox.config.state_dir or "").mkdir(0o711)
        with sandbox.lease() as second:
            assert second.started
            assert second.password != first.password
            wait_until(lambda: not is_alive(running.keeper))
            assert not is_alive(running.pid)
            assert not first.socket_dir.exists()
            assert query(second, "select 1") == 1


def test_the_socket_directory_removed_while_running(sandbox: Sandbox) -> None:
    """A cleaner of /tmp was here: the keeper stops its server, and the next lease starts it with a new directory."""
    with sandbox.lease() as first:
        shutil.rmtree(first.socket_dir)
        with sandbox.lease() as second:
            assert second.started
            assert second.socket_dir.exists()
            assert query(second, "select 1") == 1


def test_a_user_killed_in_initdb(empty: Sandbox) -> None:
    """A half-made data directory never counts; the next lease makes a whole one."""
    user = empty.user()
    wait_until(empty.place.file("data.new").joinpath("base").exists)
    user.kill()
    with empty.lease() as lease:
        assert lease.started
        assert query(lease, "select 1") == 1
    assert not empty.place.file("data.new").exists()


def test_ctrl_c_in_initdb(empty: Sandbox) -> None:
    """The user's process ends as interrupted, without a half-made data directory; the next lease works."""
    user = empty.user()
    wait_until(empty.place.file("data.new").joinpath("base").exists)
    user.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in user.communicate()[1]
    assert not empty.place.data.exists()
    with empty.lease() as lease:
        assert query(lease, "select 1") == 1


def test_files_that_a_dead_server_left(sandbox: Sandbox) -> None:
    """A stale `ready`, and a postmaster.pid whose pid is now somebody else's: neither is believed."""
    sandbox.lease().close()
    shutil.copy(sandbox.place.file("ready"), sandbox.place.file("stale"))
    leases.stop(sandbox.config)
    sandbox.place.file("stale").rename(sandbox.place.file("ready"))
    # postgres itself would refuse to start: "Is another postmaster (PID ...) running?"
    (sandbox.place.data / "postmaster.pid").write_text(
        f"{os.getppid()}\n{sandbox.place.data}\n"
    )
    with sandbox.lease() as lease:
        assert lease.started
        assert query(lease, "select 1") == 1


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"pid": 1}'])
def test_files_of_the_keeper_that_are_damaged(sandbox: Sandbox, text: str) -> None:
    """As the machine may leave them when it goes down: nobody knows what was said, and the server starts."""
    sandbox.lease().close()
    sandbox.place.file("ready").write_text(text)
    assert [one.state for one in servers(sandbox.config)] == ["stopped"]
    assert leases.stop(sandbox.config) == [sandbox.place.name]
    with sandbox.lease() as lease:
        assert query(lease, "select 1") == 1


def test_a_keeper_that_does_not_say_where_it_is(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pid may be another process's there, which is left alone: stopping ends with what to do by hand."""
    monkeypatch.setattr(watchdog, "PATIENCE", 0.3)
    with sandbox.lease(), subprocess.Popen(["sleep", "60"]) as other:
        keeper = sandbox.place.file("keeper")
        said = keeper.read_text()
        keeper.write_text(json.dumps({"pid": other.pid}))
        try:
            with pytest.raises(
                ServerError, match=r"to stop: its keeper is pid unknown, .*end that process"
            ):
                leases.stop(sandbox.config)
            assert other.poll() is None
        finally:
            keeper.write_text(said)
            other.kill()


def test_each_start_makes_a_new_password(sandbox: Sandbox) -> None:
    """Whoever had the port meanwhile may have been told the old one, which opens nothing; a lost one does not matter."""
    old = sandbox.place.read("password")
    for _ in range(2):
        with sandbox.lease() as lease:
            assert lease.password != old
            psycopg.connect(by_loopback(lease, lease.password)).close()
            with pytest.raises(
                psycopg.OperationalError, match="password authentication failed"
            ):
                psycopg.connect(by_loopback(lease, old))
            role = by_loopback(lease, old).replace("user=postgres", "user=tester")
            with pytest.raises(
                psycopg.OperationalError, match="password authentication failed"
            ):
                psycopg.connect(role)
            with contextlib.closing(
                open_server(sandbox.config.replace("the test", role="tester"))
            ) as server:
                prepare_role(server)
            psycopg.connect(role.replace(old, lease.password)).close()
            leases.stop(sandbox.config)
        old = lease.password
        sandbox.place.file("password").unlink()


def test_what_a_killed_reset_left(empty: Sandbox) -> None:
    """The next start deletes it."""
    left = Path(empty.config.state_dir or "", "removed-embedded-postgres-18-1")
    (left / "data").mkdir(parents=True)
    empty.lease().close()
    assert not left.exists()


def test_what_a_create_database_left_that_a_crash_cut_short(sandbox: Sandbox) -> None:
    """The next collection removes it, and nothing else."""
    sandbox.lease().close()
    leases.stop(sandbox.config)
    base = sandbox.place.data / "base"
    orphan = base / "987654"
    orphan.mkdir()
    (orphan / "1259").touch()
    with contextlib.closing(open_server(sandbox.config)) as server:
        young = base / "987655"  # whose statement may be at work
        young.mkdir()
        server.run(lambda connection: connection.execute("create database kept"))
        before = {path.name for path in base.iterdir()}
        collect(server)
        assert before - {path.name for path in base.iterdir()} == {"987654"}
        young.rmdir()
        server.run(lambda connection: connection.execute("drop database kept"))


def test_data_that_were_in_memory_when_the_machine_went_down(sandbox: Sandbox) -> None:
    """fsync is off: after a power failure in the middle the data are made anew; after a proper stop they are kept."""
    with sandbox.lease() as first:
        assert sandbox.place.read("boot")
        running = sandbox.running()
        leases.stop(sandbox.config)
        wait_until(lambda: not is_alive(running.keeper))
        assert not sandbox.place.read("boot")
        sandbox.place.file("boot").write_text("another-boot 1234")
        with sandbox.lease() as second:
            assert second.password != first.password


def test_data_of_another_build(sandbox: Sandbox) -> None:
    """PostgreSQL calls them incompatible: the error has the log's last lines and the command that helps."""
    (sandbox.place.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(ServerError, match=r"(?s)incompatible with.*run `clonedb server reset`"):
        sandbox.lease()
    leases.reset(sandbox.config)
    sandbox.lease().close()


def test_a_full_disk_in_initdb(empty: Sandbox) -> None:
    """The error shows the log's last lines, nothing half-made is left, and those who waited get it without a try."""
    user = empty.user(limit=4 << 20, forks=7)
    errors = [str(answer(user)["error"]) for _ in range(8)]
    assert len(set(errors)) == 1
    assert re.search(
        r"(?s)initdb of PostgreSQL \d+ failed; the log .* ends:.*File too large", errors[0]
    )
    assert empty.place.log.read_text().count("File too large") < 8
    assert not empty.place.file("data.new").exists()
    with empty.lease() as lease:
        assert query(lease, "select 1") == 1


def test_a_server_that_cannot_start(sandbox: Sandbox) -> None:
    """The error shows what postgres said last, and no keeper stays."""
    (sandbox.place.data / "postgresql.conf").write_text(
        "superuser_reserved_connections = 400\n"
    )
    with pytest.raises(
        ServerError,
        match=r"(?s)ended before it accepted connections; the log .*superuser_reserved",
    ):
        sandbox.lease()
    wait_until(lambda: not is_alive(sandbox.place.keeper()["pid"]))
    assert not Path(sandbox.place.read("socket")).exists()


def test_a_hung_keeper_is_named(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a lease nor stop waits for ever: the error has the keeper's pid and the log's path."""
    monkeypatch.setattr(watchdog, "PATIENCE", 0.5)
    with sandbox.lease():
        running = sandbox.running()
        os.kill(running.keeper, signal.SIGSTOP)
        with pytest.raises(
            ServerError,
            match=f"waited 0.5 s .* keeper is pid {running.keeper}.*{sandbox.place.log}",
        ):
            leases.stop(sandbox.config)
        os.kill(running.pid, signal.SIGKILL)  # ... which the keeper cannot notice
        wait_until(lambda: not is_alive(running.pid))
        monkeypatch.setattr(watchdog, "PATIENCE", 30)
        monkeypatch.setattr(leases, "UNREACHABLE", 0.5)
        with pytest.raises(
            ServerError, match=f"does not answer.*keeper is pid {running.keeper}"
        ):
            sandbox.lease()
        os.kill(running.keeper, signal.SIGCONT)
        with sandbox.lease() as again:
            assert query(again, "select 1") == 1


def test_a_hung_starter_is_named(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits is told after a second what for, and in the end which process holds the lock."""
    monkeypatch.setattr(watchdog, "PATIENCE", 1.3)
    sandbox.place.prepare()
    start = sandbox.place.files.try_lock("start", fcntl.LOCK_EX)
    assert start is not None
    os.write(start, b"4711")
    lines: list[str] = []
    with pytest.raises(ServerError, match=r"waited 1.3 s .*started by pid 4711"):
        sandbox.lease(progress=lines.append)
    os.close(start)
    assert lines == [
        f"waiting for the embedded server {sandbox.place.name!r}, which another process starts or stops"
    ]


@pytest.mark.skipif(not ROOT, reason="only root can give a directory away")
def test_a_socket_directory_of_somebody_else_is_not_trusted(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever owns it could answer in the server's place."""
    monkeypatch.setattr(leases, "UNREACHABLE", 0.2)
    with sandbox.lease() as lease:
        os.chown(lease.socket_dir, 12345, 12345)
        with pytest.raises(
            ServerError, match=f"does not answer on its socket in '{lease.socket_dir}'"
        ):
            sandbox.lease()
        assert accepts(lease.port)


def test_a_server_of_another_container(sandbox: Sandbox) -> None:
    """Locks reach through a shared directory, sockets do not: the error says so, and stop kills nobody else's pid."""
    with sandbox.lease():
        running = sandbox.running()
        for name in ("ready", "keeper"):
            text = sandbox.place.read(name)
            sandbox.place.file(name).write_text(text.replace(running.host, "another"))
        with pytest.raises(ServerError, match="run by another container or host"):
            sandbox.lease()
        with pytest.raises(ServerError, match="run by another container or host"):
            leases.stop(sandbox.config)
        assert accepts(running.port)
        for name in ("ready", "keeper"):
            text = sandbox.place.read(name)
            sandbox.place.file(name).write_text(text.replace("another", running.host))
