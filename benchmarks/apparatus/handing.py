"""Ways to give a test a database: what is done before it (a session that is connected) and after it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from clonedb.api import Template
from clonedb.clones.clone import Clone, create
from clonedb.run_state import RunState
from clonedb.supply import Supply

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine
    from sqlalchemy.orm import Session

__all__ = ["ByMode", "ByRollback", "Way", "connected_session", "milliseconds"]


class Way(Protocol):
    """A way to give a test its database."""

    def before(self) -> Session:
        """A session that is connected, in a transaction that it may commit."""

    def after(self, session: Session) -> None:
        """Close it, and undo what was done."""


def milliseconds(way: Way, test: Callable[[Session], None]) -> float:
    """One test: the time of what is done before and after it, without its own."""
    start = time.perf_counter()
    session = way.before()
    between = time.perf_counter()
    test(session)
    session.commit()
    after = time.perf_counter()
    way.after(session)
    return (between - start + time.perf_counter() - after) * 1e3


class ByRollback:
    """One clone and one connection, in a transaction around each test, which is rolled back."""

    def __init__(self, template: Template, stack: contextlib.ExitStack) -> None:
        clone = stack.enter_context(template.clone())
        self._engine = clone.engine()

    def before(self) -> Session:
        """A session whose commits are savepoints."""
        from sqlalchemy.orm import Session

        connection = self._engine.connect()
        connection.begin()
        session = Session(bind=connection, join_transaction_mode="create_savepoint")
        session.connection()
        return session

    def after(self, session: Session) -> None:
        """Roll back."""
        from sqlalchemy.engine import Connection

        connection = session.get_bind()
        assert isinstance(connection, Connection)
        session.close()
        connection.close()


class _Measured(Supply):
    """What is measured is rewinding, unless refusals are: not a server on which nothing is ever rewound."""

    accepts_refusals = False

    def note(self, kind: str, why: str) -> None:
        """Raises RuntimeError for a refusal. (Bloat comes after a thousand times, and costs a new clone.)"""
        if kind == "unable" or (
            kind == "refused" and why != "bloat" and not self.accepts_refusals
        ):
            raise RuntimeError(f"no rewinding: {why}")
        super().note(kind, why)


class _OnTheSpot(_Measured):
    """Clones are made when they are asked for, and dropped at once."""

    def clone(self, *, ahead: int = 0) -> Clone:
        """A new clone."""
        del ahead
        return create(self.server, self.template)

    def drop(self, clone: Clone) -> None:
        """Drop it."""
        clone.drop()


class ByMode:
    """What clonedb's fixtures do under an isolation: `auto` rewinds, and keeps the connection of its engine open.

    Under `auto` every clone has to be rewound, unless `refusals` are what is measured. `pooled` says how many tests
    there will be, for which clones are made ahead and dropped behind; without it they are made and dropped on the spot.
    With `one_name` each has the name of the one before, as with `route`.
    """

    def __init__(
        self,
        template: Template,
        name: str,
        stack: contextlib.ExitStack,
        *,
        pooled: int | None = None,
        refusals: bool = False,
        one_name: bool = False,
    ) -> None:
        kind = _OnTheSpot if pooled is None else _Measured
        self._supply = kind(
            template.server,
            template.record,
            template.recipe,
            run=RunState(expected=lambda: pooled),
        )
        self._supply.accepts_refusals = refusals
        stack.callback(self._supply.close)
        if one_name:
            self._supply.one_name = name
        self._mode = self._supply.isolation(name)

    def before(self) -> Session:
        """A database, and a session with it."""
        self._database = self._mode.database(self._mode.acquire(), None)
        session = self._database.sessionmaker()()
        session.connection()
        return session

    def after(self, session: Session) -> None:
        """Close the session, and give the database back."""
        session.close()
        self._mode.release(self._database.clone)


def connected_session(engine: Engine) -> Session:
    """A session that is connected."""
    from sqlalchemy.orm import Session

    session = Session(engine)
    session.connection()
    return session
