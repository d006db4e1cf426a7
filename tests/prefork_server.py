"""The process that has its imports done and forks for each program that a test runs: see `tests/prefork.py`.

It is run as `python prefork_server.py KIND LISTENER ALIVE`. LISTENER is the descriptor of its socket; it ends when
ALIVE, a pipe, is closed by the tests.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import importlib
import importlib.util
import io
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, NoReturn

_spec = importlib.util.spec_from_file_location(
    "clonedbs_tests_prefork", Path(__file__).with_name("prefork.py")
)
assert _spec is not None
assert _spec.loader is not None
prefork = importlib.util.module_from_spec(
    _spec
)  # not as `tests.prefork`: a project may have a package `tests`
_spec.loader.exec_module(prefork)


class Imports:
    """A plugin that imports what is imported late, while pytest rewrites its plugins' assertions."""

    def pytest_configure(self) -> None:
        """When pytest knows whose assertions are to be rewritten."""
        import clonedb

        for name in (
            "anyio._backends._asyncio",
            "anyio.pytest_plugin",
            "asyncpg",
            "filelock",
            "psycopg",
            "pytest_asyncio.plugin",
            "rich.console",
            "sqlalchemy.dialects.postgresql.asyncpg",
            "sqlalchemy.dialects.postgresql.psycopg",
            "sqlalchemy.ext.asyncio",
            "sqlalchemy.orm",
            "xdist.dsession",
            "xdist.remote",
            "xdist.workermanage",
            *(found.name for found in pkgutil.walk_packages(clonedb.__path__, "clonedb.")),
        ):
            if not name.startswith(
                ("clonedb.__main__", "clonedb.demo", "clonedb.migrate.inside")
            ):
                importlib.import_module(name)


def import_programs() -> None:
    """Import what pytest and clonedb would, by a run of pytest without tests."""
    import pytest

    with (
        tempfile.TemporaryDirectory() as empty,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        pytest.main(
            ["-q", "-p", "clonedb", "-p", "no:cacheprovider", "--rootdir", empty, empty],
            plugins=[Imports()],
        )


def import_migrations() -> None:
    """Import what the interpreter that migrates would, without anything of the project's."""
    for name in (
        "alembic.context",
        "alembic.runtime.migration",
        "psycopg",
        "sqlalchemy.dialects.postgresql.psycopg",
    ):
        importlib.import_module(name)
    import clonedb.migrate.inside

    for found in pkgutil.iter_modules(clonedb.migrate.inside.__path__):
        if found.name not in ("program", "command"):  # which are run
            importlib.import_module(f"clonedb.migrate.inside.{found.name}")


class ForkServer:
    """Forks for each connection, and answers with the child's number, a descriptor of it, and then with its end."""

    def __init__(self, listener: socket.socket, alive: int) -> None:
        self._listener = listener
        self._alive = alive
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(alive, selectors.EVENT_READ)
        self._children: dict[int, tuple[int, socket.socket]] = {}

    def serve(self) -> dict[str, Any] | None:
        """The request, in the child that is to carry it out; None in the server when the tests have ended."""
        while True:
            for key, _ in self._selector.select():
                if key.fd == self._alive:
                    return None
                if key.fileobj is not self._listener:
                    self._reap(key.fd)
                elif (request := self._accept()) is not None:
                    return request

    def _reap(self, pidfd: int) -> None:
        self._selector.unregister(pidfd)
        pid, connection = self._children.pop(pidfd)
        with (
            connection,
            contextlib.suppress(BrokenPipeError),
        ):  # the process that asked may have been killed
            connection.sendall(prefork.LENGTH.pack(os.waitpid(pid, 0)[1]))
        os.close(pidfd)

    def _accept(self) -> dict[str, Any] | None:
        connection, _ = self._listener.accept()
        head, descriptors, _, _ = socket.recv_fds(connection, prefork.LENGTH.size, 8)
        try:
            if not head or not (
                text := prefork.received(connection, *prefork.LENGTH.unpack(head))
            ):
                connection.close()
                return None
            request: dict[str, Any] = json.loads(text)
            pid = os.fork()
            if pid == 0:
                self._leave(connection)
                _place(dict(zip(request["descriptors"], descriptors, strict=True)))
                return request
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid, connection
        self._selector.register(pidfd, selectors.EVENT_READ)
        with contextlib.suppress(BrokenPipeError):
            socket.send_fds(connection, [prefork.LENGTH.pack(pid)], [pidfd])
        return None

    def _leave(self, connection: socket.socket) -> None:
        """Close, in a child, what is the server's."""
        for pidfd, (_, other) in self._children.items():
            os.close(pidfd)
            other.close()
        connection.close()
        self._selector.close()
        self._listener.close()
        os.close(self._alive)


def _place(wanted: dict[int, int]) -> None:
    """Give descriptors the numbers that they are wanted under, which another one of them may have now."""
    copies = {number: os.dup(descriptor) for number, descriptor in wanted.items()}
    while any(copy in wanted for copy in copies.values()):
        copies = {number: os.dup(copy) for number, copy in copies.items()}
    for number, copy in copies.items():
        os.dup2(copy, number, inheritable=number <= 2)
        os.close(copy)


def _become(request: dict[str, Any], kind: str) -> NoReturn:
    """Be what `python PROGRAM` would be."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.dont_write_bytecode = bool(request["environment"].get("PYTHONDONTWRITEBYTECODE"))
    if request["environment"].get("PYTHONFAULTHANDLER"):
        faulthandler.enable()
    else:
        faulthandler.disable()
    tempfile.tempdir = None  # it was looked up for the imports, and is asked of TMPDIR anew
    if kind == prefork.PROGRAMS:
        client = prefork.Client(*request["client"])
        prefork.install(lambda: client)
    first, *rest = request["program"]  # -m MODULE ... or -c CODE
    sys.orig_argv = [sys.executable, first, *rest]
    if first == "-m":
        sys.argv = rest
        if kind == prefork.PROGRAMS:
            sys.path[0] = request["cwd"]
            sys.modules["xdist.workermanage"].__dict__["_sys_path"] = list(
                sys.path
            )  # it keeps that of its import
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c"]
        sys.path[0] = ""
        exec(rest[0], {"__name__": "__main__"})
    raise SystemExit


def _end(request: dict[str, Any], kind: str) -> NoReturn:
    """Be it, and end as an interpreter ends, but for the modules.

    To take them down writes to every object that was imported, and so copies the memory that
    is shared until then: nine tenths of what a short program costs.
    """
    try:
        _become(request, kind)
    except SystemExit as error:
        code = error.code
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        code = -signal.SIGINT
    except BaseException:  # noqa: BLE001 - as the interpreter does
        sys.excepthook(*sys.exc_info())
        code = 1

    if not isinstance(code, int | None):
        sys.stderr.write(f"{code}\n")
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            code = code or 120
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(
                    f"Exception ignored in: {stream!r}\n{type(error).__name__}: {error}\n"
                )
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit((code or 0) & 0xFF)


def main() -> None:
    """Import, fork, and be what was forked."""
    kind, listener, alive = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the tests, and for what is forked
    os.set_inheritable(listener, False)
    os.set_inheritable(alive, False)
    path = list(sys.path)
    if kind == prefork.PROGRAMS:
        import_programs()
    else:
        import_migrations()
    sys.path[:] = path
    gc.collect()
    gc.freeze()  # so that no child copies the memory of what was imported only to look through it
    connections = socket.socket(fileno=listener)
    address = connections.getsockname()
    request = ForkServer(connections, alive).serve()
    if request is not None:
        _end(request, kind)
    Path(address).unlink()
    with contextlib.suppress(OSError):  # the other server is still there
        Path(address).parent.rmdir()


if __name__ == "__main__":
    main()
