"""The machine and the versions that figures were found on: without them they mean nothing."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

__all__ = ["Machine", "file_system"]

_DISTRIBUTIONS = ("clonedb", "pytest", "pytest-xdist", "alembic", "sqlalchemy", "psycopg")


@dataclass(frozen=True, slots=True)
class Machine:
    """Processor, memory, system, and the versions of what takes part."""

    processor: str
    cores: int
    gibibytes: int
    system: str
    load: float
    versions: dict[str, str]

    @classmethod
    def here(cls) -> Machine:
        """The machine as it is now: `load` is how many processes wanted to run in the last minute."""
        return cls(
            processor=_processor(),
            cores=len(os.sched_getaffinity(0)),
            gibibytes=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            system=f"{platform.system()} {platform.release()}",
            load=round(os.getloadavg()[0], 1),
            versions=dict(_versions()),
        )

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.processor}, {self.cores} cores, {self.gibibytes} GiB, {self.system}, load {self.load} at the start;"
            f" {versions}"
        )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions() -> Iterator[tuple[str, str]]:
    from clonedb.embedded import binaries
    from clonedb.errors import ServerError
    from clonedb.settings.config import Config

    yield "Python", platform.python_version()
    try:
        chosen = binaries.choose(Config(rootdir=Path("/")), ())
        yield "PostgreSQL", f"{chosen.version} ({chosen.source})"
    except ServerError:
        yield "PostgreSQL", "none"
    for name in _DISTRIBUTIONS:
        yield name, metadata.version(name)


def file_system(directory: Path) -> str:
    """The kind of file system a directory is on: `tmpfs`, `ext4`, `overlay`."""
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except FileNotFoundError:
        return kind
    for mount in mounts:
        _, place, found, *_ = mount.split(" ")
        if directory.is_relative_to(place) and len(place) >= len(best):
            best, kind = place, found
    return kind
