"""What the workers of one test run agree on: the template that the run began with."""

from __future__ import annotations

import hashlib
import os

from clonedb.originals import now
from clonedb.settings.config import Config
from clonedb.settings.keys import KEYS

__all__ = ["RunPin"]

_DAY = 86400.0  # seconds after which a run is over, whatever it was


class RunPin:
    """The name of a run's template, left for the run's other workers in a small file.

    A migration edited while a run is going must not give the workers that come to it later
    another schema than those that came first: a run ends on the template it began with.
    """

    def __init__(self, config: Config, run: str) -> None:
        from clonedb.embedded.places import state_files

        # a run may use several configurations, each of which has a template of its own
        settings = [f"{name}={getattr(config, name)!r}" for name in KEYS]
        key = hashlib.sha256(
            os.fsencode("\n".join([run, str(config.rootdir), *settings]))
        ).hexdigest()[:24]
        self._files = state_files(config) / "runs"
        self._name = key

    def read(self) -> str | None:
        """The template's name, if a worker of the run pinned one."""
        try:
            return self._files.read(self._name) or None
        except OSError:
            return None

    def write(self, name: str) -> str:
        """Pin a name unless another worker was first: the name that holds."""
        self._files.make()
        self._forget_old()
        return name if self._files.write_first(self._name, name) else self.read() or name

    def _forget_old(self) -> None:
        limit = now() - _DAY
        for name in self._files.names():
            found = self._files.stat(name)
            if found is not None and found.st_mtime < limit:
                self._files.unlink(name)
