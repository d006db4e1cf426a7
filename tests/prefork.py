"""Programs that are forked from a process that has their imports done, instead of started.

Importing them takes a program half a second of the processor, its own work often a tenth of that. What is forked is a
process of its own, with its own environment, directory, streams, exit code and end, as one that was started: it only
finds its imports done. Programs about importing, signals and the interpreter's own variables are started instead.

`tests/prefork_server.py` is the process that forks. This module is the other side of its socket. It is imported by the
tests, and by the servers, whose programs start the interpreters that migrate and pytest-xdist's workers with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from socket import socket as Socket  # noqa: N812 - pytest-socket puts another class in its place
from types import SimpleNamespace
from typing import IO, Any

PROGRAMS, MIGRATIONS = "programs", "migrations"
LENGTH = struct.Struct("!I")

_SERVER = Path(__file__).with_name("prefork_server.py")
_FOR_IMPORTS = (
    "PYTHON",
    "LC_",
    "LANG",
    "LD_",
    "TZ",
    "PSYCOPG_",
    "SQLALCHEMY_",
)
_FOR_ITSELF = (
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONFAULTHANDLER",
)  # what is forked follows these itself
_FLAGS = {PROGRAMS: [], MIGRATIONS: ["-P"]}  # those of what is forked


class Forked:
    """A process that a server forked, with the methods of `subprocess.Popen` that are used of it."""

    def __init__(self, connection: Socket, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        self._connection = connection
        self._pidfd = pidfd

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """End the process at once."""
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """The exit code, if the process has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, as `Popen` gives it. Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._connection, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            answer = received(self._connection, LENGTH.size)
            self._connection.close()
            os.close(self._pidfd)
            # without an answer, the server has ended before its child
            self.returncode = (
                os.waitstatus_to_exitcode(*LENGTH.unpack(answer)) if answer else -signal.SIGKILL
            )
        return self.returncode


class Prefork:
    """The servers of one process of the tests: one for pytest and clonedb, one for the interpreters that migrate."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start the servers, with the variables that an interpreter and its imports read from this environment."""
        self._directory = tempfile.mkdtemp(prefix="prefork-")
        self._alive, theirs = os.pipe()[::-1]
        # without the first test's own names, by which other tests look for processes that were left behind
        kept = {
            name: value
            for name, value in environment.items()
            if not name.startswith("CLONEDB_")
        }
        self._servers = [self._started(kind, theirs, kept) for kind in (PROGRAMS, MIGRATIONS)]
        os.close(theirs)
        self.client = Client(self._directory, for_imports(environment), os.getuid())

    def _started(
        self, kind: str, alive: int, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        with Socket(socket.AF_UNIX) as listener:
            listener.bind(f"{self._directory}/{kind}")
            listener.listen(64)  # what is asked before its imports are done waits for them
            return subprocess.Popen(
                [
                    sys.executable,
                    *_FLAGS[kind],
                    str(_SERVER),
                    kind,
                    str(listener.fileno()),
                    str(alive),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[listener.fileno(), alive],
            )

    def children(self) -> list[int]:
        """The processes that were forked and have not ended."""
        found = [
            Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
            for server in self._servers
        ]
        return [int(pid) for pids in found for pid in pids.split()]

    def close(self) -> None:
        """End the servers."""
        os.close(self._alive)
        for server in self._servers:
            server.wait()


class Client:
    """Asks the servers for processes; None for what they cannot run as an interpreter of its own would."""

    def __init__(self, directory: str, variables: Mapping[str, str], user: int) -> None:
        self.directory = directory
        self.variables = dict(variables)
        self.user = user

    def fork(
        self,
        kind: str,
        program: Sequence[str],
        environment: Mapping[str, str],
        descriptors: Mapping[int, int],
        *,
        cwd: Path | str | None = None,
    ) -> Forked | None:
        """A process that runs a program: ("-m", MODULE, ...) or ("-c", CODE).

        `descriptors` are ours by the numbers that they are to have in it.
        """
        if for_imports(environment) != self.variables or os.getuid() != self.user:
            return None
        umask = os.umask(0o077)
        os.umask(umask)
        connection = Socket(socket.AF_UNIX)
        try:
            connection.connect(f"{self.directory}/{kind}")
            request = json.dumps(
                {
                    "program": list(program),
                    "environment": dict(environment),
                    "cwd": str(cwd or os.getcwd()),  # noqa: PTH109 - a test may have replaced Path
                    "umask": umask,
                    "descriptors": list(descriptors),
                    "client": [self.directory, self.variables, self.user],
                }
            ).encode()
            socket.send_fds(connection, [LENGTH.pack(len(request))], list(descriptors.values()))
            connection.sendall(request)
            head, (pidfd,), _, _ = socket.recv_fds(connection, LENGTH.size, 1)
        except BaseException:
            connection.close()
            raise
        (pid,) = LENGTH.unpack(head)
        return Forked(connection, pid, pidfd)

    def run(
        self,
        program: Sequence[str],
        *,
        cwd: str,
        environment: Mapping[str, str],
        timeout: float,
    ) -> tuple[int, str, str] | None:
        """The exit code and both streams of `python PROGRAM`.

        Raises TimeoutError with what was printed, after the program was told to say where it hangs.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            streams = {1: out.fileno(), 2: err.fileno()}
            process = self.fork(PROGRAMS, program, environment, streams, cwd=cwd)
            if process is None:
                return None
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)
                process.wait()
                raise TimeoutError(f"{_text(out)}\n{_text(err)}") from None
            return code, _text(out), _text(err)

    def popen(self, command: Sequence[str], **given: Any) -> Any:
        """What `subprocess.Popen` would start: forked, if it is pytest or clonedb, or a program of clonedb's own."""
        kind, program = PROGRAMS, list(command[1:])
        if program[:1] == ["-P"] and Path(program[1]).parent.name == "inside":
            kind, program = (
                MIGRATIONS,
                ["-m", f"clonedb.migrate.inside.{Path(program[1]).stem}", *program[2:]],
            )
        if (
            command[0] != sys.executable
            or program[0] != "-m"
            or not program[1].startswith(("pytest", "clonedb"))
        ):
            return subprocess.Popen(command, **given)
        out = given["stdout"].fileno() if "stdout" in given else 1
        streams = {0: given.get("stdin", 0), 1: out, 2: out if "stderr" in given else 2}
        streams |= {number: number for number in given.get("pass_fds", ())}
        process = self.fork(kind, program, given["env"], streams, cwd=given.get("cwd"))
        return process or subprocess.Popen(command, **given)

    def answer(
        self, command: Sequence[str], question: str
    ) -> subprocess.CompletedProcess[str] | None:
        """What the program that asks Alembic how it reads a project's configuration says."""
        with (
            tempfile.TemporaryFile() as asked,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            asked.write(question.encode())
            asked.seek(0)
            streams = {0: asked.fileno(), 1: out.fileno(), 2: err.fileno()}
            process = self.fork(
                MIGRATIONS, ("-m", "clonedb.project.alembic_reader"), os.environ, streams
            )
            if process is None:
                return None
            return subprocess.CompletedProcess(command, process.wait(), _text(out), _text(err))

    def worker(self, command: list[str]) -> Any:
        """What `subprocess.Popen` would start as a worker of pytest-xdist, with pipes to its standard streams."""
        requests, asking = os.pipe()
        answers, writing = os.pipe()
        process = self.fork(PROGRAMS, command[2:], os.environ, {0: requests, 1: writing, 2: 2})
        for descriptor in (
            (requests, writing) if process else (requests, writing, asking, answers)
        ):
            os.close(descriptor)
        if process is None:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.stdin, process.stdout = os.fdopen(asking, "wb"), os.fdopen(answers, "rb")
        return process


def install(client: Callable[[], Client]) -> None:
    """Let this process fork the interpreters that it starts to migrate, the programs of commands, and xdist's workers."""
    from execnet import gateway_base, gateway_io

    import clonedb.cli.process
    import clonedb.migrate.interpreter

    class Gateway(gateway_io.Popen2IOMaster):
        def __init__(self, command: list[str], execmodel: Any) -> None:
            self.popen = client().worker(command)
            gateway_base.Popen2IO.__init__(self, self.popen.stdin, self.popen.stdout, execmodel)

    def popen(command: Sequence[str], **given: Any) -> Any:
        return client().popen(command, **given)

    start = subprocess.run

    def run(command: Any, *arguments: Any, **given: Any) -> Any:
        asks = isinstance(command, list) and command[:2] == [sys.executable, "-P"]
        reads = asks and Path(command[2]).name == "alembic_reader.py"
        found = client().answer(command, given["input"]) if reads else None
        return found or start(command, *arguments, **given)

    vars(subprocess)["run"] = run  # which is imported where it is used
    vars(gateway_io)["Popen2IOMaster"] = Gateway
    for module in (clonedb.cli.process, clonedb.migrate.interpreter):
        vars(module)["subprocess"] = SimpleNamespace(
            Popen=popen,
            STDOUT=subprocess.STDOUT,
            TimeoutExpired=subprocess.TimeoutExpired,
        )


def for_imports(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that an interpreter reads when it starts, and libraries when they are imported."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_FOR_IMPORTS) and name not in _FOR_ITSELF
    }


def received(connection: Socket, length: int) -> bytes:
    """So many bytes; none if the other side has ended."""
    found = b""
    while len(found) < length:
        more = connection.recv(length - len(found))
        if not more:
            return b""
        found += more
    return found


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
