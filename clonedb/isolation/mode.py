"""What every mode is: its two moments, what it is made of, and the clones that several tests use in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from clonedb.clones.clone import Clone
from clonedb.postgres.client_sessions import ClientSession
from clonedb.postgres.server import Server
from clonedb.project.find import Project
from clonedb.templates.metadata import TemplateRecord

__all__ = ["Isolation", "Origin", "Reusable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a mode's databases come from; `make` makes a clone of the template, and counts it.

    `take` gives one of many, and is told how many more it pays to make ahead; `drop` drops one in the background; both
    may be missing. `beside` makes a database of another kind, by a function; `spare` makes a clone for the mode itself,
    or none if there is no room. `others_wait` says whether another process waits for room, so that nothing should be
    held for later. `base` opens the template that this one is built upon, None for one that is built from nothing.
    `note` is told what became of a used clone (`rewound`, `untouched`, `refused`) and why. `changed` is called when the
    test that ended has changed what belongs to the whole server, with what stays of that, or None: sessions that were
    opened meanwhile for later tests may have it.
    """

    server: Server
    project: Project
    template: TemplateRecord
    base: Callable[[], TemplateRecord | None]
    make: Callable[[], Clone]
    note: Callable[[str, str], None] = lambda _kind, _why: None
    changed: Callable[[str | None], None] = lambda _what: None
    take: Callable[[int], Clone] | None = None
    drop: Callable[[Clone], None] = Clone.drop
    beside: Callable[[Callable[[], Clone]], Clone] = lambda make: make()
    spare: Callable[[], Clone | None] | None = None
    others_wait: Callable[[], bool] = lambda: False

    def one_of_many(self, ahead: int) -> Clone:
        """A clone for one test, with so many made ahead for the next ones."""
        return self.make() if self.take is None else self.take(ahead)


class Isolation(Protocol):
    """Gives each test its database."""

    def acquire(self) -> Clone:
        """The database of the test that begins."""

    def release(self, clone: Clone) -> Sequence[ClientSession]:
        """The test has ended; a clone that is to be kept is marked so already.

        Returns the sessions that the test left open, which were ended.
        """

    def release_spares(self) -> None:
        """Somebody waits for room: drop what no test has at the moment."""

    def close(self) -> None:
        """The worker has ended; may be called again."""


class Reusable:
    """Clones that are brought back to where they were after each test, and handed on to the next.

    Two that are held at once (a module's and a test's) are two clones. One that cannot be brought back is dropped, and
    the next test gets a new one; so it is with one that is kept, and with one whose test renamed, dropped or closed the
    database.
    """

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self._free: list[Clone] = []

    def acquire(self) -> Clone:
        """A clone that is free, or a new one."""
        clone = self._take_free() or self.make()
        try:
            self.begin(clone)
        except BaseException:
            self._discard(clone)
            raise
        return clone

    def _take_free(self) -> Clone | None:
        while self._free:
            clone = self._free.pop()
            if self.is_intact(clone):
                return clone
            self._discard(clone)
        return None

    def is_intact(self, clone: Clone) -> bool:
        """Whether a free clone is still as it was when it was brought back."""
        return not clone.may_lack_rows

    def release(self, clone: Clone) -> Sequence[ClientSession]:
        """Bring it back for the next test; one that is kept is nobody's from now on."""
        if clone.kept:
            self.drop(clone)
            return ()
        try:
            left_open = self.end_sessions(clone)
            clean = clone.is_sound() and self.reset(clone)
        except BaseException:
            self._discard(clone)
            raise
        if clean:
            self.hand_on(clone)
        else:
            self.drop(clone)
        return left_open

    def hand_on(self, clone: Clone) -> None:
        """The next test gets it, unless another process waits for room."""
        self._free.append(clone)
        if self.origin.others_wait():
            self.release_spares()

    def release_spares(self) -> None:
        """Drop those that are free."""
        while self._free:
            self.drop(self._free.pop())

    def close(self) -> None:
        """Drop them."""
        self.release_spares()

    def make(self) -> Clone:
        """A new one."""
        return self.origin.make()

    def begin(self, clone: Clone) -> None:
        """A test is about to get it."""

    def end_sessions(self, clone: Clone) -> Sequence[ClientSession]:
        """End what is connected to it: the sessions that nobody closed."""
        return clone.end_sessions()

    def reset(self, clone: Clone) -> bool:
        """Bring it back; False if that cannot be done, so that the next test gets a new one."""
        raise NotImplementedError

    def drop(self, clone: Clone) -> None:
        """It is not handed on any more."""
        clone.drop()

    def _discard(self, clone: Clone) -> None:
        with contextlib.suppress(Exception):  # the error that led here is the one to see
            self.drop(clone)
