"""SQLAlchemy engines that are lent to a test: they refuse everything after its end, and show no password."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine.base import OptionEngine

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine
    from sqlalchemy.pool import PoolProxiedConnection

    from clonedb.sessions.loans import Loan

__all__ = ["LentEngine", "hide_password_in_tracebacks", "lend", "refuse_late_statements"]

_LOAN = "clonedb_loan"  # an execution option: engines hand it on to their connections, and to engines made of them


class LentEngine(OptionEngine):
    """An engine of one test's own, with the pool of an engine that serves one test after the other."""

    def raw_connection(self) -> PoolProxiedConnection:
        """A connection of the pool, by which SQLAlchemy opens every connection of an engine; EndedTestError."""
        __tracebackhide__ = True
        if (loan := _loan_of(self)) is not None:
            loan.require()
        return super().raw_connection()

    def dispose(self, close: bool = True) -> None:  # noqa: FBT001, FBT002 - SQLAlchemy's
        """Close the pool, which is another test's after this one's end."""
        loan = _loan_of(self)
        # SQLAlchemy's dispose() closes what is idle, by now perhaps the next test's
        if loan is None or not loan.ended:
            super().dispose(close)


LentEngine._option_cls = LentEngine  # noqa: SLF001 - what execution_options() makes of one, the loan included


def lend(engine: Engine, loan: Loan | None) -> Engine:
    """An engine for one test, to listen to and to set options on; without a loan it works as long as the other."""
    return engine.execution_options() if loan is None else LentEngine(engine, {_LOAN: loan})


def refuse_late_statements(engine: Engine, loan: Loan | None = None) -> None:
    """Let a connection that the test still had when it ended raise EndedTestError, rather than say that it is broken.

    `loan` is that of the engine itself, if it is not lent again and again.
    """
    if loan is not None:
        engine.update_execution_options(**{_LOAN: loan})
    event.listen(
        engine, "before_execute", _require
    )  # before there is a cursor, which may be refused with less to say
    event.listen(
        engine, "before_cursor_execute", _require
    )  # of what is executed as text, by exec_driver_sql()


def _require(connection: Connection, *_: object) -> None:
    __tracebackhide__ = True
    if (loan := _loan_of(connection)) is not None:
        loan.require()


def _loan_of(lent: Engine | Connection) -> Loan | None:
    loan: Loan | None = lent.get_execution_options().get(_LOAN)
    return loan


def hide_password_in_tracebacks(engine: Engine) -> Engine:
    """Have its failures to connect leave out the driver's frames, in whose variables the password is.

    A listener to `do_connect` would come before those of tests, and the first that connects is
    the last to be asked.
    """
    # every connection of the engine is opened by this method of its dialect
    connect = engine.dialect.connect

    def connect_in_silence(*positional: Any, **keywords: Any) -> Any:
        __tracebackhide__ = True
        try:
            return connect(*positional, **keywords)
        except Exception as error:  # noqa: BLE001 - of whatever driver
            raise error.with_traceback(None) from None

    engine.dialect.connect = connect_in_silence  # type: ignore[method-assign]
    return engine
