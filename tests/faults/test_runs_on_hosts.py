"""Test runs of hosts that share a server: cut off, suspended, of several teams, and under a restart."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import psycopg
import pytest

from tests.faults.on_hosts import HOLD, LEASE, RUN, Hosts, line_with
from tests.faults.processes import count
from tests.hosts import why_not
from tests.projects import PYTEST

pytestmark = [
    pytest.mark.campaign("hosts"),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


def _as_role(url: str, role: str) -> str:
    """The server's URL for a role that may create databases."""
    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        connection.execute(f"drop role if exists {role}".encode())
        connection.execute(f"create role {role} login createdb".encode())
    return url.replace("postgres@", f"{role}@")


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


def test_a_run_that_is_suspended(hosts: Hosts, tmp_path: Path) -> None:
    """Another host takes its slot and collects its clone, though its network answers; it says so when it goes on."""
    hosts.project.write("test_it.py", HOLD)
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths[1:]:
        path.with_name(f"{path.name}-go").touch()
    arguments = ("-q", "--clonedb-max-clones=1")
    _, run = hosts.run(*arguments, program=PYTEST, HOLDS=str(paths[0]))
    run.wait_for(paths[0])
    _, other = hosts.run(*arguments, program=PYTEST, HOLDS=str(paths[1]))
    line_with(other, "waiting for room")
    os.killpg(run.process.pid, signal.SIGSTOP)
    since = time.monotonic()
    try:
        outcome = other.outcome().demand()
        took_over = time.monotonic() - since
        print(f"taken over after {took_over:.1f} s")  # noqa: T201 - shown where it fails
        hosts.run("gc")[1].outcome().demand()
        assert len(hosts.names()) == 1
    finally:
        os.killpg(run.process.pid, signal.SIGCONT)
    assert "sent no heartbeat: its session was ended" in outcome.err
    paths[0].with_name("a-go").touch()
    since = time.monotonic()
    lost = run.outcome().demand(1)
    print(f"ended after {time.monotonic() - since:.1f} s")  # noqa: T201
    assert "stood still for" in lost.err
    assert "its clones may have been collected by another host" in lost.err


def test_a_run_at_a_breakpoint_keeps_its_clones(hosts: Hosts, tmp_path: Path) -> None:
    """The main thread stands still for longer than lease_timeout, and the process does not."""
    hosts.project.write("test_it.py", HOLD)
    path = tmp_path / "a"
    _, run = hosts.run("-q", program=PYTEST, HOLDS=str(path))
    run.wait_for(path)
    time.sleep(LEASE * 2)
    assert "dropped" not in hosts.run("gc")[1].outcome().demand().out
    assert len(hosts.names()) == 2
    path.with_name("a-go").touch()
    assert "1 passed" in run.outcome().demand().out


def test_a_server_that_is_restarted_under_two_runs(hosts: Hosts) -> None:
    """The test of that moment may fail on each host; those after it get new databases."""
    hosts.project.revision("three", "op.execute('create table item (name text)')")
    hosts.project.write("test_it.py", RUN.replace('"runs"', 'os.environ["RUNS"]'))
    runs = [hosts.project.directory / f"runs{number}" for number in range(2)]
    programs = [hosts.run("-q", program=PYTEST, RUNS=str(path))[1] for path in runs]
    for program, path in zip(programs, runs, strict=True):
        program.wait_for(path)
    hosts.net.restart()
    for program in programs:
        outcome = program.outcome()
        failed = re.search(r"(?:(\d+) failed, )?(\d+) passed", outcome.out)
        assert failed, outcome.text
        assert int(failed[2]) >= 38, outcome.text
    hosts.run("gc")[1].outcome().demand()
    assert len(hosts.names()) == 1


def test_two_teams_with_a_prefix_each(hosts: Hosts, tmp_path: Path) -> None:
    """Each builds its own template, and neither lists nor collects what is the other's, nor waits for its clones."""
    prefixes = [f"{hosts.project.environment['CLONEDB_PREFIX']}_{team}" for team in "ab"]
    hosts.project.write("test_it.py", HOLD)
    runs = []
    for prefix in prefixes:
        path = tmp_path / prefix
        runs.append(
            hosts.run(
                *("-q", "--clonedb-max-clones=1", f"--clonedb-prefix={prefix}"),
                program=PYTEST,
                HOLDS=str(path),
            )[1]
        )
        runs[-1].wait_for(path)
    # both hold the one clone that max_clones allows each
    assert count(tmp_path / "count") == 2
    listed = hosts.run("list", CLONEDB_PREFIX=prefixes[0])[1].outcome().demand().out
    assert prefixes[0] in listed
    assert prefixes[1] not in listed
    dropped = hosts.run("drop", "--everything", "--yes", CLONEDB_PREFIX=prefixes[0])
    dropped[1].outcome().demand()
    for run, prefix in zip(runs, prefixes, strict=True):
        (tmp_path / f"{prefix}-go").touch()
        assert "1 passed" in run.outcome().demand().out
    assert len([name for name in hosts.names() if name.startswith(prefixes[1])]) == 1


@pytest.mark.parametrize("roles", [("", ""), ("ann", "bob")], ids=["one role", "two roles"])
def test_two_teams_with_one_prefix(
    hosts: Hosts, tmp_path: Path, roles: tuple[str, str]
) -> None:
    """With one role they share the template, with a role each they have one each; they share `max_clones`."""
    prefix = hosts.project.environment["CLONEDB_PREFIX"]
    urls = [hosts.net.url if not role else _as_role(hosts.net.url, role) for role in roles]
    hosts.project.write("test_it.py", HOLD)
    runs, paths = [], [tmp_path / "a", tmp_path / "b"]
    for url, path in zip(urls, paths, strict=True):
        runs.append(
            hosts.run(
                *("-q", "--clonedb-max-clones=1"),
                program=PYTEST,
                HOLDS=str(path),
                CLONEDB_URL=url,
            )[1]
        )
        if path == paths[0]:
            runs[0].wait_for(path)
    # the second waits for the only slot, and the first one's databases are left alone
    assert "waiting for room for a clone" in line_with(runs[1], "waiting for room")
    assert not paths[1].exists()
    hosts.run("gc", CLONEDB_URL=urls[1])[1].outcome().demand()
    for run, path in zip(runs, paths, strict=True):
        run.wait_for(path)
        path.with_name(f"{path.name}-go").touch()
        assert "1 passed" in run.outcome().demand().out
    assert len(hosts.names()) == len({*roles})
    assert count(tmp_path / "count") == len({*roles})
    assert all(name.startswith(prefix) for name in hosts.names())


@pytest.mark.parametrize("seconds", [8.0, None], ids=["8 s", "for good"])
def test_a_run_under_the_default_of_lease_timeout(hosts: Hosts, seconds: float | None) -> None:
    """No test fails of a cut of 8 s; after one for good the run ends, and its clones go, within half a minute each."""
    for name in ("CLONEDB_LEASE_TIMEOUT", "CLONEDB_CONNECT_TIMEOUT"):
        del hosts.project.environment[name]
    hosts.project.revision("three", "op.execute('create table item (name text)')")
    hosts.project.write("test_it.py", RUN)
    host, run = hosts.run("-q", program=PYTEST)
    run.wait_for(hosts.project.directory / "runs")
    host.cut()
    since = time.monotonic()
    if seconds is not None:
        time.sleep(seconds)
        host.heal()
        assert "40 passed" in run.outcome().demand().out
        return

    outcome = run.outcome(120).demand(2)
    ended = time.monotonic() - since
    print(f"the run ended after {ended:.1f} s")  # noqa: T201
    assert "is out of reach, so that no more tests begin" in outcome.out
    assert ended < 60, "30 on a quiet machine"
    while len(hosts.names()) > 1:
        hosts.run("gc")[1].outcome().demand()
        assert time.monotonic() - since < 60, hosts.names()
    print(f"its clones were collected after {time.monotonic() - since:.1f} s")  # noqa: T201
