"""`rollback`: sessions inside one outer transaction of one connection, which is never committed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from clonedb.clones.clone import Clone
from clonedb.clones.database import Database
from clonedb.errors import BoundsError
from clonedb.isolation.mode import CloneSource, Reusable
from clonedb.isolation.outer_transaction import INSTEAD, Hold, refusal
from clonedb.isolation.own_session import open_session
from clonedb.isolation.sequences import Sequences
from clonedb.postgres import client_sessions, sql
from clonedb.sessions.sessionmakers import Sessionmakers

if TYPE_CHECKING:
    from psycopg import Connection
    from sqlalchemy.engine import Connection as EngineConnection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
    from sqlalchemy.orm import Session, sessionmaker

    from clonedb.clones.async_engine import Around
    from clonedb.sessions.loans import Loan

__all__ = ["Rollback"]

_REFUSED = "is not currently accepting connections"  # PostgreSQL's words, of SQLSTATE 55000


class HeldConnection:
    """What a clone has under `rollback`: one synchronous connection or an asynchronous one, and sessions on it."""

    def __init__(self, clone: Clone) -> None:
        self._clone = clone
        self._hold: Hold | None = None
        self._async_hold: Hold | None = None
        self._sessionmakers: Sessionmakers | None = None

    def allow_connections(self, allowed: bool) -> None:  # noqa: FBT001 - it is the one thing that is said
        """Let one connection in, or none."""
        self._clone.server.run(sql.allow_connections, self._clone.name, allowed=allowed)

    def sessionmaker(self, loan: Loan | None) -> sessionmaker[Session]:
        """A sessionmaker whose sessions are savepoints inside the outer transaction."""
        if self._hold is None:
            self._hold = Hold(self.allow_connections, self._clone.engine())
        self._require_one_of(self._hold, self._async_hold)
        if self._sessionmakers is None:
            options = {
                "class_": _session_class(self._hold),
                # a session's commit releases its savepoint, its rollback goes back to that
                "join_transaction_mode": "create_savepoint",
            }
            self._sessionmakers = Sessionmakers(options)
        return self._sessionmakers.get(loan=loan)

    def async_sessionmaker(
        self, engine: AsyncEngine, loan: Loan | None
    ) -> async_sessionmaker[AsyncSession]:
        """The same for asynchronous sessions, on an engine that is made for the test's loop and closed with it."""
        from sqlalchemy.ext.asyncio import async_sessionmaker

        # each test's loop has an engine of its own, and so has the hold
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
            raise refusal(
                "a test asks for a synchronous and an asynchronous session, which are two connections"
            )

    def let_go(self) -> bool:
        """Close the connection if a COPY or the like holds it, and its transaction with it: whether there was one."""
        return self._hold is not None and self._hold.let_go()

    def roll_back(self) -> tuple[bool, bool]:
        """End the outer transaction: whether the test had left it, so that something may be committed, and was told."""
        held = [hold for hold in (self._hold, self._async_hold) if hold is not None]
        if self._hold is not None:
            # the asynchronous one ended with its loop; its server process may still be rolling
            # back
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
        # `end_sessions` would end its pooled connection without its pool's knowing
        if self._hold is not None:
            self._hold.engine.dispose()
        self._clone.server.run(sql.end_sessions, self._clone.name, keep=[keep])


def _session_class(hold: Hold) -> type[Session]:
    from sqlalchemy.orm import Session

    class HeldSession(Session):
        """A session on the held connection, which is opened when the session first needs it."""

        def __init__(self, *arguments: Any, loan: Loan | None = None, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self._loan = loan

        # called when a session needs its connection: a test that uses none opens none
        def get_bind(self, *_: Any, **__: Any) -> EngineConnection:
            if self._loan is not None:
                self._loan.require()
            return hold.connection()

    return HeldSession


class HeldDatabase(Database):
    """Sessions on the one connection; everything that would open another one is refused."""

    def __init__(self, held: HeldConnection, clone: Clone, loan: Loan | None) -> None:
        super().__init__(clone, loan)
        self._held = held

    def explain(self, error: BaseException) -> str | None:
        """PostgreSQL refuses a second connection."""
        if _REFUSED not in str(error):
            return None
        return (
            "opened a second connection, and under isolation='rollback' there is one; use isolation='auto' for a test"
            " that has several"
        )

    def connect(self, **keywords: Any) -> NoReturn:
        """Raises BoundsError: it would be a second connection."""
        del keywords
        raise refusal("Database.connect() opens a connection of its own")

    def engine(self, **keywords: Any) -> NoReturn:
        """Raises BoundsError: an engine opens connections as it likes."""
        del keywords
        raise refusal("Database.engine() opens connections of its own")

    def lasting_connection(self, in_the_middle: Callable[[], None]) -> NoReturn:
        """Raises BoundsError, as `connect`."""
        del in_the_middle
        raise refusal("clonedb_connection opens a connection of its own")

    def lasting_engine(self) -> NoReturn:
        """Raises BoundsError, as `engine`."""
        raise refusal("clonedb_engine opens connections of its own")

    def async_connection(self) -> NoReturn:
        """Raises BoundsError, as `connect`."""
        raise refusal("clonedb_async_connection opens a connection of its own")

    def async_engine(self, *, around: Around | None = None) -> NoReturn:
        """Raises BoundsError, as `engine`."""
        del around
        raise refusal("clonedb_async_engine opens connections of its own")

    def sessionmaker(self, engine: Callable[[], Engine] | None = None) -> sessionmaker[Session]:
        """Its sessions are savepoints inside the outer transaction: their commits are seen, and undone."""
        del engine
        return self._held.sessionmaker(self.loan)

    @contextlib.contextmanager
    def async_sessionmaker(
        self, engine: Callable[[], AsyncEngine] | None = None, *, around: Around | None = None
    ) -> Iterator[async_sessionmaker[AsyncSession]]:
        """The same on an engine of its own, which is closed on the test's loop."""
        __tracebackhide__ = True
        del engine
        from clonedb.clones.async_engine import open_engine

        with open_engine(self.clone, self.loan, around) as held:
            yield self._held.async_sessionmaker(held, self.loan)

    def fill(self, seed: Callable[..., Any]) -> None:
        """In the outer transaction."""
        from clonedb.migrate.inside.seeds import fill

        with self.sessionmaker().begin() as session:
            fill(seed, session.connection())

    def let_go(self) -> bool:
        """Of the held connection, whose transaction ends with it."""
        return self._held.let_go()


@dataclass(frozen=True, slots=True)
class _Own:
    """What belongs to a clone: clonedb's session in it, the sequences that this sets back, the tests' connection."""

    connection: Connection[Any]
    sequences: Sequences
    held: HeldConnection


class Rollback(Reusable):
    """One clone for the worker, in which every test's outer transaction is rolled back.

    Sequences do not take part in transactions, so that a session of clonedb's own sets them
    back.
    """

    def __init__(self, supply: CloneSource) -> None:
        super().__init__(supply)
        self._own: dict[Clone, _Own] = {}

    def make(self) -> Clone:
        """A clone that takes no connections but the held one."""
        clone = super().make()
        # nothing of a test's is committed: a clone that was kept would show the template
        clone.worth_keeping = False
        try:
            connection, held = open_session(clone), HeldConnection(clone)
            self._own[clone] = _Own(connection, Sequences(connection), held)
            # clonedb's own session is in by now
            held.allow_connections(False)
        except BaseException:
            self._discard(clone)
            raise
        return clone

    def database(self, clone: Clone, loan: Loan | None) -> Database:
        """Sessions, and no other connection."""
        return HeldDatabase(self._own[clone].held, clone, loan)

    def release(self, clone: Clone) -> Sequence[client_sessions.ClientSession]:
        """Roll back; a test that left its transaction costs a new clone."""
        left, told = self._own[clone].held.roll_back()
        # in this order: a transaction that the test left may have written for good
        if not left and self.reset(clone):
            self.hand_on(clone)
            return ()
        self.drop(clone)
        if left and not told:
            raise BoundsError(
                f"the test ended its outer transaction, by a way that SQLAlchemy does not see; {INSTEAD}"
            )
        return ()

    def reset(self, clone: Clone) -> bool:
        """Set the sequences back; a test that ended the session that does so costs a new clone."""
        import psycopg

        own = self._own[clone]
        # no row was written, and every sequence logs its first nextval()
        if not (own.held.wrote or own.sequences.silent):
            return True
        try:
            own.held.end_async(keep=own.connection.info.backend_pid)
            own.sequences.put_back(own.sequences.changed())
        except psycopg.Error:
            return False
        return True

    def drop(self, clone: Clone) -> None:
        """End clonedb's session, too."""
        if own := self._own.pop(clone, None):
            own.connection.close()
        super().drop(clone)
