"""SQLAlchemy's ORM sessions that are in a transaction: found by the connections that they hold."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["sessions_on"]


def sessions_on(is_chosen: Callable[[Mapping[Any, Any]], bool]) -> list[Session]:
    """The sessions that hold a connection which is chosen by its `info`, also behind AsyncSession's."""
    orm = sys.modules.get("sqlalchemy.orm.session")
    known = getattr(orm, "_sessions", {})  # of which close_all_sessions() closes each
    return [session for session in list(known.values()) if any(map(is_chosen, _infos(session)))]


def _infos(session: Session) -> Iterator[Mapping[Any, Any]]:
    transaction = session.get_transaction()
    # nothing public tells; each connection is there twice, by itself and by its engine
    held: Mapping[Any, Any] = getattr(transaction, "_connections", {})
    for connection, *_ in list(held.values()):
        # one that a statement has lost already has none
        with contextlib.suppress(Exception):
            yield connection.info
