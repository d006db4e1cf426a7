"""PostgreSQL's client programs on this machine: those of the installations that clonedb knows, then PATH's."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from clonedb.embedded import binaries
from clonedb.errors import ServerError

if TYPE_CHECKING:
    from clonedb.settings.config import Config

__all__ = ["client_programs"]


def client_programs(config: Config, name: str) -> Iterator[tuple[Path, int | None]]:
    """The programs of this name, such as pg_dump, the newest first; each with its major version where that is known."""
    found: list[binaries.Binaries] = []
    # a wrong postgres_bin is told of where a server is started
    with contextlib.suppress(ServerError):
        found = binaries.find(config)[0]
    for installation in sorted(found, key=lambda one: -one.major):
        if path := installation.program(name):
            yield path, installation.major

    if on_path := shutil.which(name):
        yield Path(on_path), None
