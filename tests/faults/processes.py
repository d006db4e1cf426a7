"""Processes of a project under test: started in groups of their own, interrupted, killed, and looked for afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import psycopg

from tests.embedded.sandbox import is_alive
from tests.projects import Outcome, Project, prefork

# Bodies of revisions. What they do outside the database is told by the environment, which is not in the fingerprint.
COUNT = 'with open(os.environ["COUNT"], "a") as file:\n    file.write("ran\\n")\n'
HANG = 'if path := os.environ.get("HANG"):\n    open(path, "w").close()\n    time.sleep(60)\n'
HANG_IN_SQL = 'if path := os.environ.get("HANG"):\n    open(path, "w").close()\n    op.execute("select pg_sleep(60)")\n'


class Program:
    """A program in the project's directory and in a process group of its own, as a terminal would start it."""

    def __init__(self, project: Project, *command: str, **more: str) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=project.directory,
            env={**project.environment, **more},
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def interrupt(self) -> None:
        """Ctrl-C: a SIGINT for every process of the group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """kill -9 of the program alone."""
        self.process.kill()

    def outcome(self, timeout: float = 60) -> Outcome:
        """Wait for its end."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(
                self.process.pid, signal.SIGABRT
            )  # PYTHONFAULTHANDLER says where it hangs
            out, err = self.process.communicate()
            raise AssertionError(f"it did not end within {timeout} s\n{out}\n{err}") from None
        return Outcome(self.process.returncode, out, err)

    def kill_group(self) -> None:
        """Leave nothing running, whatever became of the test."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def wait_for(self, path: Path, seconds: float = 30) -> None:
        """Wait until the program has made a file; fail with what it printed if it ends before."""
        deadline = time.monotonic() + seconds
        while not path.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                out, err = self.process.communicate()
                raise AssertionError(
                    f"{path.name!r} was never made (exit code {self.process.returncode})\n{out}\n{err}"
                )
            time.sleep(0.01)


def count(path: Path) -> int:
    """How many times a revision ran that counts itself in a file."""
    return len(path.read_text().splitlines()) if path.exists() else 0


def demand_nothing_left(project: Project, dsn: str, seconds: float = 5) -> None:
    """Fail unless, within some seconds, only templates are left on the server and no process or session of anybody.

    The server's processes notice a bit later that their client is gone.
    """
    deadline = time.monotonic() + seconds
    while left := _left(project, dsn):
        if time.monotonic() > deadline:
            raise AssertionError("left behind: " + "; ".join(left))
        time.sleep(0.02)


def _left(project: Project, dsn: str) -> list[str]:
    prefix = project.environment["CLONEDB_PREFIX"]
    left = [f"process {pid}: {_command(pid)}" for pid in processes_of(project)]
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute(
            "select datname, datistemplate from pg_database where starts_with(datname, %s) order by 1",
            [prefix],
        )
        left += [f"database {name}" for name, is_template in found if not is_template]
        sessions = connection.execute(
            "select pid, datname, application_name, query, starts_with(datname, %s) from pg_stat_activity"
            " where backend_type = 'client backend' and pid <> pg_backend_pid()",
            [prefix],
        )
        for pid, database, application, query, ours in sessions:
            client = application.rpartition("pid ")[2]
            if ours or (client.isdigit() and not is_alive(int(client))):
                left.append(f"session {pid} of {application!r} in {database!r}: {query}")
    return left


def processes_of(project: Project) -> list[int]:
    """The processes that live in the project's environment, workers and upgrade interpreters among them.

    What was forked shows the environment of the process that forked it, which forks for one test at a time.
    """
    mark = f"CLONEDB_PREFIX={project.environment['CLONEDB_PREFIX']}".encode()
    found = prefork().children()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return "gone by now"
