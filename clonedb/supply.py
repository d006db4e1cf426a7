"""Supply: one open template in a process, with the clones that its tests get, use in turn, and give back."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from clonedb.clones.pool import Pool
from clonedb.isolation.modes import make_isolation
from clonedb.isolation.one_name import OneName
from clonedb.run_state import RunState

if TYPE_CHECKING:
    from clonedb.clones.clone import Clone
    from clonedb.clones.database import Database
    from clonedb.isolation.mode import Isolation
    from clonedb.postgres.server import Server
    from clonedb.project.recipe import Recipe
    from clonedb.sessions.loans import Loan
    from clonedb.templates.metadata import TemplateRecord

__all__ = ["Supply"]

_HOLDER = "the block of `with template.database()`"


class Supply:
    """The databases of one template: its pool and its isolation modes.

    It is what an isolation mode gets its clones from (`isolation.mode.CloneSource`). `base`
    opens the template that this one is built upon, None for one that is built from nothing.
    `run` is what all supplies of the process share. The clones of the isolation `one_name` have
    one name, one after the other; it is said before the first of them is made.
    """

    def __init__(
        self,
        server: Server,
        template: TemplateRecord,
        recipe: Recipe,
        *,
        base: Callable[[], TemplateRecord | None] = lambda: None,
        run: RunState | None = None,
    ) -> None:
        self.server = server
        self.template = template
        self.recipe = recipe
        self.run: RunState = run or RunState()
        self._base = base
        self._pool = Pool(server, template, self.run, self.run.expected)
        self._modes: dict[str, Isolation] = {}
        self.one_name: str | None = None
        self.run.supplies.append(self)
        self.run.statistics.templates[template.name, server.about] = template.how

    def base(self) -> TemplateRecord | None:
        """The template that this one is built upon, opened when it is first asked for."""
        return self._base()

    def clone(self, *, ahead: int = 0) -> Clone:
        """A new clone, counted; `ahead` is how many it pays to make ahead for the next times."""
        if (
            self.recipe.config.template == "revision"
        ):  # of which there are many, each asked for rarely
            ahead = 0
        clone = self._pool.take(ahead=ahead)
        self.run.statistics.count_clone(self.server.about)
        return clone

    def other(self, make: Callable[[], Clone]) -> Clone:
        """A database that is no clone of the template but takes as much room as one, which is waited for."""
        return self.run.other(self.server, make)

    def spare(self) -> Clone | None:
        """A clone for an isolation mode itself, or None if there is no room for more than the tests' own."""
        return self._pool.spare()

    def drop(self, clone: Clone) -> None:
        """Drop a used clone while the next test runs, if clones are made ahead; else at once."""
        self._pool.drop(clone)

    @property
    def others_wait(self) -> bool:
        """Whether another process waits for room, so that nothing should be held for later."""
        return self._pool.others_wait

    def note(self, kind: str, why: str) -> None:
        """Count what became of a used clone (`rewound`, `untouched`, `refused`), and why."""
        self.run.statistics.note(kind, why)

    def changed(self, what: str | None) -> None:
        """The test that ended has changed what belongs to the whole server; `what` says what stays of that.

        Sessions that were opened meanwhile for later tests may have it, so that no clone is
        held for later.
        """
        if what:
            self.run.server_changes.append(what)
        self.run.release_spares()

    def isolation(self, name: str) -> Isolation:
        """The isolation mode of a name, made when it is first asked for.

        The only test of a process has no successor: getting ready to rewind would cost more
        than a drop.
        """
        if name == "auto" and self.run.is_single():
            name = "clone"
        if name not in self._modes:
            source = OneName(self) if name == self.one_name else self
            self._modes[name] = make_isolation(name, source)
        return self._modes[name]

    @contextlib.contextmanager
    def database(self, name: str) -> Iterator[Database]:
        """A database under an isolation mode, for as long as the context lasts.

        What the context left open is ended, and told of by a LeakedConnectionWarning; what it
        changed of the whole server by a ServerChangedWarning. ServerError says that its
        sessions were ended for lack of memory. An error of the context is never hidden by one
        of giving the database back. Threads may do this at the same time; they acquire and
        release in turns, and while one waits for room the others release.
        """
        with self.run.turns.acquiring() as thread:
            mode = self.isolation(name)
            lent = mode.lend(self._begin)

        # what it is called now: the clone has its own name again when it was given back
        name = lent.name
        try:
            yield lent
        except BaseException:
            with contextlib.suppress(Exception):
                self._take_back(mode, lent, thread)
            raise

        for warning in self._take_back(mode, lent, thread):
            warnings.warn(warning, stacklevel=3)  # the caller's `with`, past contextlib
        self.server.growth.require_not_stopped(name)

    def _begin(self, database: str) -> Loan:
        return self.run.loans.begin(_HOLDER, database)

    def _take_back(self, mode: Isolation, lent: Database, thread: int) -> list[Warning]:
        told: list[Warning] = []
        try:
            # first: psycopg's rollback would wait for a COPY that was left open
            if lent.let_go():
                from clonedb.sessions.leaks import held

                told.append(held(_HOLDER, "a connection of clonedb's engine"))
            if lent.loan is not None:
                lent.loan.end()
        finally:
            with self.run.turns.releasing(thread):
                told += self.release(mode, lent, _HOLDER)
        return told

    def release(self, mode: Isolation, lent: Database, holder: str) -> list[Warning]:
        """Give a database back to its mode: what there is to warn of what `holder` did with it."""
        left_open, changes = mode.release(lent.clone), self.run.server_changes
        if not (left_open or changes):
            return []
        from clonedb.sessions.leaks import ServerChangedWarning, leaked_connection_warnings

        told: list[Warning] = []
        # taken out one by one: the list is shared by all supplies of the process
        while changes:
            told.append(ServerChangedWarning(f"{holder} {changes.pop(0)}"))

        # a proxy's sessions stay open when its clients have closed theirs
        if not self.server.proxied:
            told += leaked_connection_warnings(holder, lent.loan, left_open, self.run.loans)
        return told

    def release_spares(self) -> None:
        """Drop every clone that no test has."""
        for mode in list(self._modes.values()):
            mode.release_spares()
        self._pool.release_spares()

    def close(self) -> None:
        """Drop what is left, and end the pool's thread; may be called again. Raises the first error of dropping."""
        with contextlib.ExitStack() as stack:  # one that fails keeps no other from being closed
            stack.callback(self._leave)
            stack.callback(self._pool.close)
            while self._modes:
                stack.callback(self._modes.popitem()[1].close)

    def _leave(self) -> None:
        if self in self.run.supplies:
            self.run.supplies.remove(self)
