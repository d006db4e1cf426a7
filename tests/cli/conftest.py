"""What the command line's tests share: a server of their own, as `clonedb clone` holds one for hours."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clonedb.embedded import binaries, leases
from clonedb.settings.config import Config
from tests.projects import Outcome, Project, databases

Command = Callable[..., Outcome]


def make_state_dir() -> Path:
    """A directory that the account PostgreSQL runs as can pass: pytest's tmp_path is private to root."""
    memory = Path("/dev/shm")  # a clone costs a third of what it costs on a disk
    base = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="clonedb-cli-", dir=base))
    directory.chmod(0o711 if os.geteuid() == 0 else 0o700)
    return directory


@pytest.fixture(scope="session")
def own_server(postgres_bin: str | None) -> Iterator[leases.Lease]:
    """The server that this worker's commands use."""
    directory = make_state_dir()
    config = Config(rootdir=Path("/")).replace(
        "tests", state_dir=str(directory), postgres_bin=postgres_bin
    )
    with leases.lease(config, binaries.choose(config, ())) as held:
        yield held
    leases.stop(config)
    shutil.rmtree(directory)


@pytest.fixture
def admin_dsn(own_server: leases.Lease) -> str:
    """The maintenance database of the commands' server."""
    return f"host={own_server.socket_dir} port={own_server.port} user={own_server.user} dbname=postgres"


@pytest.fixture(scope="session")
def shared_prefix(run_id: str) -> str:
    """A prefix that this worker's tests share, and with it the template."""
    return f"c{run_id[:5]}_{os.getpid():x}"


@pytest.fixture
def prefix(shared_prefix: str) -> str:
    """As above; a test that counts databases asks for `clones`, which begins without any."""
    return shared_prefix


@pytest.fixture
def environment(environment: dict[str, str], own_server: leases.Lease) -> dict[str, str]:
    """The commands' server in place of the run's."""
    state_dir = own_server.data_dir.parents[2]
    return {**environment, "CLONEDB_STATE_DIR": str(state_dir), "CLONEDB_IDLE_TIMEOUT": "10"}


@pytest.fixture
def cli(items: Project, own_server: leases.Lease) -> Command:
    """A function that runs `clonedb ARGUMENTS` in the project, and sees that no traceback and no password is shown."""

    def run(*arguments: str, code: int = 0, **variables: str) -> Outcome:
        outcome = items.clonedb(*arguments, **variables).demand(code)
        assert "Traceback" not in outcome.text
        assert own_server.password not in outcome.err
        if "clone" not in arguments and "run" not in arguments:
            assert own_server.password not in outcome.out
        return outcome

    return run


@pytest.fixture
def clones(admin_dsn: str, prefix: str, cli: Command) -> Callable[[], list[str]]:
    """A function that lists the clones on the server, where there are none at first."""

    def found() -> list[str]:
        return databases(admin_dsn, f"{prefix}_c_")

    if left := found():
        cli("drop", *left)
    return found
