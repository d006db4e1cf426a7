"""A state directory of a test's own for embedded servers, and processes that take leases in it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from clonedb.embedded import leases
from clonedb.embedded.binaries import Binaries, choose
from clonedb.embedded.leases import Lease
from clonedb.embedded.places import Running, ServerDirectory
from clonedb.settings.config import Config

ROOT = os.geteuid() == 0
PROJECT = Path(leases.__file__).parents[2]

# A process of its own: takes a lease (in `forks` children too), says so in JSON, and lives until its input ends.
USER = """
import json, os, resource, sys
from pathlib import Path
from clonedb.settings.config import Config
from clonedb.errors import ServerError
from clonedb.embedded import binaries, leases
wish = json.loads(sys.argv[1])
config = Config(rootdir=Path("/")).replace("the test", **wish["config"])
if wish["limit"]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (wish["limit"], wish["limit"]))
for _ in range(wish["forks"]):
    if os.fork() == 0:
        break
found = binaries.Binaries(Path(wish["directory"]), wish["source"], wish["version"])
try:
    lease = leases.lease(config, found)
except ServerError as error:
    answer = {"error": str(error)}
else:
    answer = {"port": lease.port, "started": lease.started, "password": lease.password}
os.write(1, json.dumps(answer).encode() + b"\\n")
sys.stdin.read()
"""


@dataclass
class Sandbox:
    """A state directory of its own, and what was started in it."""

    config: Config
    binaries: Binaries
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def place(self) -> ServerDirectory:
        return ServerDirectory.of(self.config, self.binaries)

    def lease(self, *, progress: Callable[[str], None] | None = None) -> Lease:
        return leases.lease(self.config, self.binaries, progress=progress)

    def running(self) -> Running:
        running = self.place.running()
        assert running is not None
        return running

    def user(
        self,
        *,
        limit: int = 0,
        forks: int = 0,
        account: int | None = None,
        python: str = sys.executable,
    ) -> subprocess.Popen[str]:
        """Start a process that takes a lease."""
        values = {name: getattr(self.config, name) for name in ("state_dir", "idle_timeout")}
        wish = {
            "config": values,
            "limit": limit,
            "forks": forks,
            "directory": str(self.binaries.directory),
        }
        wish |= {"source": self.binaries.source, "version": self.binaries.version}
        process = subprocess.Popen(
            [
                python,
                "-S",
                "-c",
                USER,
                json.dumps(wish),
            ],  # -S: it needs nothing of site-packages
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            user=account,
            group=account,
            extra_groups=None if account is None else [],
        )
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        for place in ServerDirectory.all(self.config):
            if keeper := place.keeper():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(keeper["pid"], signal.SIGCONT)  # a test may have stopped it
            if sockets := place.read("socket"):  # of a keeper that a test killed
                leases.stop(self.config)
                shutil.rmtree(sockets, ignore_errors=True)
        shutil.rmtree(self.config.state_dir or "", ignore_errors=True)


def make_sandbox(postgres_bin: str | None) -> Sandbox:
    """A sandbox in a directory that the account PostgreSQL runs as can pass: pytest's tmp_path is private to root.

    In memory where there is room: on a disk, making and deleting the thousand files of a data directory takes 1 s.
    """
    memory = Path("/dev/shm")
    roomy = os.access(memory, os.W_OK | os.X_OK) and shutil.disk_usage(memory).free > 1 << 30
    directory = Path(tempfile.mkdtemp(prefix="clonedb-state-", dir=memory if roomy else None))
    directory.chmod(0o711 if ROOT else 0o700)
    config = Config(rootdir=Path("/")).replace(
        "the test", state_dir=str(directory), postgres_bin=postgres_bin
    )
    config = config.replace("the test", idle_timeout=0.3)
    return Sandbox(config, choose(config, ()))


def answer(process: subprocess.Popen[str]) -> dict[str, object]:
    """The next line that a user's process prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        pytest.fail(process.communicate()[1])
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def by_socket(lease: Lease) -> str:
    """Keywords of a connection through the private socket."""
    return f"host={lease.socket_dir} port={lease.port} user={lease.user} dbname=postgres"


def by_loopback(lease: Lease, password: str = "") -> str:
    """Keywords of a connection by TCP."""
    return f"host=127.0.0.1 port={lease.port} user={lease.user} password='{password}' dbname=postgres"


def query(lease: Lease, statement: str) -> object:
    """The first column of the first row, asked over the socket."""
    with psycopg.connect(by_socket(lease)) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits for its parent's notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
