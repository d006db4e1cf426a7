"""What the workers of one test run agree on: the template that the run began with."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path

from clonedb.config import Config
from clonedb.keys import KEYS

__all__ = ["Pin"]

_DAY = 86400.0  # seconds after which a run is over, whatever it was


class Pin:
    """The name of a run's template, left for the run's other workers in a small file.

    A migration edited while a run is going must not give the workers that come to it later another schema than those
    that came first: a run ends on the template it began with.
    """

    def __init__(self, config: Config, run: str) -> None:
        from clonedb.postgres.state import state_dir

        settings = [f"{name}={getattr(config, name)!r}" for name in KEYS]
        key = hashlib.sha256("\n".join([run, str(config.rootdir), *settings]).encode()).hexdigest()[:24]
        self._directory = state_dir(config) / "runs"
        self._file = self._directory / key

    def read(self) -> str | None:
        """The template's name, if a worker of the run pinned one."""
        try:
            return self._file.read_text(encoding="utf-8") or None
        except OSError:
            return None

    def write(self, name: str) -> str:
        """Pin a name unless another worker was first: the name that holds."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._forget_old()
        temporary = self._directory / f"{self._file.name}.{os.getpid()}"
        temporary.write_text(name, encoding="utf-8")
        try:
            os.link(temporary, self._file)
        except FileExistsError:
            return self.read() or name
        finally:
            temporary.unlink()
        return name

    def _forget_old(self) -> None:
        limit = time.time() - _DAY
        for file in Path(self._directory).iterdir():
            with contextlib.suppress(OSError):
                if file.stat().st_mtime < limit:
                    file.unlink()
