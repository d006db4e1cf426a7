"""A command of `migrate` that does not end by itself, and what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.projects import CLONEDB, Project
from tests.templates.conftest import MAKE

SLEEPS = """
import os, subprocess, sys, time
print("Applying 0001... ", end="")
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", os.environ["MARK"]])
time.sleep(600)
"""


@pytest.mark.campaign("long")
def test_a_command_that_hangs(maker: Project) -> None:
    """It is told how long it runs and what it said last, and ended with all that it started."""
    maker.write("make.py", SLEEPS)
    mark = f"mark{os.getpid()}"
    outcome = maker.clonedb("build", CLONEDB_MIGRATE_TIMEOUT="4", MARK=mark).demand(1)
    assert "command 1 of 1 (2 s: Applying 0001...)" in outcome.err
    told = "the command 'python make.py' still ran after migrate_timeout = 4 s, and was ended"
    assert f"{told}\nlast output:\n  Applying 0001..." in outcome.err
    assert _running(mark) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_command(maker: Project, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and SIGKILL of the process that builds end all that it started."""
    maker.write("make.py", SLEEPS)
    mark = f"mark{os.getpid()}"
    process = maker.popen(*CLONEDB, "build", MARK=mark)
    try:
        _wait(lambda: len(_running(mark)) == 1)
        process.send_signal(number)
        process.communicate(timeout=20)
        _wait(lambda: _running(mark) == [])
    finally:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_all_processes_of_a_build(maker: Project, number: signal.Signals) -> None:
    """Ctrl-C, `timeout` and CI signal the whole group: the interpreter that migrates still ends the command."""
    maker.write("make.py", SLEEPS)
    mark = f"mark{os.getpid()}"
    process = maker.popen("setsid", *CLONEDB, "build", MARK=mark)
    try:
        _wait(lambda: len(_running(mark)) == 1)
        os.killpg(process.pid, number)
        process.communicate(timeout=20)
        _wait(lambda: _running(mark) == [])
    finally:
        process.kill()


@pytest.mark.parametrize("ends", [True, False])
def test_daemons_of_a_command_are_ended(maker: Project, *, ends: bool) -> None:
    """A process in a session of its own, below a parent that is gone, does not outlive the command."""
    daemon = """
    import os, subprocess, sys, time
    if os.fork() == 0:
        os.setsid()
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", os.environ["MARK"]])
        os._exit(0)
    """
    maker.write("make.py", textwrap.dedent(daemon) + (MAKE if ends else "\ntime.sleep(600)\n"))
    mark = f"mark{os.getpid()}"
    maker.clonedb("build", CLONEDB_MIGRATE_TIMEOUT="4", MARK=mark).demand(0 if ends else 1)
    assert _running(mark) == []


def test_what_a_command_leaves_behind_is_ended(maker: Project) -> None:
    """A process that it started in the background, whose output is open."""
    leaves = """
    import os, subprocess, sys
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", os.environ["MARK"]])
    """
    maker.write("make.py", textwrap.dedent(leaves) + MAKE)
    mark = f"mark{os.getpid()}"
    assert "2 passed" in maker.pytest(MARK=mark).demand().out
    assert _running(mark) == []


def _running(mark: str) -> list[int]:
    """The processes that have a word among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def _wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
