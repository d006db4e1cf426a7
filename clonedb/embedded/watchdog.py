"""Waiting for the process that starts, runs or stops an embedded server, but not for one that hangs."""

from __future__ import annotations

from clonedb.embedded.places import ServerDirectory
from clonedb.errors import ServerError
from clonedb.originals import now, sleep

__all__ = ["Watchdog"]

PATIENCE = 30.0
"""Seconds without a sign of life after which a process that holds a lock counts as hung."""


class Watchdog:
    """Waiting for another process, for as long as it gives signs of life."""

    def __init__(self, place: ServerDirectory, what: str) -> None:
        self.place = place
        self.what = what
        # wall-clock time, as it is compared with the time of a file
        self.begin: float = now()
        self.pause: float = 0.001

    @property
    def waited(self) -> float:
        """Seconds since the waiting began."""
        return now() - self.begin

    def wait(self) -> None:
        """Sleep a little: 1 ms at first, 50 ms in the end, when many may be waiting. Raises ServerError."""
        sleep(self.pause)
        self.pause = min(self.pause * 1.5, 0.05)
        self.check()

    def check(self) -> None:
        """Raises ServerError when the last sign of life is PATIENCE seconds old."""
        found = self.place.files.stat("keeper")
        alive = self.begin if found is None else max(self.begin, found.st_mtime)
        if now() - alive <= PATIENCE:
            return
        starter = self.place.read("start")
        raise ServerError(
            f"waited {PATIENCE:g} s for embedded server {self.place.name!r} {self.what}: its keeper is pid"
            f" {self.place.keeper().get('pid', 'unknown')}{f', started by pid {starter}' if starter else ''}, its log"
            f" {str(self.place.log)!r}; end that process and try again"
        )
