"""The databases that tests, or wider scopes, have at the moment: those that connections are sent to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from clonedb.url import DatabaseURL

__all__ = ["Entered", "Lent", "Proof", "no_proof"]

Proof = Callable[[str], Mapping[str, Any]]
"""Keywords for a driver's connect()."""


def no_proof(_driver: str) -> Mapping[str, Any]:
    """None are needed."""
    return {}


@dataclass(frozen=True, slots=True)
class Lent:
    """A database that connections are sent to, the template that it stands for, and what drivers are told."""

    url: DatabaseURL
    template: str
    proof: Proof

    @property
    def name(self) -> str:
        """The database's."""
        return str(self.url.database)


class Entered:
    """One database above the other, for each template; `count` is how many have been left.

    Those that stand in served what ran between tests, or have been left: code that is aimed
    there got the name from the environment, and is sent to the one of its template.
    """

    def __init__(self) -> None:
        self._stack: list[Lent] = []
        self._standing_in: dict[str, str] = {}
        self.count: int = 0

    def enter(self, lent: Lent, *, stands_in: bool) -> None:
        """Connections go there from now on."""
        if stands_in:
            self._standing_in[lent.name] = lent.template
        # one name may come again: it is a test's own clone from here on
        elif not self.has(lent.name):
            self._standing_in.pop(lent.name, None)
        self._stack.append(lent)

    def leave(self, name: str | None) -> bool:
        """Connections go to the one below; whether the database is not entered any more."""
        self.count += 1
        # the last of that name: a database may be entered twice
        for index in reversed(range(len(self._stack))):
            if self._stack[index].name == name:
                lent = self._stack.pop(index)
                if self.has(name):
                    return False
                # an engine that got its name meanwhile is sent to the next clone
                self._standing_in[lent.name] = lent.template
                return True
        return False

    def has(self, name: str | None) -> bool:
        """Whether a database is entered."""
        return any(lent.name == name for lent in self._stack)

    def current(self, template: str | None = None) -> Lent | None:
        """The one that was entered last, of a template or of all."""
        return next(
            (one for one in reversed(self._stack) if template in (None, one.template)), None
        )

    def stands_in(self, name: str) -> str | None:
        """The template of a database that stands in; None for others."""
        return self._standing_in.get(name)

    @property
    def urls(self) -> list[DatabaseURL]:
        """Of all, the last one first."""
        return [lent.url for lent in reversed(self._stack)]
