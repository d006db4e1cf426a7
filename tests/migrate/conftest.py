"""Migrators of projects that tests write, an empty database for them, and a fork server of a test's own."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from clonedb.migrate import standby
from clonedb.migrate.alembic import AlembicMigrator
from clonedb.project.find import find_project
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL
from tests.projects import Project

Ask = Callable[[str], list[tuple[object, ...]]]
Migrators = Callable[..., AlembicMigrator]
Report = Callable[[], dict[str, Any]]
Look = Callable[..., dict[str, Any]]
PATIENCE = 30.0  # seconds that something may take on a machine that has other things to do

# What an interpreter is, told to the file named by REPORT; `forked` by what the kernel says it was started as.
REPORT = """
import json, locale, logging, resource, signal, threading, uuid
def umask():
    found = os.umask(0o22)
    os.umask(found)
    return found
with open(os.environ["REPORT"], "w") as file:
    json.dump({
        "pid": os.getpid(), "parent": os.getppid(), "forked": "forkserver" in open("/proc/self/cmdline").read(),
        "environment": dict(os.environ), "directory": os.getcwd(), "umask": umask(), "sys_path": sys.path,
        "argv": sys.argv[:1], "main": sys.modules["__main__"].__file__, "name": sys.modules["__main__"].__name__,
        "flags": list(sys.flags), "signals": [str(signal.getsignal(n)) for n in signal.valid_signals()],
        "zone": time.tzname, "locale": locale.getlocale(), "encoding": [sys.stdout.encoding, sys.stderr.errors],
        "limits": [resource.getrlimit(n) for n in range(10)], "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "threads": sorted(thread.name for thread in threading.enumerate()), "uuid": uuid.__file__,
        "disabled": logging.root.manager.disable, "mark": getattr(os, "mark", None), "log": logging.root.level,
    }, file)
"""


@pytest.fixture
def migrator(project: Project) -> Callable[..., AlembicMigrator]:
    """A function that gives the migrator of the test's project; keywords are settings.

    Each interpreter is a fresh one, unless `standby` says otherwise.
    """

    def make(**settings: Any) -> AlembicMigrator:
        config = Config(rootdir=project.directory).replace("tests", **{"standby": 0.0, **settings})
        return AlembicMigrator(config, find_project(config))

    return make


@pytest.fixture
def url(empty_database_url: str) -> DatabaseURL:
    """An empty database."""
    return DatabaseURL.parse(empty_database_url)


@pytest.fixture
def ask(url: DatabaseURL) -> Ask:
    """A function that runs a query in that database, in a session of its own."""

    def run(query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(url.replace(driver=None).render(), autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    return run


def until(done: Callable[[], bool]) -> bool:
    """Whether something comes true within some seconds."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if done():
                return True
        except (FileNotFoundError, ProcessLookupError):
            pass
        time.sleep(0.02)
    return False


def gone(pid: int) -> bool:
    """Whether a process ends within some seconds."""
    return until(lambda: not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text())


def started(apart: Config) -> int:
    """Start a fork server; its pid, once it listens."""
    standby.begin(apart, os.environ)
    assert until(lambda: bool([*Path(apart.state_dir or "").glob("standby/*.socket")]))
    (one,) = standby.waiting(apart)
    return one.pid


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No coverage, which looks at interpreters from their start, and no CI."""
    for name in [*os.environ]:
        if name == "CI" or name.startswith(("COVERAGE_", "COV_", "PYDEVD", "DD_", "OTEL_", "NEW_RELIC_")):
            monkeypatch.delenv(name)


@pytest.fixture
def apart(plain: None) -> Iterator[Config]:
    """A configuration with a state directory of its own; whatever waits there is ended."""
    directory = Path(tempfile.mkdtemp(prefix="clonedb-standby-"))
    apart = Config(rootdir=Path("/")).replace("tests", state_dir=str(directory), standby=60.0)
    yield apart
    standby.stop(apart)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def server(apart: Config) -> int:
    """The pid of a fork server that listens."""
    return started(apart)


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    """A function that gives what the last interpreter reported."""
    path = tmp_path / "report.json"
    monkeypatch.setenv("REPORT", str(path))

    def read() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(path.read_text())
        path.unlink()
        return found

    return read


@pytest.fixture
def forking(migrator: Migrators, apart: Config, project: Project, report: Report) -> AlembicMigrator:
    """A migrator that uses it, of a project whose revision reports what it runs in."""
    project.revision("one", "import sys\n" + REPORT, "pass")
    return migrator(state_dir=apart.state_dir, standby=60.0)


@pytest.fixture
def look(forking: AlembicMigrator, migrator: Migrators, url: DatabaseURL, report: Report) -> Look:
    """A function that migrates, and back, and gives what the interpreter reported."""

    def run(standby: float = 60.0) -> dict[str, Any]:
        migrate(migrator(state_dir=forking.config.state_dir, standby=standby), url)
        return report()

    return run


def migrate(migrator: AlembicMigrator, url: DatabaseURL) -> None:
    """Up, and back."""
    with migrator.session(url) as session:
        session.upgrade()
        session.downgrade()
