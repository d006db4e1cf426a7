"""State directories of a benchmark's own, and programs run in fresh processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.apparatus.machine import file_system
from clonedb.embedded import leases
from clonedb.settings.config import Config

__all__ = ["bases", "configuration", "environment", "run", "state_dir", "timed"]

_MEMORY = Path("/dev/shm")
CHECKOUT = Path(__file__).parent.parent.parent


def bases() -> Iterator[tuple[str, Path]]:
    """Where data may live, each with a name for the table: in memory when there is room, and with temporary files."""
    ordinary = Path(tempfile.gettempdir())
    if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 2**30:
        yield f"memory ({file_system(_MEMORY)})", _MEMORY
    yield f"disk ({file_system(ordinary)})", ordinary


@contextlib.contextmanager
def state_dir(base: Path | None = None) -> Iterator[Path]:
    """An empty state directory; its servers are stopped and it is deleted at the end.

    The account that PostgreSQL runs as when root measures can pass it (mode 0711).
    """
    base = base or next(bases())[1]
    directory = Path(tempfile.mkdtemp(prefix="clonedb-benchmark-", dir=base))
    directory.chmod(0o711 if os.geteuid() == 0 else 0o700)
    try:
        yield directory
    finally:
        leases.stop(configuration(directory))
        shutil.rmtree(directory, ignore_errors=True)


def configuration(state: Path, *, rootdir: Path | None = None, **values: Any) -> Config:
    """A configuration that uses a state directory; its server stays up long enough for a whole benchmark."""
    settings = {"state_dir": str(state), "idle_timeout": 300.0, **values}
    return Config(rootdir=rootdir or state).replace("benchmark", **settings)


def environment(**more: str) -> dict[str, str]:
    """The environment of this process without what would change what is measured."""
    dropped = ("CLONEDB_", "PYTEST_", "PG", "COV_", "COVERAGE_")
    names = ("DATABASE_URL", "TEST_DATABASE_URL", "ALEMBIC_CONFIG", "PYTHONDONTWRITEBYTECODE")
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(dropped) and key not in names
    }
    return {**kept, **more}


def timed(
    command: list[str], *, cwd: Path, variables: Mapping[str, str]
) -> tuple[float, float, str]:
    """Run a program to its end: the seconds on the clock, the seconds of processor time, and what it printed.

    Raises RuntimeError, with what it printed, when it fails.
    """
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(variables), stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode != 0:
        raise RuntimeError(f"{command} ended with {process.returncode}:\n{text}")
    return seconds, usage.ru_utime + usage.ru_stime, text


def run(
    program: str, *arguments: str, variables: Mapping[str, str] | None = None
) -> tuple[float, dict[str, Any]]:
    """Run a Python program in a fresh process: the seconds of the whole, and the JSON on its last line."""
    variables = {**(variables or environment()), "PYTHONPATH": str(CHECKOUT)}
    seconds, _, text = timed(
        [sys.executable, "-c", program, *arguments], cwd=CHECKOUT, variables=variables
    )
    found = json.loads(text.strip().splitlines()[-1])
    assert isinstance(found, dict)
    return seconds, found
