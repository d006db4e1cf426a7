"""Programs on hosts that share a server, each host with its own state directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.processes import Program
from tests.hosts import Host, Network
from tests.projects import CLONEDB, Project, databases

__all__ = ["HANG", "HOLD", "LEASE", "RUN", "Hosts", "line_with", "told"]

HANG = """
if path := os.environ.get("HANG"):
    open(path, "w").close()
    time.sleep(float(os.environ.get("SLEEP", "120")))
"""
LEASE = 4.0
"""Seconds of lease_timeout in these tests; those of the campaign `hosts` have the default."""
RUN = """
import os, pathlib, pytest, sqlalchemy as sa, time

@pytest.mark.parametrize("number", range(40))
def test_it(number, clonedb_session):
    if number == 2:
        pathlib.Path("runs").touch()
        time.sleep(1)
    clonedb_session.execute(sa.text("insert into item (name) values ('x')"))
    clonedb_session.commit()
"""
HOLD = """
import os, pathlib, time

def test_it(clonedb):
    path = pathlib.Path(os.environ["HOLDS"])
    path.touch()
    while not path.with_name(path.name + "-go").exists():
        time.sleep(0.05)
    with clonedb.connect() as connection:
        connection.execute("create table mine (id int)")
"""


@dataclass
class Hosts:
    """Starts programs of one project on hosts of their own, each with its own state directory."""

    net: Network
    project: Project
    start: Callable[..., Program]
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


def told(program: Program) -> str:
    """The first line that a program writes to stderr."""
    assert program.process.stderr is not None
    return str(program.process.stderr.readline())


def line_with(program: Program, text: str) -> str:
    """The first line on stderr that has a text; what is written meanwhile is lost."""
    assert program.process.stderr is not None
    return next(line for line in program.process.stderr if text in line)
