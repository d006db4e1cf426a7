"""The fork server as those who migrate see it: which one would do, how it is asked, started and ended.

It is only there to save time: whatever about it fails, a fresh interpreter is started as if there were none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clonedb.embedded.machine import host
from clonedb.embedded.places import state_files
from clonedb.errors import ServerError
from clonedb.private_files import PrivateDirectory
from clonedb.settings.config import Config

__all__ = ["Waiting", "begin", "fork", "stop", "waiting"]

_PROGRAM = Path(__file__).with_name("forkserver.py")
_ANSWER = 2.0  # seconds that a fork server has to answer: it takes 5 ms
# Read once, when a process starts or when a package is imported: a fork server serves those who agree on them.
_READ_ONCE = (
    *("PYTHON", "PATH", "HOME", "LD_", "MALLOC_", "GLIBC_", "GCONV_PATH", "LOCPATH", "LC_", "LANG", "OPENSSL_", "SSL_"),
    *("PSYCOPG", "SQLALCHEMY", "DISABLE_SQLALCHEMY", "ALEMBIC_", "SETUPTOOLS_", "GREENLET"),
)
# These look at an interpreter from its very start, by .pth files and the like: it is a fresh one.
_OBSERVED = ("COVERAGE_PROCESS_", "COV_CORE_", "PYDEVD", "DD_", "OTEL_", "NEW_RELIC_")
# Lines of /proc/self/status about what a child inherits and cannot be given later.
_INHERITED = (
    "Uid:",
    "Gid:",
    "Groups:",
    "SigBlk:",
    "SigIgn:",
    "Cap",
    "NoNewPrivs:",
    "Seccomp",
    "Cpus_allowed:",
    "Mems_",
)
_NAMESPACES = ("mnt", "pid", "net", "user", "uts", "ipc", "cgroup", "time")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A fork server that waits for migrations: its pid, and since when, in unix time."""

    pid: int
    since: float


def fork(
    config: Config, environment: Mapping[str, str], sys_path: Sequence[str], *, requests: int, output: int, events: int
) -> int | None:
    """An interpreter that has imported Alembic and reads its setup from `requests`: a pidfd; None if there is none.

    It has the environment, sys.path, directory and umask of a child of this process. What it cannot be given (limits,
    namespaces, ignored signals, ...) is the same as ours, or another fork server would have been looked for.
    """
    if not _is_wanted(config, environment):
        return None
    with (
        contextlib.suppress(OSError, ServerError, ValueError),
        _files(config).entered() as directory,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.settimeout(_ANSWER)
        # a socket's path has 107 bytes at most
        connection.connect(f"/proc/self/fd/{directory}/{_name(environment)}.socket")
        return _asked(connection, environment, sys_path, requests=requests, output=output, events=events)
    return None


def _asked(
    connection: socket.socket,
    environment: Mapping[str, str],
    sys_path: Sequence[str],
    *,
    requests: int,
    output: int,
    events: int,
) -> int | None:
    if _peer(connection) != os.geteuid():
        return None
    _, descriptors, *_ = socket.recv_fds(connection, 1, 1)
    if not descriptors:
        return None
    (process,) = descriptors
    os.set_inheritable(process, False)
    request = {"umask": _umask(), "environment": dict(environment), "sys_path": list(sys_path)}
    try:  # a fork that has not heard it all ends, so a fresh interpreter may have the pipes
        _send(connection, json.dumps(request).encode(), requests=requests, output=output, events=events)
    except BaseException:
        os.close(process)
        raise
    return process


def _send(connection: socket.socket, text: bytes, *, requests: int, output: int, events: int) -> None:
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        socket.send_fds(connection, [struct.pack("!I", len(text))], [requests, output, here, events])
    finally:
        os.close(here)
    connection.sendall(text)


def begin(config: Config, environment: Mapping[str, str]) -> None:
    """Start a fork server for the next time, if there is none: it begins to import when this build will be over.

    Not where CI is set: a machine that is thrown away has no next time.
    """
    if not _is_wanted(config, environment) or os.environ.get("CI"):
        return
    with contextlib.suppress(OSError, ServerError, ValueError):
        files = _files(config)
        files.make()
        name = _name(environment)
        if files.is_held(name):
            return
        process = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM), str(files.path), name, f"{config.standby:g}", host()],
            cwd="/",
            env=dict(_read_once(environment)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # it forks and ends, 20 ms later
        threading.Thread(target=process.wait, name="clonedb-standby", daemon=True).start()


def waiting(config: Config) -> list[Waiting]:
    """The fork servers of this state directory."""
    return [found for _, found in _all(config)]


def stop(config: Config) -> list[Waiting]:
    """End them; interpreters that migrate go on."""
    ended, files = [], _files(config)
    for name, found in _all(config):
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGTERM)
            ended.append(found)
        for left in (name, f"{name}.socket"):
            files.unlink(left)
    return ended


def _all(config: Config) -> Iterator[tuple[str, Waiting]]:
    files = _files(config)
    for name in files.names():
        if "." in name or not files.is_held(name):
            continue
        with contextlib.suppress(OSError, ValueError, KeyError):
            found = json.loads(files.read(name))
            if found["machine"] == host():  # elsewhere the pid is another process
                yield name, Waiting(found["pid"], found["since"])


def _files(config: Config) -> PrivateDirectory:
    return state_files(config) / "standby"


def _is_wanted(config: Config, environment: Mapping[str, str]) -> bool:
    observed = any(name.startswith(_OBSERVED) for name in environment)
    return config.standby > 0 and hasattr(os, "pidfd_open") and not observed


def _read_once(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in environment.items() if name.startswith(_READ_ONCE))


def _name(environment: Mapping[str, str]) -> str:
    """A name for all that a fork server must have in common with a fresh interpreter of ours, and cannot be told."""
    import resource

    limits = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    status = Path("/proc/self/status").read_text().splitlines()
    python, program = Path(sys.executable).stat(), _PROGRAM.stat()
    parts = [
        [sys.executable, sys.version, python.st_mtime_ns, python.st_ino, str(_PROGRAM), program.st_mtime_ns],
        sorted(_read_once(environment)),
        [(name, resource.getrlimit(getattr(resource, name))) for name in limits],
        [line for line in status if line.startswith(_INHERITED)],
        [os.readlink(f"/proc/self/ns/{name}") for name in _NAMESPACES if os.path.lexists(f"/proc/self/ns/{name}")],  # noqa: PTH115
        [os.getpriority(os.PRIO_PROCESS, 0), os.stat("/").st_ino, os.stat("/").st_dev],  # noqa: PTH116
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _peer(connection: socket.socket) -> int:
    """The uid of the process that listens at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", credentials)[1]
    return uid


def _umask() -> int:
    """The umask, without changing it as os.umask() would for a moment and for every thread."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    raise ValueError("this kernel does not tell the umask")
