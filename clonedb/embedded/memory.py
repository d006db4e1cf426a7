"""Whether the embedded server's data go to memory, where, and how much of the memory they may ever take."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clonedb.errors import ServerError
from clonedb.private_files import PrivateDirectory
from clonedb.settings.config import Config

__all__ = [
    "EMPTY",
    "SHARE",
    "Memory",
    "about",
    "is_nearly_full",
    "memory_at",
    "memory_base",
    "refused_base",
    "require_room",
    "settings_in_memory",
    "way_out",
]

SHARE = 0.5
"""Of the machine's memory, or of the container's when that is smaller: more is never taken by new databases."""

EMPTY = 8 * 1024**2
"""Bytes of a database that nothing is in: 7.3 to 7.9 MB, from PostgreSQL 15 to 18."""

_RESERVE = 8  # the part of that, as a divisor, which no clone may take: WAL and what tests write need some
_LAST = 16  # the part of that, as a divisor, which is left when what tests write is stopped; of a small one a quarter
_LAST_OF_SMALL, _MOST_LAST_OF_SMALL = (
    4,
    128 * 1024**2,
)  # or so many bytes: what a few backends write in a second
_SHM = Path("/dev/shm")  # noqa: S108 - a directory of our own in it, private and owner-checked
_FREE = (
    2 * 1024**3
)  # bytes that must be left of the share: Docker gives a container's /dev/shm 64 MB
_AVAILABLE = 4 * 1024**3  # bytes of memory that the machine must have to spare
_LEAST_WAL, _MOST_WAL = 128 * 1024**2, 8 * 1024**3  # bytes
_SERVER = 64 * 1024**2  # bytes: initdb makes 40 MB of data and WAL, and nothing is in there yet
_MEGABYTE = 1024**2


class Memory(NamedTuple):
    """A file system in memory: the bytes that its files may take, and what all files there take."""

    limit: int
    used: int

    @property
    def left(self) -> int:
        """The bytes that new databases may take; below zero when there is too much already."""
        return self.limit - self.limit // _RESERVE - self.used


def memory_base(
    config: Config, state: Path, *, shm: Path = _SHM, root: Path = Path("/")
) -> Path | None:
    """The directory in memory that stands in for a state directory's, or None when data belong on disk.

    In memory a clone costs a third of what it costs on a disk, and less when the disk is slow
    (measured: 10 ms against 30 to 270). With `data = "auto"` that is taken when there is ample
    room, `state_dir` does not name another place and no server is up on the disk; once it is
    there it stays the place, so that all processes agree. A restart of the machine begins anew,
    in a second.

    Raises ServerError for `data = "memory"` on a system that has no such directory.
    """
    base = _base(state, shm)
    if config.data == "memory":
        if not _usable(shm):
            raise ServerError(
                f"data is 'memory' (from {config.source('data')}), but this system has no {str(shm)!r} to write to;"
                " set it to 'disk'"
            )

        return base

    if config.data == "disk" or config.state_dir is not None or not _usable(shm):
        return None
    # the place is taken, by this account's data or by something else
    if os.path.lexists(base):
        return None if PrivateDirectory(base).problem() else base
    on_disk = (
        next(state.glob("servers/*/ready"), None) is not None
    )  # a keeper moves it away when its server ends
    return base if not on_disk and _has_room(shm, root) else None


def refused_base(config: Config, state: Path, *, shm: Path = _SHM) -> str:
    """Why `data = "auto"` does not go to the directory in memory that is there: it is not this account's alone.

    Its name is known, and every account may make a directory, a link or a FIFO of that name.
    Empty when it may be used.
    """
    if config.data != "auto" or config.state_dir is not None:
        return ""
    return PrivateDirectory(_base(state, shm)).problem().partition(";")[0]


def _base(state: Path, shm: Path) -> Path:
    return shm / f"clonedb-{os.geteuid()}-{zlib.crc32(os.fsencode(state)):08x}"


def memory_at(directory: Path, *, root: Path = Path("/")) -> Memory | None:
    """The file system in memory that a directory is on, None if it is on a disk; 0.2 ms.

    The share is of the memory of the machine, or of the control group (a container's limit) if
    that is smaller: the pages of such files count there, and a process that exceeds it is
    killed. A smaller file system is the limit itself.
    """
    if not _is_in_memory(directory, root):
        return None
    there = os.statvfs(directory)
    of_memory = int(min(_total(root), *_limits(root)) * SHARE)
    size = (
        there.f_blocks * there.f_frsize or of_memory
    )  # ramfs and a tmpfs without a limit have no size
    return Memory(min(of_memory, size), (there.f_blocks - there.f_bfree) * there.f_frsize)


def is_nearly_full(memory: Memory, *, root: Path = Path("/")) -> bool:
    """Whether what is written next may exceed the limit, or the memory that the machine or container has to spare.

    A process is killed there, or PostgreSQL, which cannot write its WAL, ends all sessions.
    """
    last = max(memory.limit // _LAST, min(memory.limit // _LAST_OF_SMALL, _MOST_LAST_OF_SMALL))
    return memory.used > memory.limit - last or min(_spare(root)) < last


def about(directory: Path) -> str:
    """`data in memory (at most 11.8 GB)` or `data on disk`, for a directory that need not be there yet."""
    while not directory.exists():
        directory = directory.parent
    found = memory_at(directory)
    return (
        "data on disk"
        if found is None
        else f"data in memory (at most {found.limit / 1024**3:.1f} GB)"
    )


def way_out(config: Config, directory: Path) -> str:
    """What to set for data that are in memory, in `directory`, to be on a disk."""
    if config.data == "disk" or config.state_dir is not None:
        return f"set state_dir ({config.source('state_dir')}) to a directory on a disk, which {str(directory)!r} is not"
    return f"set data = 'disk' ({config.source('data')}: it is {config.data!r})"


def require_room(directory: Path, config: Config) -> None:
    """Raises ServerError where the data of a new server would be in memory, and there is no room even for those."""
    found = memory_at(directory)
    if found is not None and found.left < _SERVER:
        raise ServerError(
            f"no room in memory for a server in {str(directory)!r}: files there take {found.used // _MEGABYTE} MB of"
            f" the {found.limit // _MEGABYTE} MB they may, and a new one takes {_SERVER // _MEGABYTE} MB;"
            f" {way_out(config, directory)}"
        )


def settings_in_memory(directory: Path) -> dict[str, str]:
    """The settings of a server whose data are in a directory, if that is in memory: WAL has its part of the reserve.

    PostgreSQL begins a checkpoint early enough to stay about below it.
    """
    if (found := memory_at(directory)) is None:
        return {}
    return {
        "max_wal_size": f"{max(_LEAST_WAL, min(found.limit // _RESERVE, _MOST_WAL)) // _MEGABYTE}MB"
    }


def _usable(shm: Path) -> bool:
    return shm.is_dir() and os.access(shm, os.W_OK | os.X_OK)


def _has_room(shm: Path, root: Path) -> bool:
    there = memory_at(shm, root=root)
    if there is None or there.left < _FREE:
        return False
    return min(_spare(root)) >= _AVAILABLE


def _is_in_memory(directory: Path, root: Path) -> bool:
    """Whether a directory is on a tmpfs or ramfs, as the list of mounted file systems says."""
    device = directory.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    # proc(5): `36 35 0:31 / /mnt rw shared:1 - tmpfs tmpfs rw`, where fields like `shared:1`
    # are optional
    for line in _lines(root / "proc/self/mountinfo"):
        fields, _, of_file_system = line.partition(" - ")
        if fields.split()[2] == number:
            return of_file_system.split()[0] in ("tmpfs", "ramfs")
    return False


def _total(root: Path) -> int:
    return _meminfo(root).get("MemTotal") or os.sysconf("SC_PHYS_PAGES") * os.sysconf(
        "SC_PAGE_SIZE"
    )


def _meminfo(root: Path) -> dict[str, int]:
    """The first lines of /proc/meminfo, in bytes."""
    # MemTotal, MemFree, MemAvailable
    found = (line.partition(":") for line in _lines(root / "proc/meminfo")[:3])
    return {name: int(value.split()[0]) * 1024 for name, _, value in found}


def _limits(root: Path) -> list[int]:
    """What the control groups of this process let it have, in bytes; without any, more than there is."""
    return [1 << 62, *(limit for limit, *_ in _groups(root))]


def _spare(root: Path) -> list[int]:
    """What is left of those limits: what can be given back (unused pages of the cache) does not count as used."""
    found = [_meminfo(root).get("MemAvailable", 0)]
    for limit, current, stat, name in _groups(root):
        used = sum(int(line) for line in _lines(current))
        cached = sum(int(line.split()[1]) for line in _lines(stat) if line.startswith(name))
        found.append(limit - max(0, used - cached))
    return found


def _groups(root: Path) -> Iterator[tuple[int, Path, Path, str]]:
    """The control groups that limit this process's memory: the bytes, the file with what is
    used, and the statistics with the line that says how much of that is unused cache.

    A container sees its own group as the root of the tree (version 2), or where the path of its
    group does not exist (version 1); so every directory from the root down to there is asked.
    """
    # `0::/path` in version 2, `4:memory:/path` in version 1
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, (most, used, cached) = (
                root / "sys/fs/cgroup",
                ("memory.max", "memory.current", "inactive_file "),
            )
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            most, used, cached = (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file ",
            )
        else:
            continue

        # `..` is in a path that leads out of this cgroup namespace
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            directory = top.joinpath(*parts[:depth])
            for limit in _lines(directory / most):
                if limit.isdigit():  # "max" is none
                    yield int(limit), directory / used, directory / "memory.stat", cached


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
