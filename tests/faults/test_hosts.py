"""Hosts that share a server build at once; one is cut off, suspended, or its server restarted."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import psycopg
import pytest

from tests.faults.on_hosts import LEASE, Hosts, told
from tests.faults.processes import count
from tests.hosts import why_not

pytestmark = [
    pytest.mark.campaign("hosts"),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


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


def test_a_server_that_is_restarted_under_a_build_and_who_waits_for_it(
    hosts: Hosts, tmp_path: Path
) -> None:
    """The build ends with one message and nothing is kept; the host that waited goes on and builds."""
    _, builder = hosts.run("build", HANG=str(tmp_path / "hangs"))
    builder.wait_for(tmp_path / "hangs")
    _, other = hosts.run("build")
    told(other)
    hosts.net.restart()
    lost = builder.outcome().demand(1)
    assert "the lock on template" in lost.err
    assert "Traceback" not in lost.err
    assert "Traceback" not in other.outcome().demand().err
    # the first builder's database, which it could not drop without a server
    hosts.run("gc")[1].outcome().demand()
    assert len(hosts.names()) == 1


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
    assert ended < 60, "30 on a quiet machine"
