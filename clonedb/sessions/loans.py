"""Loans: a database lent to a test, and the token by which is told whose a connection is after the test's end."""

from __future__ import annotations

import mmap
import os
import re
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from clonedb.errors import EndedTestError

if TYPE_CHECKING:
    from psycopg import Connection

    from clonedb.url import DatabaseURL

__all__ = ["CARRIERS", "Loan", "Loans", "has_token"]

CARRIERS = ("application_name", "passfile")
"""The parameters of a connection that may hold a token, the better one first.

The server shows application_name to everybody who looks at its sessions, so it also tells of
other processes. Of an asyncpg URL, SQLAlchemy hands the query on as keywords of asyncpg's,
which has none of that name. Its `passfile` is never opened where a password is given, and
neither is libpq's.
"""

# the salt of a run, the number of the loan, and what is left of the test's name
_TOKEN = re.compile(r"clonedb-[0-9a-f]{6}-[0-9]+-[\w.-]*", re.ASCII)
_LONGEST = 63  # bytes of application_name that PostgreSQL keeps


@dataclass(slots=True, eq=False)
class Loan:
    """One database in the hands of one test, or of the tests of a wider scope.

    `holder` is how messages call them (`test 'tests/test_it.py::test_one'`), `token` what the
    URLs hold that were handed out.
    """

    holder: str
    database: str
    token: str
    # a page of shared memory, and the byte of this loan in it
    _ends: mmap.mmap = field(repr=False)
    _place: int = field(repr=False)
    _connections: weakref.WeakSet[Connection[Any]] = field(
        default_factory=weakref.WeakSet, repr=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def ended(self) -> bool:
        """Whether the test has ended, which a process that it has forked learns, too: they share this memory."""
        return self._ends[self._place] != 0

    def take(self, connection: Connection[Any]) -> Connection[Any]:
        """A psycopg connection that is of no use after the loan; EndedTestError if that ended while it was opened."""
        with self._lock:
            if self.ended:
                connection.close()
                self.refuse()
            self._connections.add(connection)
        return connection

    def end(self) -> None:
        """The test has ended: from now on all that it was handed raises EndedTestError."""
        # a connection that is being opened meanwhile is refused by `take`
        with self._lock:
            self._ends[self._place] = 1
            for connection in self._connections:
                # all that psycopg sends and reads, by whatever cursor, goes through this method
                connection.wait = self.refuse  # type: ignore[method-assign]

    def require(self) -> None:
        """Raises EndedTestError when the test has ended."""
        if self.ended:
            self.refuse()

    def refuse(self, *_: object, **__: object) -> NoReturn:
        """Raises EndedTestError."""
        __tracebackhide__ = True
        raise EndedTestError(
            f"{self.holder} has ended: its database {self.database!r} belongs to other tests now, so that what it was"
            " handed (URLs, engines, sessions, connections) is refused; have the test wait for the threads, tasks and"
            " processes that it starts, or take a database of a wider scope: clonedb.fixture(scope=...)"
        )

    def mark(self, url: DatabaseURL) -> DatabaseURL:
        """The URL with the token in it, in a parameter that its driver takes and that is not set.

        The URL is left as it is where there is no such parameter.
        """
        unfit = {name for name, _ in url.query}
        if url.driver == "asyncpg":
            unfit.add("application_name")
        # pg8000 has no passfile; where no password is given, other drivers open it
        if url.driver == "pg8000" or url.password is None:
            unfit.add("passfile")

        for name in CARRIERS:
            if name not in unfit:
                return url.replace(query=(*url.query, (name, self.token)))
        return url


class Loans:
    """Every loan of one process, found by its token."""

    def __init__(self) -> None:
        self._by_token: dict[str, Loan] = {}
        self._salt = os.urandom(3).hex()  # another run in this process has tokens of its own

    def begin(self, holder: str, database: str, name: str = "") -> Loan:
        """A new loan; `name` is a test's, which makes the token tell people something, too."""
        number = len(self._by_token)
        # anonymous memory, shared with children by fork: a byte for each loan, page by page
        if number % mmap.PAGESIZE == 0:
            self._ends = mmap.mmap(-1, mmap.PAGESIZE)
        # PostgreSQL replaces what is not ASCII in application_name
        readable = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)
        token = f"clonedb-{self._salt}-{number}-{readable}"[:_LONGEST]
        self._by_token[token] = Loan(
            holder, database, token, self._ends, number % mmap.PAGESIZE
        )
        return self._by_token[token]

    def find(self, text: object) -> Loan | None:
        """The loan whose token is in a text, as a connection string or the name of an application is."""
        # the search costs more, and most texts have no token
        if not isinstance(text, str) or "clonedb-" not in text:
            return None
        match = _TOKEN.search(text)
        return self._by_token.get(match[0]) if match else None

    def require(self, *texts: object) -> None:
        """Raises EndedTestError when one of the parameters of a new connection has the token of an ended loan."""
        for text in texts:
            if (loan := self.find(text)) is not None:
                loan.require()


def has_token(positional: list[Any], keywords: Mapping[str, Any]) -> bool:
    """Whether the parameters of a connection are those of a URL that a test was handed."""
    texts = (*positional, *keywords.values())
    return any(isinstance(text, str) and _TOKEN.search(text) for text in texts)
