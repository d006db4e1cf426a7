"""What every mode is: its two moments, what a test gets, and the clones that several tests use in turn."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from clonedb.clones.clone import Clone
from clonedb.clones.database import Database, PlainDatabase
from clonedb.postgres.client_sessions import ClientSession
from clonedb.postgres.server import Server
from clonedb.project.recipe import Recipe
from clonedb.templates.metadata import TemplateRecord

if TYPE_CHECKING:
    from clonedb.sessions.loans import Loan

__all__ = ["CloneSource", "Isolation", "Reusable"]


class CloneSource(Protocol):
    """The open template that a mode gets its clones from (`clonedb.supply.Supply`)."""

    server: Server
    template: TemplateRecord
    recipe: Recipe

    @property
    def others_wait(self) -> bool:
        """Whether another process waits for room, so that nothing should be held for later."""

    def base(self) -> TemplateRecord | None:
        """The template that this one is built upon, opened; None for one that is built from nothing."""

    def clone(self, *, ahead: int = 0) -> Clone:
        """A new clone, counted; `ahead` is how many it pays to make ahead for the next times."""

    def other(self, make: Callable[[], Clone]) -> Clone:
        """A database of another kind, made by a function when there is room for it."""

    def spare(self) -> Clone | None:
        """A clone for the mode itself, or None if there is no room."""

    def drop(self, clone: Clone) -> None:
        """Drop a used clone in the background."""

    def note(self, kind: str, why: str) -> None:
        """Count what became of a used clone (`rewound`, `untouched`, `refused`), and why."""

    def changed(self, what: str | None) -> None:
        """The test that ended has changed what belongs to the whole server; `what` says what stays of that, if any.

        Sessions that were opened meanwhile for later tests may have it.
        """


class Isolation(abc.ABC):
    """Gives each test its database.

    `lends` says whether a test has it for itself: what it was handed is refused then when it
    has ended. `fills` says whether functions may fill it for one test.
    """

    lends: bool = True
    fills: bool = True

    @abc.abstractmethod
    def acquire(self) -> Clone:
        """The clone of the test that begins."""

    def database(self, clone: Clone, loan: Loan | None) -> Database:
        """What the test has of its clone; a mode whose tests connect in another way returns a kind of its own."""
        return PlainDatabase(clone, loan)

    def lend(self, begin: Callable[[str], Loan]) -> Database:
        """The database of the test that begins; `begin` makes a loan of a clone's name, if the mode lends."""
        clone = self.acquire()
        try:
            return self.database(clone, begin(clone.name) if self.lends else None)
        except BaseException:
            with contextlib.suppress(Exception):  # the error that led here is the one to see
                self.release(clone)
            raise

    @abc.abstractmethod
    def release(self, clone: Clone) -> Sequence[ClientSession]:
        """The test has ended; a clone that is to be kept is marked so already.

        Returns the sessions that the test left open, which were ended.
        """

    @abc.abstractmethod
    def release_spares(self) -> None:
        """A process waits for room: drop what no test has at the moment."""

    @abc.abstractmethod
    def close(self) -> None:
        """The worker has ended; may be called again."""


class Reusable(Isolation):
    """Clones that are brought back to where they were after each test, and handed on to the next.

    Two that are held at once (a module's and a test's) are two clones. One that cannot be
    brought back is dropped, and the next test gets a new one; so it is with one that is kept,
    and with one whose test renamed, dropped or closed the database.
    """

    def __init__(self, supply: CloneSource) -> None:
        self.supply: CloneSource = supply
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
        """Bring it back for the next test; one that is kept is given up."""
        if clone.kept:
            self.drop(clone)
            return ()

        try:
            # sessions first: what they would write later could not be undone
            left_open = self.end_sessions(clone)
            # a database that was renamed, dropped or closed has nothing to bring back
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
        # only now, so that `release_spares` finds it
        self._free.append(clone)
        if self.supply.others_wait:
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
        return self.supply.clone()

    def begin(self, clone: Clone) -> None:
        """A test is about to get it."""

    def end_sessions(self, clone: Clone) -> Sequence[ClientSession]:
        """End what is connected to it: the sessions that were left open."""
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
