"""The reset of sessions that stay open from one test to the next, and the question whether they are as new."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from clonedb.postgres.message import answer, send

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

__all__ = ["Renewal", "SessionReset"]

# DISCARD ALL would do more: it drops prepared statements behind the driver's back, after which
# psycopg asks for `_pg3_0` in vain. A transaction of its own, so that all this is committed
# when the question after it fails.
_RESET = (
    "begin; close all; reset session authorization; reset role; reset all; unlisten *;"
    " discard temporary; discard sequences; commit"
)
_DISCARD_PLANS = "discard plans"

# The answer no is an error, because that is all that asyncpg tells of several statements sent
# at once; a division fails at the least price. Drivers call what they prepare by names that
# begin so: _pg3_0, __asyncpg_stmt_1__. A session that had a temporary table ends, as plans for
# the table of one test do not fit one of the same name of the next. Planning is most of what
# this costs, 20 us less for two statements without a subquery than for one with it.
_QUESTION = """select pg_catalog.pg_advisory_unlock_all(), pg_catalog.setseed({seed}),
    1 / (pg_catalog.pg_my_temp_schema() = 0{leftovers})::int4 as session_is_as_new;
select 1 / (p.name is null)::int4 as session_is_as_new from pg_catalog.pg_prepared_statement() p
    where p.from_sql or not pg_catalog.starts_with(p.name, '_')"""


class SessionReset:
    """Makes an idle session as new, in one message to the server, which fails if the session is not as new after it.

    What stays are the statements that drivers have prepared and go on using, and libraries that
    functions have loaded. `leftovers` are conditions in SQL, each true for a session that is
    not as new: `TemplateReset` finds those that a template needs.

    Plans of functions and of prepared statements hold what literals meant under the settings of
    the test. Making them again costs the next test 0.1 ms for each statement, so they are
    discarded only if a setting may have been changed, and always if `plans` says that a
    template's functions may change one, or are declared immutable and are not.
    """

    def __init__(self, leftovers: tuple[str, ...] = (), *, plans: bool = False) -> None:
        self._plans = plans
        self._leftovers = "".join(f" and not ({one})" for one in leftovers)

    def message(self, *more: str, settings: bool = True) -> str:
        """What to send, as one simple query: the reset, `more` statements, and the question.

        `settings` says whether one may have been changed in the session.
        """
        if settings or self._plans:
            more = (_DISCARD_PLANS, *more)
        # random()'s seed, as unknown as in a new session, and without touching Python's own
        # random numbers
        seed = int.from_bytes(os.urandom(4), "big") / 2**31 - 1
        return "; ".join(
            (_RESET, *more, _QUESTION.format(seed=seed, leftovers=self._leftovers))
        )

    def __call__(self, cursor: Any, *, settings: bool = True) -> None:
        """Reset a session through a DBAPI cursor; a transaction that it is in is committed."""
        cursor.execute(self.message(settings=settings))

    def begin(self, connection: PGconn, *more: str, settings: bool = True) -> None:
        """Send the reset, and `more` statements with it, on an idle connection."""
        send(connection, [self.message(*more, settings=settings)])

    def end(self, connection: PGconn) -> bool:
        """Wait for it: whether the connection is idle again, and its session as new."""
        import psycopg

        try:
            answer(connection)
        except psycopg.Error:
            return False
        while (
            connection.notifies() is not None
        ):  # which came before, for the test that listened then
            pass
        return connection.transaction_status == psycopg.pq.TransactionStatus.IDLE


class Renewal:
    """Connections that are being reset, all at once, and not to be used until `end`; `pids` are their backends'."""

    def __init__(self, reset: SessionReset) -> None:
        self.pids: list[int] = []
        self.reset = reset
        # what to call of each if its session is as new, and if it is not
        self._begun: list[tuple[PGconn, Callable[[], None], Callable[[], None]]] = []

    def begin(
        self,
        connection: PGconn,
        *more: str,
        settings: bool,
        keep: Callable[[], None],
        lose: Callable[[], None],
    ) -> None:
        """Begin with one, of which `keep` is called at the end if it works then, and `lose` if not.

        `settings` says whether one may have been changed in the session.
        """
        import psycopg

        try:
            if connection.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                raise psycopg.InterfaceError("it is in the middle of something")
            self.reset.begin(connection, *more, settings=settings)
            self.pids.append(connection.backend_pid)
        except psycopg.Error:
            lose()
        else:
            self._begun.append((connection, keep, lose))

    @property
    def busy(self) -> list[int]:
        """Those of `pids` that may not be idle before `end`: nothing runs there but the reset."""
        return [connection.backend_pid for connection, _, _ in self._begun]

    def end(self) -> bool:
        """Wait until all are reset, and give them back: whether each session is as new. May be called again."""
        all_work = True
        while self._begun:
            connection, keep, lose = self._begun.pop()
            works = False
            try:
                works = self.reset.end(connection)
            finally:
                # after an interrupt, too: a connection whose answer was not read is of no use
                (keep if works else lose)()
            all_work = all_work and works
        return all_work
