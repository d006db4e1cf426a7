"""Embedded servers: a lease keeps one up for as long as this process lives, and starts it when need be."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from clonedb.embedded.binaries import Binaries, build_of
from clonedb.embedded.machine import host
from clonedb.embedded.places import Running, ServerDirectory, not_in_memory, state_dir
from clonedb.embedded.servers import Status, hold_place, reset, servers, stop
from clonedb.embedded.watchdog import Watchdog
from clonedb.errors import ServerError
from clonedb.originals import getpid, now
from clonedb.private_files import same_file
from clonedb.settings.config import Config

if TYPE_CHECKING:
    import _socket

__all__ = ["Lease", "Status", "hold", "lease", "reset", "servers", "state_dir", "stop"]

ATTEMPTS = 4
"""How often a start is tried when the state directory or the keeper vanishes meanwhile."""

UNREACHABLE = 5.0
"""Seconds after which a server that its keeper calls ready must be reachable; a keeper notices a dead one in 1 s."""


@dataclass(slots=True, eq=False)
class Lease:
    """A share of this process in an embedded server, given up by close() or by the process's end, kill -9 included.

    The server is at `socket_dir` without a password, for clonedb's own connections, and at
    127.0.0.1:`port` with it; it runs as the account `uid`. `started` says whether this call
    started it.
    """

    name: str
    binaries: Binaries
    socket_dir: Path
    port: int
    password: str = field(repr=False)
    data_dir: Path
    uid: int
    started: bool
    descriptor: int = field(repr=False)
    user: str = "postgres"

    def ending(self) -> str:
        """What became of a server that does not answer any more: the end of its log, and what to do."""
        place = ServerDirectory(self.data_dir.parent)
        running = place.running()
        if running is None:
            what = "the server has ended"
        elif running.port != self.port or running.socket_dir != str(self.socket_dir):
            what = "the server has ended, and another process has started it again"
        else:
            what = "the server does not answer, or has just ended"
        return f"{what}; run again, and it is started anew. Its log {str(place.log)!r} ends:{place.tail(lines=8)}"

    def close(self) -> None:
        """Give the lease up; the server stops idle_timeout seconds after the last one. May be called again."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lease(
    config: Config, binaries: Binaries, *, progress: Callable[[str], None] | None = None
) -> Lease:
    """A lease on the server of these binaries, which is started first if it is not up (initdb on first use).

    Joining a server that is up costs about 1 ms. `progress` is told what takes longer.

    Raises ServerError when the server cannot be started, its log's last lines included.
    """
    place = ServerDirectory.of(config, binaries)
    if progress and (why := not_in_memory(config)):
        progress(f"{why}; the data of the embedded server are in {str(place.directory)!r}")
    problem = "its files changed"
    for _ in range(ATTEMPTS):
        try:
            if found := _try_lease(place, config, binaries, progress or _say_nothing):
                return found
        except FileNotFoundError as error:  # the state directory is being deleted
            # the directory may have been deleted between any two steps: all is begun anew
            problem = str(error)
        except OSError as error:
            raise ServerError(
                f"embedded server {place.name!r} in {str(place.directory)!r}: {error}"
            ) from error

    raise ServerError(
        f"embedded server {place.name!r} in {str(place.directory)!r}: {problem}, {ATTEMPTS} times in a row; find out"
        " who deletes it, or set state_dir (CLONEDB_STATE_DIR) to another directory"
    )


def hold(config: Config, server: Lease | str, seconds: float) -> float:
    """Keep a server up for some seconds from now, leases or not; the unix time until which it is held.

    A longer hold stays as it is; stop() ends it. Raises ServerError when there is no server of
    that name.
    """
    return hold_place(config, server.name if isinstance(server, Lease) else server, seconds)


def _say_nothing(_: str) -> None:
    pass


def _try_lease(
    place: ServerDirectory, config: Config, binaries: Binaries, progress: Callable[[str], None]
) -> Lease | None:
    """A lease, or None when the directory was deleted or replaced meanwhile."""
    place.prepare()
    watchdog = Watchdog(place, "to stop")
    while (descriptor := place.files.try_lock("lease", fcntl.LOCK_SH)) is None:
        watchdog.wait()  # a keeper that found no lease holds it alone until the server is down
    keep = False
    try:
        running, started = _running(place, config, binaries, progress)
        os.utime(
            descriptor
        )  # the keeper counts idle_timeout from here, even if the lease is shorter than its glance
        password = place.read("password")
        # `reset` moves the directory away: a lock on the old file keeps no server up
        keep = bool(password) and same_file(descriptor, place.files.stat("lease"))
    finally:
        if not keep:
            os.close(descriptor)

    if not keep:
        return None
    return Lease(
        name=place.name,
        binaries=binaries,
        socket_dir=Path(running.socket_dir),
        port=running.port,
        password=password,
        data_dir=place.data,
        uid=running.uid,
        started=started,
        descriptor=descriptor,
    )


def _running(
    place: ServerDirectory, config: Config, binaries: Binaries, progress: Callable[[str], None]
) -> tuple[Running, bool]:
    """The server, and whether it was started here."""
    watchdog = Watchdog(place, "to start")
    # taken before anything is waited for: a failure from now on concerns this process
    starts, told, earlier = 0, False, _stamp(place)
    while True:
        # it is up, or another process's start has failed
        running = place.running()
        if running is not None and _is_reachable(place, running, watchdog):
            return running, starts > 0
        if (failure := _failure_since(place, earlier)) is not None:
            raise ServerError(failure)
        # no keeper, and nobody else starts one
        if (
            running is None
            and (start := place.files.try_lock("start", fcntl.LOCK_EX)) is not None
        ):
            try:
                from clonedb.embedded.start import start_server

                # for the message of a process that waits
                os.ftruncate(start, 0)
                os.pwrite(start, str(getpid()).encode(), 0)
                started = start_server(place, config, binaries, watchdog, progress)
            finally:
                os.close(start)

            starts += started
            if starts > ATTEMPTS:
                raise ServerError(
                    f"embedded server {place.name!r} ends as soon as it is up; see {str(place.log)!r}"
                )

            # its keeper has said that it is up: the next look finds it
            if started:
                continue

        # a start on existing data takes less than a second
        if watchdog.waited > 1 and not told:
            told = True
            progress(
                f"waiting for the embedded server {place.name!r}, which another process starts or stops"
            )

        watchdog.wait()


def _stamp(place: ServerDirectory) -> tuple[int, int] | None:
    """What tells the file of a failure from the one that replaces it; None when there is none."""
    found = place.files.stat("failed")
    return None if found is None else (found.st_ino, found.st_mtime_ns)


def _failure_since(place: ServerDirectory, earlier: tuple[int, int] | None) -> str | None:
    """Why another process's start failed while this one waited for it: the same would happen here.

    What failed before that is known by its file and not by its time: a clock may have been set
    back since.
    """
    return None if _stamp(place) in (None, earlier) else place.read("failed") or None


def _is_reachable(place: ServerDirectory, running: Running, watchdog: Watchdog) -> bool:
    """Whether the server takes connections on its socket.

    Raises ServerError when it is another container's or host's, and when its keeper does not
    notice that it is gone.
    """
    if running.host != host():
        raise ServerError(
            f"embedded server {place.name!r} in {str(place.directory)!r} is run by another container or host, so it"
            " cannot be reached from here; set state_dir (CLONEDB_STATE_DIR) to a directory that is not shared"
        )

    # its virtual environment was deleted, or another PostgreSQL installed there: it can load
    # nothing that fits
    build = build_of(Path(running.binaries))
    if not build or (running.build and build != running.build):
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.keeper, signal.SIGTERM)
        return False

    if _accepts(running):
        return True
    if watchdog.waited > UNREACHABLE and now() - running.since > UNREACHABLE:
        raise ServerError(
            f"embedded server {place.name!r} does not answer on its socket in {running.socket_dir!r}, or others own it"
            f" (a private /tmp?); its keeper is pid {running.keeper}, its log {str(place.log)!r}; run"
            " `clonedb server stop` and try again"
        )

    return False


def _accepts(running: Running) -> bool:
    """Whether the socket is in a directory of the server's account alone, and that account listens on it (0.1 ms).

    PostgreSQL has the port for as long as it has the socket, so the port is the server's, too:
    where it could not have the port, it did not start.
    """
    import _socket  # `socket.socket` may be pytest-socket's, or a mock

    try:
        directory = os.lstat(running.socket_dir)
    except FileNotFoundError:
        return False

    if (
        not stat.S_ISDIR(directory.st_mode)
        or directory.st_uid != running.uid
        or directory.st_mode & 0o077
    ):
        return False

    probe = _socket.socket(_socket.AF_UNIX)
    try:
        probe.connect(f"{running.socket_dir}/.s.PGSQL.{running.port}")
        return _listens(probe, running.uid)
    except OSError:
        return False
    finally:
        probe.close()


def _listens(probe: _socket.socket, uid: int) -> bool:
    """Whether the process at the other end of a Unix socket was an account's when it began to listen (Linux)."""
    import _socket
    import struct

    if not hasattr(_socket, "SO_PEERCRED"):
        return True
    # struct ucred: pid, uid, gid
    found: int = struct.unpack(
        "3i", probe.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    )[1]
    return found == uid
