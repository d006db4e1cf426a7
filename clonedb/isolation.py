"""What a test gets: one strategy a name, each of which acquires a database for a test and releases it after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from clonedb.clone import Clone

__all__ = ["STRATEGIES", "CloneEach", "CloneWorker", "Strategy"]


class Strategy(Protocol):
    """Gives each test its database."""

    def acquire(self) -> Clone:
        """The database of the test that begins."""

    def release(self, clone: Clone) -> None:
        """The test has ended; a clone that is to be kept is marked so already."""

    def close(self) -> None:
        """The worker has ended; may be called again."""


class CloneEach:
    """`clone`: a new physical clone for every test, dropped after it."""

    def __init__(self, make: Callable[[], Clone]) -> None:
        self._make = make

    def acquire(self) -> Clone:
        """A new clone."""
        return self._make()

    def release(self, clone: Clone) -> None:
        """Drop it."""
        clone.drop()

    def close(self) -> None:
        """Nothing is left to do."""


class CloneWorker:
    """`worker`: one clone for all tests of a worker, never reset."""

    def __init__(self, make: Callable[[], Clone]) -> None:
        self._make = make
        self._clone: Clone | None = None

    def acquire(self) -> Clone:
        """The worker's clone, made on first need."""
        if self._clone is None:
            self._clone = self._make()
        return self._clone

    def release(self, clone: Clone) -> None:
        """Leave it as it is, for the next test."""

    def close(self) -> None:
        """Drop it."""
        if self._clone is not None:
            self._clone.drop()
            self._clone = None


STRATEGIES: Mapping[str, Callable[[Callable[[], Clone]], Strategy]] = MappingProxyType(
    {"auto": CloneEach, "clone": CloneEach, "worker": CloneWorker}
)
