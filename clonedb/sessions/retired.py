"""Psycopg connections that have served their test, whose session is closed or the next test's."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clonedb.sessions.loans import Loan

__all__ = ["retire"]


def retire(connection: Any, loan: Loan | None) -> None:
    """Take the PGconn out of a psycopg connection, which raises EndedTestError from now on, as its cursors do.

    Without a loan it is merely of no use. Psycopg would warn, when the connection is forgotten,
    that it was not closed.
    """
    del connection.pgconn
    if loan is not None:
        connection.loan = loan
        # cursors that the test has kept refer to this object, so its own class has to change
        connection.__class__ = _retired(type(connection))  # type: ignore[arg-type]  # a class is hashable


@cache
def _retired(kind: Any) -> type:
    """The class of retired connections: of one base, because only such a class can be given to an object."""

    class Retired(kind):  # type: ignore[misc]
        loan: Loan
        closed = True  # so that close(), `with` and the garbage collector have nothing to do

        def wait(self, *_: object, **__: object) -> Any:
            """Raises EndedTestError: all that a cursor sends or reads goes through here."""
            self.loan.refuse()

        def __getattr__(self, name: str) -> Any:
            if name == "pgconn":
                self.loan.refuse()
            raise AttributeError(name)

        def __del__(self, *_: object) -> None:
            """There is nothing to close."""

        def __repr__(self) -> str:
            return f"<a psycopg connection of {self.loan.holder}, which has ended>"

    return Retired
