"""`rollback`: sessions inside one outer transaction of one connection, which is never committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clonedb.clones.clone import Clone
from clonedb.errors import BoundsError
from clonedb.isolation.mode import CloneSource, Reusable
from clonedb.isolation.outer_transaction import INSTEAD, Hold, refusal
from clonedb.isolation.own_session import open_session
from clonedb.isolation.sequences import Sequences
from clonedb.postgres import client_sessions, sql
from clonedb.sessions.kept import LastingConnections, Sessionmakers

if TYPE_CHECKING:
    from psycopg import Connection
    from sqlalchemy.engine import Connection as EngineConnection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
    from sqlalchemy.orm import Session, sessionmaker

    from clonedb.sessions.loans import Loan

__all__ = ["REFUSED", "HeldClone", "Rollback"]

REFUSED = "is not currently accepting connections"
"""How PostgreSQL words its refusal of a second connection (SQLSTATE 55000)."""


@dataclass(slots=True, eq=False)
class HeldClone(Clone):
    """The worker's clone under `rollback`: it gives sessions, and no other connection."""

    _hold: Hold | None = field(default=None, repr=False)
    _async_hold: Hold | None = field(default=None, repr=False)
    _sessionmakers: Sessionmakers | None = field(default=None, repr=False)

    def connect(self, **keywords: Any) -> Connection[Any]:
        """Raises BoundsError: it would be a second connection."""
        del keywords
        raise refusal("clonedb_connection and Clone.connect() open a connection of their own")

    def engine(self, **keywords: Any) -> Engine:
        """Raises BoundsError: an engine opens connections as it likes."""
        del keywords
        raise refusal("clonedb_engine and Clone.engine() open connections of their own")

    @property
    def lasting(self) -> LastingConnections:
        """Connections that are refused, as those of `connect` and `engine`."""
        return LastingConnections(self.engine, self.connect)

    def allow_connections(self, allowed: bool) -> None:  # noqa: FBT001 - it is the one thing that is said
        """Let a connection in, or nobody."""
        self.server.run(sql.allow_connections, self.name, allowed=allowed)

    def sessionmaker(self, loan: Loan | None = None) -> sessionmaker[Session]:
        """A sessionmaker whose sessions are savepoints inside the outer transaction: commits are seen, and undone."""
        if self.shared is not self:
            return self.shared.sessionmaker(self.loan)
        if self._hold is None:
            self._hold = Hold(self.allow_connections, Clone.engine(self))
        self._require_one_of(self._hold, self._async_hold)
        if self._sessionmakers is None:
            options = {"class_": _session_class(self._hold), "join_transaction_mode": "create_savepoint"}
            self._sessionmakers = Sessionmakers(options)
        return self._sessionmakers.get(loan=loan)

    def async_sessionmaker(self, engine: AsyncEngine, loan: Loan | None = None) -> async_sessionmaker[AsyncSession]:
        """The same for asynchronous sessions, on an engine that is made for the test's loop and closed with it."""
        if self.shared is not self:
            return self.shared.async_sessionmaker(engine, self.loan)
        from sqlalchemy.ext.asyncio import async_sessionmaker

        if self._async_hold is None or self._async_hold.engine is not engine.sync_engine:
            self._async_hold = Hold(self.allow_connections, engine.sync_engine)
        self._require_one_of(self._async_hold, self._hold)
        return async_sessionmaker(
            sync_session_class=_session_class(self._async_hold),
            join_transaction_mode="create_savepoint",
            expire_on_commit=False,
            loan=loan,
        )

    def _require_one_of(self, wanted: Hold, other: Hold | None) -> None:
        wanted.wanted = True
        if other is not None and other.wanted:
            raise refusal("a test asks for a synchronous and an asynchronous session, which are two connections")

    def let_go(self) -> bool:
        """The same for the held connection, whose transaction ends with it."""
        if self.shared is not self:
            return self.shared.let_go()
        return self._hold is not None and self._hold.let_go()

    def roll_back(self) -> tuple[bool, bool]:
        """End the outer transaction: whether the test had left it, so that something may be committed, and was told."""
        held = [hold for hold in (self._hold, self._async_hold) if hold is not None]
        if self._hold is not None:
            self._hold.end()
        return any(hold.left for hold in held), any(hold.told for hold in held)

    @property
    def wrote(self) -> bool:
        """Whether the test may have written; of an asynchronous one that is not known."""
        return self._async_hold is not None or (self._hold is not None and self._hold.wrote)

    def end_async(self, *, keep: int) -> None:
        """Wait until the server rolled back what an asynchronous test did, whose engine was closed with its loop.

        Every session but that of the process `keep` is ended.
        """
        if self._async_hold is None:
            return
        self._async_hold = None
        if self._hold is not None:
            self._hold.engine.dispose()
        self.server.run(sql.end_sessions, self.name, keep=[keep])


def _session_class(hold: Hold) -> type[Session]:
    from sqlalchemy.orm import Session

    class HeldSession(Session):
        """A session on the held connection, which is opened when the session first needs it."""

        def __init__(self, *arguments: Any, loan: Loan | None = None, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self._loan = loan

        def get_bind(self, *_: Any, **__: Any) -> EngineConnection:
            if self._loan is not None:
                self._loan.require()
            return hold.connection()

    return HeldSession


class Rollback(Reusable):
    """One clone for the worker, in which every test's outer transaction is rolled back.

    Sequences do not take part in transactions, so that a session of clonedb's own sets them back.
    """

    def __init__(self, supply: CloneSource) -> None:
        super().__init__(supply)
        self._own: dict[Clone, tuple[Connection[Any], Sequences]] = {}

    def make(self) -> Clone:
        """A clone that takes no connections but the held one."""
        made = super().make()
        clone = HeldClone(made.server, made.template, made.name, made.seconds, made.oid, made.crashes)
        clone.worth_keeping, clone.on_drop = False, made.on_drop
        try:
            connection = open_session(clone)
            self._own[clone] = connection, Sequences(connection)
            clone.allow_connections(False)
        except BaseException:
            self._discard(clone)
            raise
        return clone

    def release(self, clone: Clone) -> Sequence[client_sessions.ClientSession]:
        """Roll back; a test that left its transaction costs a new clone."""
        assert isinstance(clone, HeldClone)  # noqa: S101 - made above
        left, told = clone.roll_back()
        if not left and self.reset(clone):
            self.hand_on(clone)
            return ()
        self.drop(clone)
        if left and not told:
            raise BoundsError(f"the test ended its outer transaction, by a way that SQLAlchemy does not see; {INSTEAD}")
        return ()

    def reset(self, clone: Clone) -> bool:
        """Set the sequences back; a test that ended the session that does so costs a new clone."""
        import psycopg

        assert isinstance(clone, HeldClone)  # noqa: S101 - made above
        connection, sequences = self._own[clone]
        if not (clone.wrote or sequences.silent):
            return True
        try:
            clone.end_async(keep=connection.info.backend_pid)
            sequences.put_back(sequences.changed())
        except psycopg.Error:
            return False
        return True

    def drop(self, clone: Clone) -> None:
        """End clonedb's session, too."""
        if own := self._own.pop(clone, None):
            own[0].close()
        super().drop(clone)
