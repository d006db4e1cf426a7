"""What the tests of faults share: programs that are surely ended, and a project with a server of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.embedded.sandbox import Sandbox, make_sandbox
from tests.faults.on_hosts import HANG, LEASE, Hosts
from tests.faults.processes import COUNT, Program
from tests.hosts import Network, network
from tests.projects import Project


class Start(Protocol):
    """Starts a program in a project's directory."""

    def __call__(self, project: Project, *command: str, **more: str) -> Program: ...


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts a program, whose whole process group is killed after the test."""
    programs = []

    def start(project: Project, *command: str, **more: str) -> Program:
        programs.append(Program(project, *command, **more))
        return programs[-1]

    yield start
    for program in programs:
        program.kill_group()


@pytest.fixture
def sandbox(postgres_bin: str | None) -> Iterator[Sandbox]:
    """A state directory of the test's own."""
    sandbox = make_sandbox(postgres_bin)
    yield sandbox
    sandbox.close()


@pytest.fixture
def alone(make_project: Callable[[str], Project], sandbox: Sandbox) -> Project:
    """The project of two revisions, with a server of the test's own."""
    project = make_project("alone")
    project.environment |= {
        "CLONEDB_STATE_DIR": str(sandbox.config.state_dir),
        "CLONEDB_IDLE_TIMEOUT": "2",
    }
    project.items()
    return project


@pytest.fixture
def counter(project: Project, tmp_path: Path) -> Path:
    """The file in which revisions of `project` count themselves."""
    path = tmp_path / "count"
    project.environment["COUNT"] = str(path)
    return path


@pytest.fixture(scope="module")
def net(postgres_bin: str | None) -> Iterator[Network]:
    """A server that several hosts reach."""
    with network(postgres_bin) as made:
        yield made


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
