"""The one connection of isolation `rollback`, and its outer transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from clonedb.errors import BoundsError
from clonedb.postgres.statements import spoils
from clonedb.sessions import driver_state, idle_connections

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection as EngineConnection, Engine
    from sqlalchemy.pool import ConnectionPoolEntry

__all__ = ["INSTEAD", "Hold", "refusal"]

INSTEAD = (
    "under isolation 'rollback' there is one connection, which clonedb_session and clonedb_sessionmaker (or"
    " clonedb_async_session and clonedb_async_sessionmaker) hold; use those, or isolation 'auto', under which a test"
    " may have as many as it likes"
)


_BEGIN = "savepoint clonedb_outer"  # which tells the outer transaction from any other

# What outlives a rollback, in one message; a savepoint that is not there ends it with an error.
# The answer: whether the transaction wrote (each nextval() that writes WAL gives it a number),
# and whether there are statements that SQL's PREPARE made, of which the driver knows nothing.
_END = """
rollback to savepoint clonedb_outer; discard sequences;
select pg_catalog.pg_current_xact_id_if_assigned() is not null,
       exists (select from pg_catalog.pg_prepared_statement() where from_sql), pg_catalog.pg_advisory_unlock_all()
"""


def refusal(what: str) -> BoundsError:
    """The error of a test that wants what `rollback` cannot give."""
    return BoundsError(f"{what}; {INSTEAD}")


class Hold:
    """One connection in a transaction that no test may end; opened when a session first needs it.

    While it is open the database takes no other connection (ALLOW_CONNECTIONS false, which
    holds for superusers too): a second one would not see what the first has written, and what
    it commits would stay. It stays open from test to test, without what a test did to the
    session; where that cannot be undone it is closed.
    """

    def __init__(self, allow_connections: Callable[[bool], None], engine: Engine) -> None:
        from sqlalchemy import event

        self._allow_connections = allow_connections
        self._connection: EngineConnection | None = None
        self.wanted: bool = False
        self.left: bool = False
        self.told: bool = False
        self.wrote: bool = False
        self._stays = False
        # the gate is open only while the engine connects
        event.listen(engine, "do_connect", self._open_gate)
        event.listen(engine, "connect", self._close_gate)
        event.listen(engine, "checkout", _require_alive)
        event.listen(engine, "commit", self._refuse_commit)
        event.listen(engine, "after_cursor_execute", self._look)
        self.engine = engine

    def connection(self) -> EngineConnection:
        """The connection, in its outer transaction."""
        if self._connection is None:
            self._connection = self.engine.connect()
            self._connection.begin()
            # released with its transaction: as long as it is there, no other transaction was
            # begun
            self._connection.exec_driver_sql(_BEGIN)
        return self._connection

    def end(self) -> None:
        """Roll the transaction back.

        `left` says whether the test had ended it, `told` whether it was told so, `wrote`
        whether it may have written.
        """
        connection, self._connection, self.wanted = self._connection, None, False
        stays, self._stays = self._stays, False
        self.wrote = False
        if connection is None or connection.closed:
            return
        if not self.left and not connection.invalidated:
            answer = _end(connection.connection.dbapi_connection)
            self.left = answer is None
            # not known: the worst is supposed
            self.wrote, prepared = answer or (True, True)
            # an invalidated connection is closed, a closed one goes back to the pool
            if prepared or stays:
                connection.invalidate()

        connection.close()

    def let_go(self) -> bool:
        """Close the connection if a COPY or the like holds it: whether there was one."""
        connection = self._connection
        if connection is None or connection.closed or connection.invalidated:
            return False
        if not driver_state.let_go(connection.connection.dbapi_connection):
            return False
        connection.invalidate()
        return True

    def _open_gate(self, *_: object) -> None:
        self._allow_connections(True)

    def _close_gate(self, *_: object) -> None:
        self._allow_connections(False)

    def _refuse_commit(self, *_: object) -> None:
        self._leave("a commit of the outer transaction was refused")

    def _look(
        self, connection: EngineConnection, _cursor: object, statement: str, *_: object
    ) -> None:
        # a statement after which a rollback does not bring the session back
        self._stays = self._stays or spoils(statement)
        # a COMMIT as text, which SQLAlchemy's event `commit` does not see
        if connection is self._connection and not _in_transaction(
            connection.connection.dbapi_connection
        ):
            self._leave(f"{statement[:80]!r} ended the outer transaction")

    def _leave(self, what: str) -> NoReturn:
        self.left = self.told = True
        raise refusal(what)


def _require_alive(_connection: object, entry: ConnectionPoolEntry, _proxy: object) -> None:
    """The pool is about to hand out a connection: one that the server has ended between two tests is replaced."""
    from sqlalchemy.exc import DisconnectionError

    if idle_connections.is_gone(entry):
        raise DisconnectionError("the server has ended it")


def _end(dbapi_connection: Any) -> tuple[bool, bool] | None:
    """Undo what a rollback does not, unless the transaction is not the one that was begun: its savepoint ends with it.

    Returns whether it wrote, and whether the session holds prepared statements.
    """
    cursor = dbapi_connection.cursor()
    try:
        if hasattr(
            dbapi_connection, "pgconn"
        ):  # psycopg shows the first of several results, psycopg2 the last
            # several commands cannot be one prepared statement
            cursor.execute(_END, prepare=False)
            while cursor.nextset():
                pass
        else:
            cursor.execute(_END)

        wrote, prepared, _ = cursor.fetchone()
    except Exception:  # noqa: BLE001 - of whatever driver
        return None
    else:
        return wrote, prepared
    finally:
        cursor.close()


def _in_transaction(dbapi_connection: Any) -> bool:
    """Whether a DBAPI connection is in a transaction, as its driver knows from the server's last word."""
    driver = getattr(dbapi_connection, "driver_connection", dbapi_connection)
    if hasattr(driver, "is_in_transaction"):  # asyncpg
        return bool(driver.is_in_transaction())
    return int(driver.info.transaction_status) != 0  # libpq's PQTRANS_IDLE
