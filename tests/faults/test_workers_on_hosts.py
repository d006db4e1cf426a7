"""Workers of pytest-xdist on another host than the process that began the run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.on_hosts import LEASE, Hosts
from tests.faults.processes import Program
from tests.hosts import Host, why_not
from tests.projects import PYTEST, clean_environment
from tests.remote_host import socket_server

pytestmark = [
    pytest.mark.campaign("hosts"),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


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
