"""What the tests fork is what they would start: see `tests/prefork.py`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from clonedb.project.find import find_project
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL
from tests.migrators import Migrator
from tests.prefork import PROGRAMS
from tests.projects import CLONEDB, PYTEST, Project, prefork

LOOKS = """
import gc, json, os, signal, sys, threading

FOUND = {
    "environment": {name: value for name, value in os.environ.items() if name != "LINES"},  # readline's
    "directory": os.getcwd(),
    "umask": os.umask(0),
    "path": sys.path,
    "arguments": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
    "flags": [sys.flags.safe_path, sys.dont_write_bytecode],
    "handlers": [str(signal.getsignal(number)).partition(" at ")[0] for number in (signal.SIGINT, signal.SIGCHLD)],
    "descriptors": len(os.listdir("/proc/self/fd")),
    "threads": threading.active_count(),
}
os.umask(FOUND["umask"])
"""


def seen(path: Path) -> object:
    """What a program saw; the name of the test in which it looked is the same."""
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    "arguments",
    [("-p", "no:xdist"), ("-n", "1", "--testrunuid=same")],
    ids=["pytest", "a worker of xdist"],
)
def test_a_forked_pytest_is_as_a_started_one(
    items: Project, arguments: tuple[str, ...]
) -> None:
    """Its environment, directory, umask, path, arguments, handlers and descriptors are those of a start."""
    items.environment["ODD"] = "line\nbreak \udcff"
    items.write("conftest.py", LOOKS)
    items.write(
        "test_it.py",
        "import conftest, json, pathlib\ndef test_it(): pathlib.Path('found').write_text(json.dumps(conftest.FOUND))\n",
    )
    found = []
    for starts_anew in (True, False):
        items.starts_anew = starts_anew
        items.pytest(*arguments, "-W", "error").demand()
        found.append(seen(items.directory / "found"))
    assert found[0] == found[1]


def test_a_forked_interpreter_that_migrates_is_as_a_started_one(
    project: Project, empty_database_url: str, request: pytest.FixtureRequest
) -> None:
    """From within a revision, too."""
    path = project.directory / "found"
    project.revision(
        "one",
        f"exec({LOOKS!r}, globals())\nimport json\nwith open({str(path)!r}, 'w') as file: json.dump(FOUND, file)",
    )
    config = Config(rootdir=project.directory)
    migrator = Migrator(config, find_project(config))
    url = DatabaseURL.parse(empty_database_url)
    migrator.upgrade(url)
    forked = seen(path)
    request.getfixturevalue("started_interpreters")
    migrator.downgrade(url)
    migrator.upgrade(url)
    assert forked == seen(path)


def test_a_program_that_fails(items: Project) -> None:
    """Its exit code and both streams are handed over."""
    outcome = items.run(*CLONEDB, "nonsense")
    assert (outcome.code, outcome.out) == (2, "")
    assert "No such command 'nonsense'" in outcome.err


def test_a_program_that_hangs_says_where(items: Project) -> None:
    """After its time, and none is left behind."""
    items.write("test_it.py", "import time\ndef test_it(): time.sleep(60)\n")
    with pytest.raises(TimeoutError, match="in test_it"):
        prefork().client.run(
            PYTEST[1:], cwd=str(items.directory), environment=items.environment, timeout=2
        )
    assert prefork().children() == []


def test_a_program_is_killed_with_its_number(items: Project) -> None:
    """As `Popen` has it: the signal's number, negative."""
    with Path(os.devnull).open("r+b") as null:
        streams = {number: null.fileno() for number in range(3)}
        program = "-m", "timeit", "-n", "1", "import time; time.sleep(60)"
        process = prefork().client.fork(PROGRAMS, program, items.environment, streams)
        assert process is not None
        assert process.poll() is None
        assert prefork().children() == [process.pid]
        process.kill()
        assert process.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 5
    while prefork().children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert prefork().children() == []


ENDS = {
    "well": "print('done')",
    "with a number": "print('some', end=''); sys.exit(3)",
    "with a text": "sys.exit('no')",
    "by an error": "1 / 0",
    "by Ctrl-C": "raise KeyboardInterrupt",
    "with what is left to do": "import atexit; atexit.register(print, 'bye')",
    "with a thread": "threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
    "without a place to write to": "print('lost'); os.close(1)",
    "in a fork, too": "os.wait() if os.fork() else sys.exit(5)",
}


@pytest.mark.parametrize("program", ENDS.values(), ids=ENDS)
def test_a_forked_program_ends_as_a_started_one(items: Project, program: str) -> None:
    """With its exit code, after its threads and what it registered, and with all that it printed."""
    code = f"import os, sys, threading, time; {program}"
    forked = prefork().client.run(
        ("-c", code), cwd=str(items.directory), environment=items.environment, timeout=20
    )
    assert forked is not None
    started = items.popen(sys.executable, "-c", code)
    out, err = started.communicate(timeout=20)
    assert (forked[0], forked[1]) == (started.returncode, out)
    assert forked[2].splitlines()[-1:] == err.splitlines()[-1:]
