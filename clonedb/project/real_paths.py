"""Where files really are, asked for many at once."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["RealPaths"]


class RealPaths:
    """What Path.resolve() says, at a tenth of its price for many files in few directories."""

    def __init__(self) -> None:
        self._directories: dict[str, str] = {}

    def of(self, path: Path) -> Path:
        """The path without links."""
        if path.is_symlink() or ".." in path.parts:
            return path.resolve()
        directory, name = os.path.split(path)
        if (real := self._directories.get(directory)) is None:
            real = self._directories[directory] = os.path.realpath(directory)
        return Path(real, name)
