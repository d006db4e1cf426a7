"""What the open templates of one process share: servers and room there, counts, and what is told of a test."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any, Protocol

from clonedb.originals import sleep

if TYPE_CHECKING:
    from clonedb.clones.clone import Clone
    from clonedb.postgres.server import Server
    from clonedb.postgres.servers import Servers
    from clonedb.sessions.loans import Loans

__all__ = ["RunState", "Statistics", "Turns"]


class Statistics:
    """What a process did with clonedb; crosses from an xdist worker to the controller as a dictionary.

    `templates` says of each, by its name and the server that it is on, how this process made it
    (`built in 2.1 s`), or None if it was there. `clones` and `tests` are counted by server. `paid` holds the
    milliseconds that each test spent on getting and giving back its databases; `outcomes` counts
    what became of them afterwards under `auto`, by kind and reason.
    """

    def __init__(self, **data: Any) -> None:
        self.templates: dict[tuple[str, str], str | None] = dict(data.get("templates", ()))
        self.clones: dict[str, int] = dict(data.get("clones", ()))
        self.tests: dict[str, int] = dict(data.get("tests", ()))
        self.paid: list[float] = list(data.get("paid", ()))
        self.kept: list[str] = list(data.get("kept", ()))
        self.outcomes: dict[str, dict[str, int]] = data.get("outcomes", {})

    def note(self, kind: str, why: str, count: int = 1) -> None:
        """What became of a used clone."""
        reasons = self.outcomes.setdefault(kind, {})
        reasons[why] = reasons.get(why, 0) + count

    def count_clone(self, about: str, count: int = 1) -> None:
        """A clone was made on a server."""
        self.clones[about] = self.clones.get(about, 0) + count

    def count_test(self, about: str, count: int = 1) -> None:
        """A test had a database of a server."""
        self.tests[about] = self.tests.get(about, 0) + count

    def add(self, other: Statistics) -> None:
        """Take another process's numbers in."""
        for place, how in other.templates.items():
            # what was made wins over what was found ready
            if how is not None or place not in self.templates:
                self.templates[place] = how
        for about, count in other.clones.items():
            self.count_clone(about, count)
        for about, count in other.tests.items():
            self.count_test(about, count)
        self.paid += other.paid
        self.kept += other.kept
        for kind, reasons in other.outcomes.items():
            for why, count in reasons.items():
                self.note(kind, why, count)


class _HasSpares(Protocol):
    """A supply, as the others know it."""

    def release_spares(self) -> None:
        """Drop what no test has."""


class Turns:
    """The threads of a process that acquire and release databases in turns, for any isolation mode.

    A thread that waits for room in the middle of acquiring lets others release: it waits for
    what they have. It does not let them acquire, as it has begun to change the mode's state.
    """

    def __init__(self) -> None:
        # a thread that pauses gives `_lock` to those that release, and keeps `_line` from those
        # that acquire
        self._line = Lock()
        self._lock = Lock()
        self._holder: int | None = None
        self._databases: Counter[int] = Counter()
        self._acquiring: set[int] = set()

    @contextlib.contextmanager
    def acquiring(self) -> Iterator[int]:
        """The calling thread acquires a database: its number, for `releasing`, which follows unless this fails."""
        thread = get_ident()
        self._acquiring.add(thread)
        try:
            with self._line, self._turn():
                yield thread
            # only here: what failed has no database
            self._databases[thread] += 1
        finally:
            self._acquiring.discard(thread)

    @contextlib.contextmanager
    def releasing(self, thread: int) -> Iterator[None]:
        """A database is released that a thread has acquired."""
        try:
            with self._turn():
                yield
        finally:
            self._databases[thread] -= 1

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock:
            self._holder = get_ident()
            try:
                yield
            finally:
                self._holder = None

    def pause(self, seconds: float) -> bool:
        """Sleep, and let others release meanwhile if it is this thread's turn: whether it is."""
        # a thread that has no turn, such as the pool's
        if self._holder != get_ident():
            sleep(seconds)
            return False
        self._holder = None
        self._lock.release()
        try:
            sleep(seconds)
        finally:
            self._lock.acquire()
            self._holder = get_ident()
        return True

    def others_work(self) -> bool:
        """Whether a thread has a database, and does not acquire another one at the moment."""
        return any(
            count and thread not in self._acquiring
            # a copy: other threads come and go meanwhile
            for thread, count in [*self._databases.items()]
        )


class RunState:
    """What the supplies of one process share, and how it waits for room (`postgres.admission.Waiter`).

    `turns` are those of its threads. `say` prints what this process waits for. `expected` is
    how many tests of this process may ask for a database, None if that is not known;
    `is_single` whether it runs one test only. The process is
    `worker`, from 0, of so many `workers`. `server_changes` says what the tests that ended
    changed of the whole server, and is emptied by the caller that tells of it.
    """

    def __init__(
        self,
        *,
        say: Callable[[str], None] = lambda _message: None,
        expected: Callable[[], int | None] = lambda: None,
        is_single: Callable[[], bool] = lambda: False,
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        self.worker = worker
        self.workers = workers
        self.expected = expected
        self.is_single = is_single
        self.turns: Turns = Turns()
        self.statistics: Statistics = Statistics()
        self.server_changes: list[str] = []
        self.supplies: list[_HasSpares] = []
        self._say = say
        self._loans: Loans | None = None
        self._servers: Servers | None = None

    @property
    def loans(self) -> Loans:
        """What the process lends to its tests."""
        if self._loans is None:
            from clonedb.sessions.loans import Loans

            self._loans = Loans()
        return self._loans

    @property
    def servers(self) -> Servers:
        """The servers that the process has open."""
        if self._servers is None:
            from clonedb.postgres.servers import Servers

            self._servers = Servers(self.worker, self.workers)
        return self._servers

    def say(self, message: str) -> None:
        """Print what this process waits for."""
        self._say(message)

    def others_work(self) -> bool:
        """Whether a thread has a database, and does not acquire another one at the moment."""
        return self.turns.others_work()

    def pause(self, seconds: float) -> None:
        """Wait for room; what another thread released meanwhile, for the next test, makes room."""
        # only if it was this thread's turn: the supplies are changed by one thread at a time
        if self.turns.pause(seconds):
            self.release_spares()

    def other(self, server: Server, make: Callable[[], Clone]) -> Clone:
        """A database that is no clone of a template but takes as much room as one, which is waited for.

        Raises LockTimeoutError when there is none for `lock_timeout`, and what `make` raises.
        """
        admission = server.admission
        return admission.filled(admission.slot(self), make)

    def release_spares(self) -> None:
        """Drop every clone of this process that no test has: another process waits for room, or they may be spoilt."""
        # a copy, as a supply that is closed leaves the list
        for supply in list(self.supplies):
            supply.release_spares()
