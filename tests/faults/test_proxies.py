"""Processes behind a proxy that answers the server's keepalives by itself: their heartbeat says whether they go on."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clonedb.embedded.leases import Lease
from clonedb.url import DatabaseURL
from tests.faults.conftest import Start
from tests.faults.on_hosts import HANG, HOLD, LEASE, line_with, told
from tests.faults.processes import COUNT, Program, count
from tests.faults.proxy import Proxy
from tests.projects import CLONEDB, PYTEST, Project, databases


@dataclass
class Site:
    """Starts programs of one project, behind a proxy or at the server, which share no file with each other."""

    project: Project
    proxy: Proxy
    start: Start
    directory: Path

    def behind(self, *command: str, **more: str) -> Program:
        """Start a program whose server is behind the proxy."""
        url = DatabaseURL.parse(self.project.environment["CLONEDB_URL"])
        place = {
            "CLONEDB_STATE_DIR": str(self.directory / "state"),
            "CLONEDB_URL": url.replace(port=self.proxy.port).render(),
        }
        return self.start(self.project, *command, **place, **more)

    def beside(self, *command: str, **more: str) -> Program:
        """Start a program that reaches the server itself."""
        return self.start(self.project, *command, **more)


@pytest.fixture
def site(
    project: Project, lease: Lease, server_url: str, start: Start, tmp_path: Path
) -> Iterator[Site]:
    """A project of two revisions, the second of which may hang, whose server is somebody else's."""
    project.environment |= {
        "CLONEDB_URL": server_url,
        "CLONEDB_LEASE_TIMEOUT": str(LEASE),
        "CLONEDB_CONNECT_TIMEOUT": "2",
        "COUNT": str(tmp_path / "count"),
    }
    project.revision("one", COUNT)
    project.revision("two", HANG)
    with contextlib.closing(Proxy(lease.port)) as proxy:
        yield Site(project, proxy, start, tmp_path)


def suspend(program: Program, _proxy: Proxy) -> None:
    """Its kernel answers, and it does not."""
    os.killpg(program.process.pid, signal.SIGSTOP)


def freeze(_program: Program, proxy: Proxy) -> None:
    """What either side sends goes no further than to the proxy."""
    proxy.freeze()


def kill(program: Program, proxy: Proxy) -> None:
    """The proxy keeps the sessions of a process that is gone."""
    proxy.freeze()
    os.killpg(program.process.pid, signal.SIGKILL)


Fault = Callable[[Program, Proxy], None]


@pytest.mark.campaign("kills")
@pytest.mark.parametrize("fault", [suspend, freeze, kill])
def test_a_builder_behind_a_proxy(fault: Fault, site: Site) -> None:
    """Another process takes over after lease_timeout; a builder that lives ends with one message, and keeps nothing."""
    hangs = site.directory / "hangs"
    builder = site.behind(*CLONEDB, "build", HANG=str(hangs))
    builder.wait_for(hangs)
    other = site.beside(*CLONEDB, "build")
    assert "is being built by clonedb build on" in told(other)
    fault(builder, site.proxy)
    outcome = other.outcome().demand()
    assert "sent no heartbeat for longer than its lease_timeout" in outcome.err
    assert "built in" in outcome.out
    assert count(site.directory / "count") == 2
    if fault is freeze:
        lost = builder.outcome().demand(1)
        assert "the lock on template" in lost.err
        assert "Traceback" not in lost.err


@pytest.mark.campaign("kills")
@pytest.mark.parametrize("fault", [suspend, freeze, kill])
def test_a_run_behind_a_proxy(fault: Fault, site: Site, admin_dsn: str) -> None:
    """Another process takes its room after lease_timeout, and its clone is collected."""
    site.project.write("test_it.py", HOLD)
    held, other = site.directory / "held", site.directory / "other"
    other.with_name("other-go").touch()
    arguments = (*PYTEST, "-q", "--clonedb-max-clones=1")
    run = site.behind(*arguments, HOLDS=str(held))
    run.wait_for(held)
    waiting = site.beside(*arguments, HOLDS=str(other))
    line_with(waiting, "waiting for room")
    fault(run, site.proxy)
    assert "sent no heartbeat: its session was ended" in waiting.outcome().demand().err
    site.beside(*CLONEDB, "gc").outcome().demand()
    assert len(databases(admin_dsn, site.project.environment["CLONEDB_PREFIX"])) == 1
