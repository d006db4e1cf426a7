"""Ways to give a test a database: what is done before it (a session that is connected) and after it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from clonedb.api import Template
from clonedb.clones.pool import Pool
from clonedb.isolation.mode import Origin
from clonedb.isolation.modes import make_isolation
from clonedb.isolation.rollback import HeldClone
from clonedb.postgres.cap import Cap

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


class ByMode:
    """What clonedb's fixtures do under an isolation: `auto` rewinds, and keeps the connection of its engine open.

    Under `auto` every clone has to be rewound, unless `refusals` are what is measured. `pooled` says how many tests
    there will be, for which clones are made ahead and dropped behind; without it they are made and dropped on the spot.
    """

    def __init__(
        self,
        template: Template,
        name: str,
        stack: contextlib.ExitStack,
        *,
        pooled: int | None = None,
        refusals: bool = False,
    ) -> None:
        origin = Origin(
            server=template.server,
            project=template.project,
            template=template.record,
            base=lambda: None,
            make=template.clone,
            note=_accept if refusals else _demand_no_refusal,
        )
        if pooled is not None:
            pool = Pool(template.server, template.record, Cap(template.server), lambda: pooled)
            stack.callback(pool.close)
            origin = replace(
                origin,
                make=pool.take,
                take=lambda ahead: pool.take(ahead=ahead),
                drop=pool.drop,
                others_wait=lambda: pool.others_wait,
            )
        self._mode = make_isolation(name, origin)
        stack.callback(self._mode.close)

    def before(self) -> Session:
        """A database, and a session with it."""
        self._clone = clone = self._mode.acquire()
        if isinstance(clone, HeldClone):
            session = clone.sessionmaker()()
            session.connection()
            return session
        return connected_session(clone.lasting.engine())

    def after(self, session: Session) -> None:
        """Close the session, and give the database back."""
        session.close()
        self._mode.release(self._clone)


def _demand_no_refusal(kind: str, why: str) -> None:
    """What is measured is rewinding. (Bloat comes after a thousand times, and costs a new clone.)"""
    if kind == "unable" or (kind == "refused" and why != "bloat"):
        raise RuntimeError(f"no rewinding: {why}")


def _accept(kind: str, why: str) -> None:
    """What is measured is what a new clone costs, but not where there is never any rewinding."""
    if kind == "unable":
        raise RuntimeError(f"no rewinding: {why}")


def connected_session(engine: Engine) -> Session:
    """A session that is connected."""
    from sqlalchemy.orm import Session

    session = Session(engine)
    session.connection()
    return session
