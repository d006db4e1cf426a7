"""One name for the clones that a process's tests get one after the other, so that their URL stays the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from clonedb.names import clone_name, parse

if TYPE_CHECKING:
    from clonedb.clones.clone import Clone
    from clonedb.isolation.mode import CloneSource
    from clonedb.postgres.server import Server
    from clonedb.project.recipe import Recipe
    from clonedb.templates.metadata import TemplateRecord

__all__ = ["OneName"]


class OneName:
    """The clones of a source, each of which takes the name of the one before when that is given up.

    Settings that an application has cached, its pools and the programs that it has started lead
    to the next clone by that. A clone that is made while a test uses the one with the name, as
    one for a module, keeps its own. It costs nothing as long as a clone is used again.
    """

    def __init__(self, source: CloneSource) -> None:
        self._source = source
        self.server: Server = source.server
        self.template: TemplateRecord = source.template
        self.recipe: Recipe = source.recipe
        self._name: str | None = None
        self._holder: Clone | None = None

    @property
    def others_wait(self) -> bool:
        """The source's."""
        return self._source.others_wait

    def base(self) -> TemplateRecord | None:
        """The source's."""
        return self._source.base()

    def clone(self, *, ahead: int = 0) -> Clone:
        """A new clone, under the name if it is free."""
        return self._named(self._source.clone(ahead=ahead))

    def other(self, make: Callable[[], Clone]) -> Clone:
        """A database of another kind, under the name if it is free."""
        return self._named(self._source.other(make))

    def spare(self) -> Clone | None:
        """The source's, which no test connects to."""
        return self._source.spare()

    def drop(self, clone: Clone) -> None:
        """Drop a clone in the background, under its own name: the next one takes this one at once."""
        # before it is dropped, which may be later: two databases cannot have one name
        if clone is self._holder:
            clone.take_own_name()
        self._source.drop(clone)

    def note(self, kind: str, why: str) -> None:
        """Count for the source."""
        self._source.note(kind, why)

    def changed(self, what: str | None) -> None:
        """Tell the source."""
        self._source.changed(what)

    def _named(self, clone: Clone) -> Clone:
        name = self._current_name()
        # not given yet, given back by its holder, or gone with it
        if self._holder is None or self._holder.name != name or self._holder.dropped:
            try:
                clone.rename(name)
            except BaseException:
                with contextlib.suppress(
                    Exception
                ):  # the error that led here is the one to see
                    clone.drop()
                raise
            self._holder = clone
        return clone

    def _current_name(self) -> str:
        """The name, which says who owns the database: another one in a process that was forked."""
        server, prefix = self.server, self.server.config.prefix
        known = None if self._name is None else parse(prefix, self._name)
        if known is not None and known.owner == server.owner:
            return known.text
        fingerprint = self.template.metadata.fingerprint
        self._name = clone_name(prefix, fingerprint, server.owner, server.next_number())
        return self._name
