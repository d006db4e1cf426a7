"""SQLAlchemy's sessionmakers, made at the price of a copy."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker

__all__ = ["Sessionmakers"]


class Sessionmakers:
    """Sessionmakers, each the caller's own, of one class of sessions, which takes SQLAlchemy 0.2 ms to make.

    A class that a test listened to, or changed, is no other test's.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options  # a sessionmaker's
        self._made: sessionmaker[Session] | None = None
        self._dispatch: Any = None
        self._state: tuple[object, ...] = ()

    def get(self, **keywords: Any) -> sessionmaker[Session]:
        """One more; keywords are those of a session."""
        from sqlalchemy.orm import sessionmaker

        # a listener that a test added, or an attribute that it set, would reach every copy
        if self._made is None or self._state_of(self._made.class_) != self._state:
            self._made = sessionmaker(**self._options)
            self._dispatch = self._made.class_().dispatch
            self._state = self._state_of(self._made.class_)
        maker = copy.copy(self._made)
        # a copy shares its keywords with the original
        maker.kw = {**maker.kw, **keywords}
        return maker

    def _state_of(self, kind: type[Session]) -> tuple[object, ...]:
        """Everybody who listens to the class, and what is in it."""
        return *((*getattr(self._dispatch, name),) for name in self._dispatch._event_names), {  # noqa: SLF001
            **vars(kind)
        }
