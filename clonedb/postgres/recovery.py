"""Before a server starts: no process of an earlier one lives, and what that left behind is cleared away."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from clonedb.errors import ServerError
from clonedb.postgres.machine import boot_id
from clonedb.postgres.state import Place, try_lock

__all__ = ["clear"]

PATIENCE = 8.0
"""Seconds given to each of SIGINT (fast shutdown), SIGQUIT (immediate) and SIGKILL."""


def clear(place: Place, lock: int) -> int:
    """Make a place ready for a start, whatever death its last server died; the descriptor with the lock `server`.

    `lock` is the descriptor with the lock `keeper`, which proves that there is no keeper. Raises ServerError.
    """
    server = _end_earlier(place, lock)
    try:
        (place.data / "postmaster.pid").unlink(missing_ok=True)  # nobody uses the data: the kernel says so
        _remove_socket_dir(place.read("socket"))
        shutil.rmtree(place.file("data.new"), ignore_errors=True)
        mark = place.read("boot").split()
        if mark and mark[0] != boot_id():
            # the machine went down while data were in memory only: fsync is off, so they cannot be trusted
            shutil.rmtree(place.data, ignore_errors=True)
    except BaseException:
        os.close(server)
        raise
    return server


def _end_earlier(place: Place, lock: int) -> int:
    """Wait until no process of an earlier server lives.

    With PR_SET_PDEATHSIG a server dies with its keeper; elsewhere, or when that takes its time, it is told to.
    """
    signals = iter((signal.SIGINT, signal.SIGQUIT, signal.SIGKILL))
    deadline = time.monotonic()
    while (server := try_lock(place.file("server"), fcntl.LOCK_EX)) is None:
        if time.monotonic() >= deadline:
            deadline = time.monotonic() + PATIENCE
            signum = next(signals, None)
            if signum is None:
                raise ServerError(
                    f"processes of an earlier server {place.name!r} do not end; they use {str(place.data)!r}: end them"
                )
            if pid := _postmaster(place):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signum)
        os.utime(lock)  # a sign of life for those who wait for us
        time.sleep(0.005)
    return server


def _postmaster(place: Place) -> int | None:
    """The pid in postmaster.pid, if that process is a server on these data; the pid may be somebody else's by now."""
    try:
        pid = (place.data / "postmaster.pid").read_text().partition("\n")[0]
        if sys.platform != "linux":
            return int(pid)
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return int(pid) if os.fsencode(place.data) in arguments else None


def _remove_socket_dir(path: str) -> None:
    """Remove what a killed keeper left among the temporary files."""
    directory = Path(path)
    if directory.name.startswith("clonedb-"):
        with contextlib.suppress(OSError):
            for socket in directory.iterdir():
                socket.unlink()
            directory.rmdir()
