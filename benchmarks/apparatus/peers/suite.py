"""One suite of tests, run by a whole pytest process under the isolation that a peer's conftest gives them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.apparatus.peers.given import Given
from benchmarks.apparatus.peers.peer import Peer
from benchmarks.apparatus.places import CHECKOUT, environment

__all__ = ["Run", "Suite", "SuiteError"]

_WRITING = """
import pytest
{imported}

@pytest.mark.parametrize("number", range({tests}))
def test_writing(database, number):
    database.execute(statement("insert into table_000 (title) values ('one'), ('two')"))
    database.execute(statement("insert into table_001 (title, parent_id) values ('three', 1)"))
    database.commit()
"""
_READING = """
@pytest.mark.parametrize("number", range({tests}))
def test_reading(database, number):
    assert database.execute(statement("select count(*) from table_000")).fetchone()[0] == {rows}
    assert database.execute(statement("select count(*) from table_001")).fetchone()[0] == {rows}
"""
_STATEMENT = {
    "psycopg": "statement = str",
    "sqlalchemy": "from sqlalchemy import text as statement",
}
_SECONDS = 180.0
"""So long a run may take: a peer that hangs shall not stop the others."""


class SuiteError(Exception):
    """A suite did not run, or a test of it failed; the message is why, in one line."""


@dataclass(frozen=True, slots=True)
class Run:
    """What tests paid before and after them, by what they do, and the whole process for each of them; in ms."""

    writing: Sequence[float]
    reading: Sequence[float]
    whole: float


class Suite:
    """The tests, and a peer's conftest, in a directory of their own that stays from run to run."""

    def __init__(
        self, peer: Peer, given: Given, directory: Path, *, writing: int, reading: int = 0
    ) -> None:
        directory.mkdir(parents=True)
        self._peer = peer
        self._given = replace(given, spent=str(directory / "spent.json"))
        self._directory = directory
        self._tests = writing + reading
        tests = _WRITING.format(imported=_STATEMENT[peer.speaks], tests=writing)
        if reading:
            tests += _READING.format(tests=reading, rows=peer.rows)
        (directory / "test_database.py").write_text(tests)
        (directory / "conftest.py").write_text(peer.conftest)
        (directory / "pytest.ini").write_text("[pytest]\n")

    def run(self, workers: int) -> Run:
        """Run it in one process, or with so many workers of xdist's.

        The first and the last test of each worker are left out: one pays for a template, the other for its end.
        Raises SuiteError.
        """
        plugins = ["benchmarks.apparatus.peers.spent", "no:cacheprovider", *self._peer.plugins]
        options = ["-q"]
        if workers > 1:
            plugins.append("xdist")
            options += ["-n", str(workers), *self._peer.options_in_parallel]
        command = [
            sys.executable,
            "-m",
            "pytest",
            *(word for name in plugins for word in ("-p", name)),
            *options,
        ]
        variables = environment(
            PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
            PYTHONPATH=str(CHECKOUT),
            **self._given.variables(),
            **self._peer.variables,
        )
        seconds = _run(command, self._directory, variables)
        tests = _paid(json.loads((self._directory / "spent.json").read_text()))
        return Run(
            writing=[paid for name, paid in tests if "test_writing" in name],
            reading=[paid for name, paid in tests if "test_reading" in name],
            whole=seconds / self._tests * 1e3,
        )


def _paid(reports: list[tuple[str, str, str, float]]) -> list[tuple[str, float]]:
    """The tests between each worker's first and last, and their milliseconds before and after them."""
    workers: dict[str, dict[str, float]] = {}
    for worker, name, when, seconds in reports:
        tests = workers.setdefault(worker, {})
        tests[name] = tests.get(name, 0.0) + (0.0 if when == "call" else seconds * 1e3)
    return [test for tests in workers.values() for test in list(tests.items())[1:-1]]


def _run(command: list[str], directory: Path, variables: dict[str, str]) -> float:
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise SuiteError(f"not done after {_SECONDS:g} s") from None
    finally:
        seconds = time.perf_counter() - start
        _end(directory)
        process.wait()
    if process.returncode != 0:
        raise SuiteError(_reason(output) or f"pytest ended with {process.returncode}")
    return seconds


def _end(directory: Path) -> None:
    """Kill what a run has left behind: the processes whose environment names its directory."""
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has just ended, or is another account's
            if str(directory).encode() in environ.read_bytes():
                os.kill(int(environ.parent.name), signal.SIGKILL)


def _reason(output: str) -> str:
    """The first line of the first error that pytest shows, or the last line of all."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("E").strip() for line in lines if line.startswith("E  ")]
    return [*errors, *lines[-1:], ""][0]
