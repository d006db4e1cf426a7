"""A process that has imported what pytest and clonedb import, and forks for each program that a test runs.

Importing them takes a program half a second of the processor, its own work often a tenth of that. What is forked is a
process of its own, with its own environment, directory, output, exit code and end, as one that was started: it only
finds its imports done. Programs about importing, signals and the interpreter's own variables are started instead.

This file is run, not imported, by the interpreter that forks; `Prefork` is the other side, in the tests' process.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from typing import IO

_FOR_THE_INTERPRETER = ("PYTHON", "LC_", "LANG", "LD_", "TZ", "COVERAGE_", "COV_CORE_")  # read when it starts
_LENGTH = struct.Struct("!I")


class Prefork:
    """The tests' side: it runs `python -m MODULE ARGUMENTS`."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start the interpreter, with the variables that an interpreter reads from this environment."""
        self._fixed = _for_the_interpreter(environment)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                # without the first test's own names, by which other tests look for processes that were left behind
                env={name: value for name, value in environment.items() if not name.startswith("CLONEDB_")},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def run(
        self, module: str, arguments: tuple[str, ...], *, cwd: str, environment: Mapping[str, str], timeout: float
    ) -> tuple[int, str, str] | None:
        """The exit code and both streams; None for what it cannot run as an interpreter of its own would.

        Raises TimeoutError with what was printed, after the program was told to say where it hangs.
        """
        if _for_the_interpreter(environment) != self._fixed or os.getpid() != self._pid:
            return None
        if not self._lock.acquire(blocking=False):
            return None
        try:
            with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
                request = json.dumps([module, arguments, cwd, dict(environment)]).encode()
                socket.send_fds(self._socket, [_LENGTH.pack(len(request))], [out.fileno(), err.fileno()])
                self._socket.sendall(request)
                (pid,) = _LENGTH.unpack(_received(self._socket, _LENGTH.size))
                ended = bool(select.select([self._socket], [], [], timeout)[0])
                if not ended:
                    os.kill(pid, signal.SIGABRT)
                (status,) = _LENGTH.unpack(_received(self._socket, _LENGTH.size))
                found = (os.waitstatus_to_exitcode(status), _text(out), _text(err))
            if not ended:
                raise TimeoutError(f"{found[1]}\n{found[2]}")
            return found
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the interpreter."""
        self._socket.close()
        self._process.wait()


def _for_the_interpreter(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_FOR_THE_INTERPRETER)}


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _received(connection: socket.socket, length: int) -> bytes:
    """So many bytes; fewer if the other side has ended."""
    found = b""
    while len(found) < length and (more := connection.recv(length - len(found))):
        found += more
    return found


def _import_all() -> None:
    """Import what the programs would, pytest's plugins by a run of pytest without tests."""
    import pytest

    with (
        tempfile.TemporaryDirectory() as empty,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        pytest.main(["-q", "-p", "clonedb", "-p", "no:cacheprovider", "--rootdir", empty, empty])
    import psycopg
    import rich.console
    import sqlalchemy.dialects.postgresql.psycopg
    import sqlalchemy.orm

    import clonedb.api
    import clonedb.cli

    del psycopg, rich, sqlalchemy, clonedb


def _serve(connection: socket.socket) -> tuple[str, list[str]] | None:
    """Fork for each request and answer with the child's number, then with its end.

    Returns the module and its arguments in the child, and None in the parent when the tests have ended.
    """
    while True:
        head, descriptors, _, _ = socket.recv_fds(connection, _LENGTH.size, 2)
        if len(head) < _LENGTH.size:
            return None
        request = _received(connection, *_LENGTH.unpack(head))
        pid = os.fork()
        if pid == 0:
            connection.close()
            for stream, descriptor in zip((1, 2), descriptors, strict=True):
                os.dup2(descriptor, stream)
                os.close(descriptor)
            return _become(*json.loads(request))
        for descriptor in descriptors:
            os.close(descriptor)
        connection.sendall(_LENGTH.pack(pid))
        connection.sendall(_LENGTH.pack(os.waitpid(pid, 0)[1]))


def _become(module: str, arguments: list[str], cwd: str, environment: dict[str, str]) -> tuple[str, list[str]]:
    """Make this forked process what `python -m MODULE ARGUMENTS` would be."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = cwd
    tempfile.tempdir = None  # it was looked up for the imports, and is asked of TMPDIR anew
    return module, arguments


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, and for what is forked
    connection = socket.socket(fileno=int(sys.argv[1]))
    path = list(sys.path)
    _import_all()
    sys.path[:] = path
    gc.freeze()  # so that no child copies the memory of what was imported only to look through it
    program = _serve(connection)
    if program is not None:
        import runpy

        module, arguments = program
        sys.argv = [module, *arguments]
        sys.orig_argv = [sys.executable, "-m", module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
