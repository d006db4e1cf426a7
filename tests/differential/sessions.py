"""The sessions of a program: its statements are run one after the other, whatever becomes of them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus

from clonedb.postgres.statements import Traces
from clonedb.sessions.reset import Renewal, SessionReset
from tests.differential.grammar import Program, Step

__all__ = ["APPLICATION", "Sessions", "share"]

APPLICATION = "program"
"""What the sessions call themselves, by which those are found that outlive an undoing."""

# A statement that meets another session's lock fails soon, and the program goes on.
_OPTIONS = "-c lock_timeout=20 -c statement_timeout=5000 -c client_min_messages=error -c deadlock_timeout=1s"
_COUNTS_NOTHING = "-c track_counts=off -c statement_timeout=20000 -c lock_timeout=1000 -c client_min_messages=error"
_BY_HAND = (
    "maintenance",
    "statistics",
)  # groups in which VACUUM is a test's; in others it stands for autovacuum's
_ENDS_TRANSACTION = ("commit", "rollback", "prepare transaction")
_NEEDS_TRANSACTION = (
    "savepoint",
    "lock table",
    "declare second",
    "set local",
    "prepare transaction",
    "select pg_export",
)

# What a session that was reset would still show of the program before.
_TRACES = """
    select 'setting ' || name || ' = ' || setting from pg_settings where source = 'session' and name !~ 'transaction'
    union all select 'role ' || current_user where current_user <> session_user
    union all select 'listens to ' || c from pg_listening_channels() c
    union all select 'cursor ' || name from pg_cursors where statement !~ 'pg_listening_channels'
    union all select 'advisory lock ' || objid from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'
    union all select 'temporary table ' || relname from pg_class where relnamespace = pg_my_temp_schema()
"""


# What a literal means depends on the time zone, and a prepared statement holds what it meant when it was planned.
_LITERAL = b"select extract(epoch from timestamptz '2024-01-01 00:00')::text"
_FUNCTION = b"select moment()"  # gives the same, of the part `plans`
# A function that another session makes for one statement, and drops after it: none of the statements says that it sets.
_CALL = "select wander()"
_MADE = """create function wander() returns text language sql
as $$ select set_config('timezone', 'Asia/Tokyo', false) $$"""


@dataclass(slots=True)
class Sessions:
    """Up to three sessions with one clone; `outcomes` counts the statements of each group by how they ended.

    Those that are kept are reset by `reset`, as the template's own would be.
    """

    dsn: str
    name: str
    reset: SessionReset
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    complaints: Counter[str] = field(default_factory=Counter)
    _open: dict[int, Connection[Any]] = field(default_factory=dict)
    _kept: set[int] = field(default_factory=set)
    _traces: dict[int, Traces] = field(default_factory=dict)

    def run(self, program: Program) -> Renewal:
        """Run a program, let its sessions end as it says, and begin to reset those that are to be kept."""
        self._traces = {number: Traces() for number in range(len(program.endings))}
        for step in program.steps:
            self._run(step)
        renewal = Renewal(self.reset)
        for number, ending in enumerate(program.endings):
            connection = self._open.get(number)
            if connection is None or connection.closed:
                continue
            if ending == "keep":
                connection.rollback()
                settings = self._traces[number].settings
                renewal.begin(
                    connection.pgconn, settings=settings, keep=_nothing, lose=connection.close
                )
                if not connection.closed:
                    continue
            if ending != "leave":
                with contextlib.suppress(psycopg.Error):
                    if ending == "commit":
                        connection.execute("commit")
                connection.close()
        return renewal

    def settle(self, kept: Collection[int]) -> list[str]:
        """After the undoing: which sessions are not as they should be. Those kept go on, with the next program."""
        wrong = []
        for number, connection in list(self._open.items()):
            if not connection.closed and connection.info.backend_pid in kept:
                try:
                    traces = [row[0] for row in connection.execute(_TRACES)]
                    traces += _stale_plans(connection)
                except psycopg.Error as error:
                    traces = [str(error)]
                wrong += [f"session {number}, which was kept: {trace}" for trace in traces]
                continue
            connection.close()
            del self._open[number]
        return wrong

    def close(self) -> None:
        """Close every session."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    def _run(self, step: Step) -> None:
        statement = step.statement.replace("<c>", self.name)
        try:
            if step.group not in _BY_HAND and statement.startswith(("vacuum", "analyze")):
                with psycopg.connect(
                    self.dsn, autocommit=True, options=_COUNTS_NOTHING
                ) as connection:
                    connection.execute(statement.encode())
                self.outcomes[step.group, "succeeded"] += 1
                return
            connection = self._session(step.session)
            status = connection.info.transaction_status
            if status == TransactionStatus.IDLE and statement.startswith(_NEEDS_TRANSACTION):
                connection.execute("begin")
            if status == TransactionStatus.INERROR and not statement.startswith(
                (*_ENDS_TRANSACTION, "rollback to")
            ):
                connection.execute("rollback")  # as a test's framework would
            self._traces[step.session].hear(statement)
            with self._wandering() if statement.startswith(_CALL) else contextlib.nullcontext():
                _execute(connection, statement, step.data, prepare=step.group == "plans")
        except psycopg.Error as error:
            self.outcomes[step.group, "failed"] += 1
            self.complaints[f"{step.statement[:70]} -> {str(error).partition(chr(10))[0]}"] += 1
        else:
            self.outcomes[step.group, "succeeded"] += 1

    @contextlib.contextmanager
    def _wandering(self) -> Iterator[None]:
        """The function is there meanwhile."""
        with psycopg.connect(self.dsn, autocommit=True, options=_OPTIONS) as connection:
            connection.execute(_MADE.encode())
            try:
                yield
            finally:
                connection.execute("drop function wander()")

    def _session(self, number: int) -> Connection[Any]:
        connection = self._open.get(number)
        if connection is None or connection.closed:
            connection = psycopg.connect(
                self.dsn, autocommit=True, options=_OPTIONS, application_name=APPLICATION
            )
            self._open[number] = connection
        return connection


def _nothing() -> None:
    """It is kept."""


def _stale_plans(connection: Connection[Any]) -> list[str]:
    """Which plans that a session holds give something else than the same text that is planned now."""
    now = connection.execute(_LITERAL, prepare=False).fetchone()
    held = [_LITERAL]
    if connection.execute("select to_regproc('moment')").fetchone() != (None,):
        held.append(_FUNCTION)
    answers = [(text, connection.execute(text, prepare=True).fetchone()) for text in held]
    return [
        f"plan of {text.decode()} gives {found}, not {now}"
        for text, found in answers
        if found != now
    ]


def _execute(
    connection: Connection[Any], statement: str, data: str | None, *, prepare: bool
) -> None:
    with connection.cursor() as cursor:
        if not statement.startswith("copy "):
            cursor.execute(
                statement.encode(), prepare=prepare and statement.startswith("select ")
            )
            return
        with cursor.copy(statement.encode()) as copy:
            if data is None:
                for _ in copy:
                    pass
            else:
                copy.write(data)


def share(outcomes: Mapping[tuple[str, str], int]) -> float:
    """Which part of the statements succeeded."""
    succeeded = sum(count for (_, how), count in outcomes.items() if how == "succeeded")
    return succeeded / max(1, sum(outcomes.values()))
