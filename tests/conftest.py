"""What all tests share: one embedded server for the whole run, and projects to try it with."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import clonedb.migrate.interpreter
from clonedb.embedded import binaries, leases
from clonedb.postgres.server import Server
from clonedb.postgres.servers import open_server
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL
from tests import campaigns
from tests.mounts import disk
from tests.prefork import install
from tests.projects import Project, clean_environment, lean_pytest, prefork

_RUN = "RUN_OF_CLONEDBS_TESTS"  # the variable in which xdist's workers inherit the run's name


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--campaign`."""
    campaigns.add_option(parser)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the campaigns that were not named."""
    campaigns.select(config, items)


def pytest_configure(config: pytest.Config) -> None:
    """Name the run, in the process that begins it, and leave what the programs under test print to their own care."""
    campaigns.add_marker(config)
    os.environ.pop("PYTHONUNBUFFERED", None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # so a shell starts what is to run in the background, and every program under test would ignore Ctrl-C, too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        # coverage has begun in this worker, and is for no process that it starts
        os.environ.pop("COVERAGE_PROCESS_START", None)
    else:
        os.environ[_RUN] = os.urandom(8).hex()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto` is three workers for two processors, and four for campaigns: the others wait for servers and processes."""
    halves = 4 if config.getoption("--campaign") else 3
    return max(1, len(os.sched_getaffinity(0)) * halves // 2)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """A worker that has nothing left to do takes tests from another: neighbours share templates, and none is last."""
    from xdist.scheduler import WorkStealingScheduling  # type: ignore[import-untyped]

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """What a worker has imported and collected stays: no collection of garbage looks through it again."""
    if hasattr(session.config, "workerinput"):
        gc.collect()
        gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    """When the last worker has ended: stop the run's server and delete its data."""
    directory = _state_dir()
    if not hasattr(config, "workerinput") and directory.exists():
        leases.stop(Config(rootdir=Path.cwd()).replace("tests", state_dir=str(directory)))
        shutil.rmtree(directory, ignore_errors=True)


def _state_dir() -> Path:
    memory = Path("/dev/shm")  # a clone costs a third of what it costs on a disk
    base = (
        memory
        if memory.is_dir() and os.access(memory, os.W_OK)
        else Path(tempfile.gettempdir())
    )
    return base / f"clonedb-tests-{os.environ[_RUN][:12]}"


@pytest.fixture(scope="session", autouse=True)
def forked_interpreters() -> None:
    """Interpreters that migrate are forks of one that has Alembic imported."""
    install(lambda: prefork().client)


@pytest.fixture(scope="session", autouse=True)
def neighbours_may_write() -> Iterator[None]:
    """What other tests write on the run's server while a database waits to be rewound costs it no new clone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clonedb.rewind.rewinder._LEAST_WAL", 256 * 2**20)
        yield


@pytest.fixture
def started_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreters that migrate are started, as users' are: for tests of the start itself."""
    monkeypatch.setattr(clonedb.migrate.interpreter, "subprocess", subprocess)


@pytest.fixture(scope="session")
def run_id() -> str:
    """The same text in every worker of a run, another one in every run: the salt of all fingerprints."""
    return os.environ[_RUN]


@pytest.fixture(scope="session")
def state_dir() -> Path:
    """The state directory of the run's embedded server: short, and passable for the account that the server drops to."""
    directory = _state_dir()
    directory.mkdir(mode=0o711, exist_ok=True)
    return directory


@pytest.fixture(scope="session")
def postgres_bin() -> str | None:
    """The binaries to test with: CLONEDB_TEST_POSTGRES is a major version (15 to 18) or a directory."""
    wanted = os.environ.get("CLONEDB_TEST_POSTGRES")
    if not wanted or "/" in wanted:
        return wanted
    found, looked_at = binaries.find(Config(rootdir=Path.cwd()))
    for one in found:
        if one.major == int(wanted):
            return str(one.directory)
    raise pytest.UsageError(
        f"CLONEDB_TEST_POSTGRES = {wanted}: no such PostgreSQL here ({'; '.join(looked_at)})"
    )


@pytest.fixture(scope="session")
def config(state_dir: Path, postgres_bin: str | None, run_id: str) -> Config:
    """A configuration for the run's own embedded server."""
    return Config(rootdir=Path.cwd()).replace(
        "tests",
        state_dir=str(state_dir),
        postgres_bin=postgres_bin,
        salt=run_id,
        idle_timeout=5.0,
    )


@pytest.fixture(scope="session")
def lease(config: Config) -> Iterator[leases.Lease]:
    """Keeps the run's server up while this worker lives."""
    with leases.lease(config, binaries.choose(config, ())) as held:
        yield held


@pytest.fixture(scope="session")
def server_url(lease: leases.Lease) -> str:
    """The run's server as somebody else's: a loopback URL with a password, and no database."""
    url = DatabaseURL(
        driver="psycopg",
        user=lease.user,
        password=lease.password,
        host="127.0.0.1",
        port=lease.port,
    )
    return url.render()


@pytest.fixture
def server(config: Config, lease: leases.Lease) -> Iterator[Server]:
    """The run's embedded server, opened by this test."""
    opened = open_server(config)
    yield opened
    opened.close()


_numbers = itertools.count()


@pytest.fixture
def prefix(run_id: str) -> str:
    """A prefix for database names that no other test uses."""
    return f"t{run_id[:5]}_{os.getpid():x}_{next(_numbers)}"


@pytest.fixture
def admin_dsn(lease: leases.Lease) -> str:
    """The maintenance database of the run's server, for looking at what is there."""
    return f"host={lease.socket_dir} port={lease.port} user={lease.user} dbname=postgres"


@pytest.fixture
def small_disk() -> Iterator[Callable[[str], Path]]:
    """A function that makes a file system of a size (`300m`), for what happens when it is full."""
    with contextlib.ExitStack() as stack:
        yield lambda size: stack.enter_context(disk(size))


@pytest.fixture
def empty_database_url(admin_dsn: str, server_url: str, prefix: str) -> Iterator[str]:
    """An empty database of one's own."""
    name = f"{prefix}_empty"
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(f'create database "{name}"')
        yield DatabaseURL.parse(server_url).replace(database=name).render()
        connection.execute(f'drop database "{name}" with (force)')


@pytest.fixture
def environment(
    state_dir: Path, postgres_bin: str | None, run_id: str, prefix: str, lease: leases.Lease
) -> dict[str, str]:
    """The environment for programs under test: the run's server, a salt, and names of their own."""
    settings = {
        "CLONEDB_STATE_DIR": str(state_dir),
        "CLONEDB_SALT": run_id,
        "CLONEDB_PREFIX": prefix,
        "CLONEDB_IDLE_TIMEOUT": "5",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTEST_ADDOPTS": lean_pytest(),
        "COLUMNS": "200",
    }
    if postgres_bin:
        settings["CLONEDB_POSTGRES_BIN"] = postgres_bin
    return {**dict(clean_environment()), **settings}


@pytest.fixture
def make_project(tmp_path: Path, environment: dict[str, str]) -> Callable[[str], Project]:
    """A function that makes an Alembic project in a directory of its own."""

    def make(name: str) -> Project:
        directory = tmp_path / name
        directory.mkdir()
        return Project(directory, environment)

    return make


@pytest.fixture
def project(make_project: Callable[[str], Project]) -> Project:
    """An Alembic project without revisions."""
    return make_project("project")


@pytest.fixture
def items(project: Project) -> Project:
    """An Alembic project whose two revisions make a table `item` with one row."""
    project.items()
    return project


@pytest.fixture
def variables(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's environment is that of the projects' programs."""
    for name in ("DATABASE_URL", "TEST_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        if name.startswith("CLONEDB_"):
            monkeypatch.setenv(name, value)
