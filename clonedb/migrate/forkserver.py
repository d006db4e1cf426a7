"""The fork server: a process that has imported Alembic, and forks an interpreter for every migration that asks for one.

Started as `python -P forkserver.py DIRECTORY NAME SECONDS MACHINE`. Importing Alembic, SQLAlchemy and psycopg is most
of what one new revision costs (0.35 s of 0.6); a fork of a process that has done so costs 3 ms. It holds nothing of any
project and nothing of anybody's environment that its name does not stand for: a request is read by the fork.

A fork asks itself whether a fresh interpreter would import just what it has: whether any file has changed since, and
whether the caller's sys.path leads to the same files. If not, it becomes that fresh interpreter, by exec.

Its files: NAME is locked for as long as it lives, and says who it is; NAME.socket is where it listens. It ends when
nobody has asked for SECONDS, on SIGTERM, and when its socket is gone.
"""
# os.path, because pathlib would cost every fork more than the rest of the look at the files:
# ruff: noqa: PTH100, PTH108, PTH116, PTH118, PTH120, PTH123

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
import types
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "inside", "program.py")
OURS = (
    "clonedb.migrate.inside.environment",
    "clonedb.migrate.inside.failure",
    "clonedb.migrate.inside.routing",
    "clonedb.url",
)
THEIRS = (
    "alembic.config",
    "alembic.context",
    "alembic.op",
    "alembic.runtime.environment",
    "alembic.script",
    "logging.config",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
)
PATIENCE = 2.0  # seconds before the imports begin: whoever started us is still building a template
TICK = 1.0  # seconds between two looks whether the socket is still there
REQUEST = 5.0  # seconds that a fork waits for the rest of a request


class Absent:
    """The last finder on sys.meta_path: notes the top-level names that nobody finds, and finds none itself."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:  # noqa: ARG002 - as it is called
        """Note a name."""
        if path is None:
            self.names.add(name)


class Image:
    """What was imported, and by what one can tell that a fresh interpreter would import something else by now."""

    def __init__(self) -> None:
        absent = Absent()
        begin, places = time.time_ns(), stamps(_places())
        sys.meta_path.append(absent)
        gc.disable()
        for name in THEIRS:
            importlib.import_module(name)
        with contextlib.suppress(ImportError):  # clonedb may be on the caller's sys.path only
            for name in OURS:
                importlib.import_module(name)
        with open(PROGRAM, "rb") as file:
            self.program = compile(file.read(), PROGRAM, "exec")
        sys.meta_path.remove(absent)
        gc.collect()
        gc.freeze()
        gc.enable()
        loaded = [module for name, module in sys.modules.items() if name != "__main__"]
        files = {found for module in loaded if (found := getattr(module, "__file__", None))}
        self._absent = frozenset(absent.names)
        self._found = {spec.name: spec.origin for module in loaded if (spec := _top(module))}
        self._stamps = {**places, **stamps([*files, PROGRAM, os.path.abspath(__file__)])}
        settled = all(stamp is not None and stamp[0] < begin for path, stamp in self._stamps.items() if path in files)
        self.is_sound = settled and self.is_current()

    def is_current(self) -> bool:
        """Whether every file that was imported, and every directory of installed packages, is as it was."""
        return all(_stamp(path) == stamp for path, stamp in self._stamps.items())

    def is_found_on(self, sys_path: Sequence[str]) -> bool:
        """Whether a sys.path leads to the same files, and still to none for what was looked for in vain."""
        sys.path[:] = sys_path
        sys.path_importer_cache.clear()
        return all(_origin(name) == origin for name, origin in self._found.items()) and not any(
            _origin(name) for name in self._absent
        )


def _top(module: types.ModuleType) -> Any:
    """The spec of a top-level module that came from a file."""
    spec = getattr(module, "__spec__", None)
    return spec if spec is not None and spec.has_location and "." not in spec.name else None


def _origin(name: str) -> str | None:
    for finder in sys.meta_path:
        spec = finder.find_spec(name, None)
        if spec is not None:
            return spec.origin or str(spec)
    return None


def _places() -> list[str]:
    """The directories of installed packages, each with its .pth files: what pip, uv and editable installs change."""
    found = [path for path in sys.path if path.rstrip("/").endswith(("site-packages", "dist-packages"))]
    for path in [*found]:
        with contextlib.suppress(OSError):
            found += [os.path.join(path, name) for name in os.listdir(path) if name.endswith(".pth")]  # noqa: PTH208
    return [*found, os.path.join(sys.prefix, "pyvenv.cfg")]


def stamps(paths: Iterable[str]) -> dict[str, tuple[int, ...] | None]:
    """What tells that files are still the same ones."""
    return {path: _stamp(path) for path in paths}


def _stamp(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_dev, found.st_size


class Server:
    """The socket, the children, and when it is time to end."""

    def __init__(self, name: str, seconds: float, lock: int) -> None:
        self._lock = lock
        self._seconds = seconds
        self._path = f"{name}.socket"
        self._image = Image()
        self._children: set[int] = set()
        self._pid = os.getpid()

    def serve(self) -> bool:
        """Fork whenever somebody asks; whether the files are still ours at the end."""
        threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
        if threads != 1 or not self._image.is_sound:  # a thread's locks would stay locked in a fork for ever
            return True
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)  # a server that was killed left it: the lock is ours
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._path)
            listener.listen(64)
            mine, last = os.stat(self._path), time.monotonic()
            while self._children or time.monotonic() - last < self._seconds:
                asked = select.select([listener], [], [], min(TICK, self._seconds))[0]
                self._reap()
                if not _same(mine, self._path):
                    return False
                if asked:
                    last = time.monotonic()
                    self._answer(listener)
            os.unlink(self._path)
        return True

    def _reap(self) -> None:
        for pid in [*self._children]:
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._children.discard(pid)

    def _answer(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):  # no more processes: whoever asks starts one, or cannot either
            if peer(connection) != os.geteuid():
                return
            if pid := os.fork():
                self._children.add(pid)
            else:
                self._be_child(connection, listener)

    def _be_child(self, connection: socket.socket, listener: socket.socket) -> NoReturn:
        """Be the interpreter that was asked for; nothing may return into the server's loop from here."""
        code: object = 1
        try:
            os.close(self._lock)
            listener.close()
            os.setpgid(0, 0)  # a signal that env.py sends to its group is not for us
            self._become(connection)
        except SystemExit as error:
            code = error.code
        except BaseException:  # noqa: BLE001 - told as an interpreter tells it
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 0 if code is None else 1)

    def _become(self, connection: socket.socket) -> None:
        """Take over what the caller's own child would have inherited, and run the program."""
        request, events = _received(connection)
        os.umask(request["umask"])
        os.environ.clear()
        os.environ.update(request["environment"])
        time.tzset()
        current = self._image.is_current()
        if not current and os.getppid() == self._pid:
            os.kill(self._pid, signal.SIGTERM)
        if not current or not self._image.is_found_on(request["sys_path"]):
            os.execv(sys.executable, [sys.executable, "-P", PROGRAM, str(events)])  # noqa: S606 - no shell is wanted
        main = types.ModuleType("__main__")
        main.__file__ = PROGRAM
        sys.modules["__main__"] = main
        sys.argv[:] = [PROGRAM, str(events)]
        exec(self._image.program, vars(main))  # noqa: S102 - a file of ours


def _received(connection: socket.socket) -> tuple[dict[str, Any], int]:
    """Say who we are, by a pidfd; then what is asked of us, and the descriptor for events. The others are in place."""
    connection.settimeout(REQUEST)
    me = os.pidfd_open(os.getpid())
    socket.send_fds(connection, [b"+"], [me])
    os.close(me)
    head, descriptors, *_ = socket.recv_fds(connection, 4, 4)
    (size,) = struct.unpack("!I", head)
    text = bytearray()
    while len(text) < size:
        if not (more := connection.recv(size - len(text))):
            raise SystemExit(2)  # whoever asked is gone
        text += more
    connection.close()
    requests, output, directory, events = descriptors
    os.fchdir(directory)
    for descriptor, standard in ((requests, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, standard)
    for descriptor in (requests, output, directory):
        os.close(descriptor)
    os.set_inheritable(events, True)
    found = json.loads(text)
    assert isinstance(found, dict)  # noqa: S101 - for the type checker
    return found, events


def peer(connection: socket.socket) -> int:
    """The uid of the process at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", credentials)[1]
    return uid


def _same(found: os.stat_result, path: str) -> bool:
    try:
        return os.path.samestat(found, os.stat(path))
    except OSError:
        return False


def locked(name: str) -> int | None:
    """A descriptor that holds the lock on a file; None when another server has it.

    Tried for a second: whoever looks whether it is held holds it for that moment.
    """
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(40):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.025)
        else:
            return descriptor if _same(os.fstat(descriptor), name) else None
    return None


def main(directory: str, name: str, seconds: float, machine: str) -> None:
    """Be the fork server, if there is none of this name yet."""
    os.umask(0o077)
    os.chdir(directory)
    if (lock := locked(name)) is None:
        return
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps({"pid": os.getpid(), "machine": machine, "since": time.time()}).encode(), 0)
    time.sleep(PATIENCE)
    if Server(name, seconds, lock).serve() and _same(os.fstat(lock), name):
        os.unlink(name)


if __name__ == "__main__":
    if os.fork() == 0:  # whoever started us waits for a child that ends at once
        main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])
