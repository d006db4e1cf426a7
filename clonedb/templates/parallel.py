"""What does not depend on one another, done on several connections at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Sequence, Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

__all__ = ["Crew", "Job", "Statement"]

_MOST = 4
_WORTH = 3  # jobs for which another connection is worth what it costs


class Job(Protocol):
    """What one connection does at a time."""

    @property
    def uses(self) -> AbstractSet[Hashable]:
        """What no other job may use meanwhile."""

    def do(self, connection: Connection[Any]) -> None:
        """Do it, on a connection in autocommit mode."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A job that is one statement."""

    text: Composed
    uses: AbstractSet[Hashable] = frozenset()

    def do(self, connection: Connection[Any]) -> None:
        """Execute it."""
        connection.execute(self.text)


class Crew:
    """Connections that share jobs out among themselves; each is opened when there is work for it."""

    def __init__(self, connect: Callable[[], Connection[Any]]) -> None:
        self._connect = connect
        self._connections: list[Connection[Any]] = []

    @property
    def first(self) -> Connection[Any]:
        """One of the connections, for what is done alone."""
        return self._some(1)[0]

    def do(self, jobs: Sequence[Job]) -> None:
        """Do all of them, in their order as far as what they use allows.

        Raises the first error there was. After it, and after Ctrl-C, which cancels those at work, none is begun.
        """
        at_once = min(_MOST, os.cpu_count() or 1, -(-len(jobs) // _WORTH))
        if at_once <= 1:
            for job in jobs:
                job.do(self.first)
            return
        queue = _Queue(jobs)
        threads = [
            threading.Thread(target=queue.work, args=(connection,), name="clonedb-restore", daemon=True)
            for connection in self._some(at_once)
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:
            queue.stop()
            for connection in self._connections:
                connection.cancel()
            for thread in filter(threading.Thread.is_alive, threads):
                thread.join()
            raise
        if queue.errors:
            raise queue.errors[0]

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()

    def _some(self, number: int) -> list[Connection[Any]]:
        while len(self._connections) < number:
            self._connections.append(self._connect())
        return self._connections[:number]


class _Queue:
    """Jobs that wait, what those use that are being done, and what went wrong."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.errors: list[BaseException] = []
        self._left = list(jobs)
        self._used: set[Hashable] = set()
        self._changed = threading.Condition()

    def work(self, connection: Connection[Any]) -> None:
        """Do one job after the other, each the first that uses nothing that is in use."""
        try:
            while (job := self._take()) is not None:
                job.do(connection)
                with self._changed:
                    self._used -= job.uses
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody sees it
            self.errors.append(error)
            self.stop()

    def stop(self) -> None:
        """Nothing is begun any more."""
        with self._changed:
            self._left.clear()
            self._changed.notify_all()

    def _take(self) -> Job | None:
        with self._changed:
            while self._left:
                for number, job in enumerate(self._left):
                    if not job.uses & self._used:
                        self._used |= job.uses
                        return self._left.pop(number)
                self._changed.wait()
            return None
