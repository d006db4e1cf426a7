"""`clone` and `worker`: a new physical clone for every test, and one for all tests of a worker."""

from __future__ import annotations

from collections.abc import Sequence

from clonedb.clone import Clone
from clonedb.isolation.strategy import Origin
from clonedb.postgres.sql import Session

__all__ = ["CloneEach", "CloneWorker"]


class CloneEach:
    """`clone`: a new physical clone for every test, dropped after it."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin

    def acquire(self) -> Clone:
        """A new clone."""
        return self._origin.make()

    def release(self, clone: Clone) -> Sequence[Session]:
        """Drop it."""
        left_open = () if clone.kept else clone.end_sessions()
        clone.drop()
        return left_open

    def close(self) -> None:
        """Nothing is left to do."""


class CloneWorker:
    """`worker`: one clone for all tests of a worker, never reset; the connections to it may stay open, too."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._clone: Clone | None = None

    def acquire(self) -> Clone:
        """The worker's clone, made on first need."""
        if self._clone is None:
            self._clone = self._origin.make()
        return self._clone

    def release(self, clone: Clone) -> Sequence[Session]:
        """Leave it as it is, for the next test."""
        del clone
        return ()

    def close(self) -> None:
        """Drop it."""
        if self._clone is not None:
            self._clone.drop()
            self._clone = None
