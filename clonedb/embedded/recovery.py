"""Before a server starts: no process of an earlier one lives, and what that left behind is cleared away."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import sys
from collections.abc import Container
from pathlib import Path

from clonedb.embedded.machine import boot_id
from clonedb.embedded.places import ServerDirectory
from clonedb.errors import ServerError
from clonedb.originals import monotonic, sleep
from clonedb.private_files import read_regular

__all__ = ["clear"]

PATIENCE = 8.0
"""Seconds given to each of SIGINT (fast shutdown), SIGQUIT (immediate) and SIGKILL."""


def clear(place: ServerDirectory, lock: int) -> int:
    """Make a place ready for a start, however its last server ended; the descriptor with the lock `server`.

    `lock` is the descriptor with the lock `keeper`, which proves that there is no keeper.
    Raises ServerError.
    """
    server = _end_earlier(place, lock)
    try:
        _remove_socket_dir(Path(place.read("socket")), _owners(place))
        (place.data / "postmaster.pid").unlink(
            missing_ok=True
        )  # no process uses the data: the kernel says so
        # an initdb that was killed left it
        place.files.remove_tree("data.new")
        mark = place.read("boot").split()
        if mark and mark[0] != boot_id():
            # the machine went down while data were in memory only: fsync is off, so they cannot
            # be trusted
            place.files.remove_tree("data")
    except BaseException:
        os.close(server)
        raise

    return server


def _end_earlier(place: ServerDirectory, lock: int) -> int:
    """Wait until no process of an earlier server lives.

    With PR_SET_PDEATHSIG a server dies with its keeper; elsewhere, or when that takes its time,
    it is told to.
    """
    # the first signal at once, each further one after PATIENCE
    signals = iter((signal.SIGINT, signal.SIGQUIT, signal.SIGKILL))
    deadline = monotonic()
    while (server := place.files.try_lock("server", fcntl.LOCK_EX)) is None:
        if monotonic() >= deadline:
            deadline = monotonic() + PATIENCE
            signum = next(signals, None)
            if signum is None:
                raise ServerError(
                    f"processes of an earlier server {place.name!r} do not end; they use {str(place.data)!r}: end them"
                )

            if pid := _postmaster(place):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signum)

        os.utime(lock)  # a sign of life for those who wait for us
        sleep(0.005)

    return server


def _postmaster(place: ServerDirectory) -> int | None:
    """The pid in postmaster.pid, if that process is a server on these data and runs as the account that they belong to.

    The pid may be another process's by now; and when root asks, the file belongs to the account
    that runs PostgreSQL, which must not choose whom root sends a signal.
    """
    try:
        pid = int(read_regular(place.data / "postmaster.pid").partition(b"\n")[0])
        # only Linux has /proc
        if sys.platform != "linux":
            return pid
        process = Path(f"/proc/{pid}").stat()
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError, ServerError):
        return None

    return (
        pid
        if os.fsencode(place.data) in arguments and process.st_uid in _owners(place)
        else None
    )


def _owners(place: ServerDirectory) -> set[int]:
    """The accounts that a server of this place runs as: this one, or for root the one that the data belong to."""
    data = place.files.stat("data")
    return {os.geteuid()} if data is None else {os.geteuid(), data.st_uid}


def _remove_socket_dir(directory: Path, owners: Container[int]) -> None:
    """Remove what a killed keeper left among the temporary files.

    After a clean stop every account may take the name: what is there now may be a link, or
    another account's directory.
    """
    if not directory.name.startswith("clonedb-"):
        return
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        # by descriptor: the directory that is checked is the one that is emptied
        opened = os.open(directory, flags)
        try:
            found = os.fstat(opened)
            if found.st_uid not in owners or stat.S_IMODE(found.st_mode) & 0o077:
                return
            for name in os.listdir(opened):  # noqa: PTH208  # of a descriptor
                if name.startswith(".s.PGSQL."):  # the socket, and PostgreSQL's lock beside it
                    os.unlink(name, dir_fd=opened)
        finally:
            os.close(opened)

        # if anything else is in it, it stays
        directory.rmdir()
