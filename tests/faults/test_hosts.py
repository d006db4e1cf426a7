"""Hosts that share a server: one is cut off, one is suspended, and several build at once."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.faults.conftest import Start
from tests.faults.processes import COUNT, Program, count
from tests.hosts import Host, Network, network, why_not
from tests.projects import CLONEDB, PYTEST, Project, clean_environment, databases
from tests.remote_host import socket_server

HANG = """
if path := os.environ.get("HANG"):
    open(path, "w").close()
    time.sleep(float(os.environ.get("SLEEP", "120")))
"""
LEASE = 4.0
"""Seconds of lease_timeout in these tests; a test of the campaign `hosts` has the default."""

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture(scope="module")
def net(postgres_bin: str | None) -> Iterator[Network]:
    """A server that several hosts reach."""
    with network(postgres_bin) as made:
        yield made


@dataclass
class Hosts:
    """Starts programs of one project on hosts of their own, each with its own state directory."""

    net: Network
    project: Project
    start: Start
    directory: Path

    def run(
        self,
        *command: str,
        program: Sequence[str] = CLONEDB,
        host: Host | None = None,
        **more: str,
    ) -> tuple[Host, Program]:
        """Start a program, `clonedb` if no other, with arguments on a host."""
        host = host or self.net.host()
        state = self.directory / host.name
        started = self.start(
            self.project,
            *host.prefix,
            *program,
            *command,
            CLONEDB_STATE_DIR=str(state),
            HOME=str(state),
            **more,
        )
        return host, started

    def names(self) -> list[str]:
        """The project's databases on the server."""
        return databases(f"{self.net.url}/postgres", self.project.environment["CLONEDB_PREFIX"])


@pytest.fixture
def hosts(net: Network, project: Project, start: Start, tmp_path: Path) -> Hosts:
    """A project of two revisions, the second of which may hang, on a server of its own."""
    project.environment |= {
        "CLONEDB_URL": net.url,
        "CLONEDB_LEASE_TIMEOUT": str(LEASE),
        "CLONEDB_CONNECT_TIMEOUT": "2",
        "COUNT": str(tmp_path / "count"),
    }
    project.revision("one", COUNT)
    project.revision("two", HANG)
    return Hosts(net, project, start, tmp_path)


def told(program: Program) -> str:
    """The first line that a program writes to stderr."""
    assert program.process.stderr is not None
    return str(program.process.stderr.readline())


def test_cold_hosts_build_once(hosts: Hosts, tmp_path: Path) -> None:
    """Of three, one builds; the others wait, and find it."""
    programs = [hosts.run("build")[1] for _ in range(3)]
    for program in programs:
        program.outcome().demand()
    assert count(tmp_path / "count") == 1
    assert len(hosts.names()) == 1


def test_a_builder_that_is_cut_off_for_good(hosts: Hosts, tmp_path: Path) -> None:
    """Another host takes over; the builder ends, with one message, and keeps nothing."""
    host, builder = hosts.run("build", HANG=str(tmp_path / "hangs"))
    builder.wait_for(tmp_path / "hangs")
    _, other = hosts.run("build")
    waits = told(other)
    assert "is being built by clonedb build on" in waits
    assert re.search(
        r"from 10\.[\d.]+, connected since \d+ s, at revision 2 of 2 \(two\)\)", waits
    )
    assert "`select pg_terminate_backend(" in waits
    host.cut()
    since = time.monotonic()
    other.outcome().demand()
    took_over = time.monotonic() - since
    assert took_over < LEASE * 3 + 10
    lost = builder.outcome(60).demand(1)
    assert time.monotonic() - since < LEASE * 3 + 15
    assert "the lock on template" in lost.err
    assert "Traceback" not in lost.err
    assert count(tmp_path / "count") == 2


def test_a_builder_that_is_cut_off_for_a_moment(hosts: Hosts, tmp_path: Path) -> None:
    """Shorter than lease_timeout: it goes on, and what waits gets its template."""
    host, builder = hosts.run("build", HANG=str(tmp_path / "hangs"), SLEEP="4")
    builder.wait_for(tmp_path / "hangs")
    host.cut()
    time.sleep(LEASE * 0.4)
    host.heal()
    _, other = hosts.run("build")
    builder.outcome().demand()
    other.outcome().demand()
    assert count(tmp_path / "count") == 1
    assert len(hosts.names()) == 1


def test_a_builder_that_is_suspended(hosts: Hosts, tmp_path: Path) -> None:
    """Its network answers, and it does not: its session is ended, and it publishes nothing when it goes on."""
    _, builder = hosts.run("build", HANG=str(tmp_path / "hangs"), SLEEP="1")
    builder.wait_for(tmp_path / "hangs")
    os.killpg(builder.process.pid, signal.SIGSTOP)
    try:
        _, other = hosts.run("build")
        outcome = other.outcome().demand()
        (template,) = [name for name in hosts.names() if "_t_" in name]
    finally:
        os.killpg(builder.process.pid, signal.SIGCONT)
    assert "sent no heartbeat for longer than its lease_timeout" in outcome.err
    lost = builder.outcome().demand(1)
    assert "the lock on template" in lost.err
    assert "Traceback" not in lost.err
    with psycopg.connect(f"{hosts.net.url}/postgres") as connection:
        row = connection.execute(
            "select shobj_description(oid, 'pg_database') from pg_database where datname = %s",
            [template],
        ).fetchone()
    assert row
    assert f"pid {other.process.pid}" in row[0]


RUN = """
import pathlib, pytest, sqlalchemy as sa, time

@pytest.mark.parametrize("number", range(40))
def test_it(number, clonedb_session):
    if number == 2:
        pathlib.Path("runs").touch()
        time.sleep(1)
    clonedb_session.execute(sa.text("insert into item (name) values ('x')"))
    clonedb_session.commit()
"""


def test_a_run_that_is_cut_off_for_good(hosts: Hosts) -> None:
    """It ends, with one message, and another host collects its clones."""
    hosts.project.revision("three", "op.execute('create table item (name text)')")
    hosts.project.write("test_it.py", RUN)
    host, run = hosts.run("-q", program=PYTEST)
    run.wait_for(hosts.project.directory / "runs")
    host.cut()
    since = time.monotonic()
    outcome = run.outcome(120).demand(2)
    assert time.monotonic() - since < LEASE + 25
    assert "is out of reach, so that no more tests begin" in outcome.out
    assert "1 failed, 2 passed, 1 error" in outcome.out
    time.sleep(LEASE)
    hosts.run("gc")[1].outcome().demand()
    assert len(hosts.names()) == 1


def test_a_run_that_is_cut_off_for_a_moment(hosts: Hosts) -> None:
    """Shorter than lease_timeout: no test fails of it."""
    hosts.project.revision("three", "op.execute('create table item (name text)')")
    hosts.project.write("test_it.py", RUN)
    host, run = hosts.run("-q", program=PYTEST)
    run.wait_for(hosts.project.directory / "runs")
    host.cut()
    time.sleep(LEASE * 0.4)
    host.heal()
    assert "40 passed" in run.outcome().demand().out


@pytest.mark.campaign("hosts")
@pytest.mark.parametrize("seconds", [8.0, None], ids=["8 s", "for good"])
def test_the_default_of_lease_timeout(
    hosts: Hosts, tmp_path: Path, seconds: float | None
) -> None:
    """A cut of 8 s is survived; after one for good the other host goes on, and this one ends, within half a minute."""
    for name in ("CLONEDB_LEASE_TIMEOUT", "CLONEDB_CONNECT_TIMEOUT"):
        del hosts.project.environment[name]
    sleep = "120" if seconds is None else "15"
    host, builder = hosts.run("build", HANG=str(tmp_path / "hangs"), SLEEP=sleep)
    builder.wait_for(tmp_path / "hangs")
    _, other = hosts.run("build")
    told(other)
    host.cut()
    since = time.monotonic()
    if seconds is not None:
        time.sleep(seconds)
        host.heal()
        builder.outcome().demand()
        other.outcome().demand()
        assert count(tmp_path / "count") == 1
        return

    other.outcome().demand()
    print(f"taken over and built after {time.monotonic() - since:.1f} s")  # noqa: T201 - a campaign's figure
    lost = builder.outcome().demand(1)
    ended = time.monotonic() - since
    print(f"ended after {ended:.1f} s")  # noqa: T201
    assert "the lock on template" in lost.err
    assert ended < 30


ELSEWHERE = """
import os, pathlib, pytest, time

@pytest.mark.parametrize("number", range(40))
def test_it(number, clonedb_connection):
    if number == 2:
        pathlib.Path(os.environ["RUNS"]).touch()
        time.sleep(1)
    clonedb_connection.execute("insert into item (name) values ('x')")
    clonedb_connection.commit()
"""


@pytest.fixture
def remote(hosts: Hosts, tmp_path: Path) -> Iterator[tuple[Host, Program, Path]]:
    """A run on one host whose worker is another host's socket server; the project is on the first alone."""
    hosts.project.revision("three", "op.execute('create table item (name text)')")
    hosts.project.write("tests/test_it.py", ELSEWHERE)
    host = hosts.net.host()
    environment = {
        **dict(clean_environment()),
        "CLONEDB_STATE_DIR": str(tmp_path / host.name),
        "HOME": str(tmp_path / host.name),
        "COUNT": str(tmp_path / "count"),
        "RUNS": str(tmp_path / "runs"),
    }
    with socket_server(
        tmp_path / host.name, environment, address=host.address, prefix=host.prefix
    ) as (address, _):
        directory = hosts.project.directory
        _, run = hosts.run(
            *("-q", "-d", "--tx", f"socket={address}", "--max-worker-restart=0"),
            *("--rsyncdir", str(directory), str(directory / "tests")),
            program=PYTEST,
        )
        yield host, run, tmp_path / "runs"


def test_a_worker_on_another_host(remote: tuple[Host, Program, Path], hosts: Hosts) -> None:
    """It needs nothing but its programs: the URL and the files come from the host that began the run."""
    assert "40 passed" in remote[1].outcome().demand().out
    assert len(hosts.names()) == 1


def test_a_worker_whose_host_is_cut_off(
    remote: tuple[Host, Program, Path], hosts: Hosts
) -> None:
    """The run ends, and says that the worker is gone; the clones can be collected."""
    host, run, runs = remote
    run.wait_for(runs)
    host.cut()
    since = time.monotonic()
    outcome = run.outcome(120).demand(1)
    ended = time.monotonic() - since
    print(f"the run ended after {ended:.1f} s")  # noqa: T201 - shown where it fails
    assert ended < LEASE * 3 + 30
    assert "worker 'gw0' crashed" in outcome.out
    deadline = time.monotonic() + LEASE * 3 + 30
    while len(hosts.names()) > 1:
        assert time.monotonic() < deadline, hosts.names()
        hosts.run("gc")[1].outcome().demand()


def test_a_url_of_one_host_alone(hosts: Hosts, tmp_path: Path) -> None:
    """A worker on another host says so, and what to do, and does not take that host's own server."""
    hosts.project.revision("three", "op.execute('create table item (name text)')")
    hosts.project.write("tests/test_it.py", ELSEWHERE)
    host = hosts.net.host()
    directory = hosts.project.directory
    with socket_server(
        tmp_path / host.name,
        dict(clean_environment()),
        address=host.address,
        prefix=host.prefix,
    ) as (address, _):
        outcome = (
            hosts.run(
                *("-q", "-d", "--tx", f"socket={address}", "-k", "test_it and 39"),
                *("--rsyncdir", str(directory), str(directory / "tests")),
                program=PYTEST,
                CLONEDB_URL="postgresql://me:secret@localhost/x",
            )[1]
            .outcome()
            .demand(1)
        )
    assert "CLONEDB_URL: 'postgresql://me:***@localhost/x' is a server of host" in outcome.out
    assert "write a host name that both reach" in outcome.out
