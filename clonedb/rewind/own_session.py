"""The sessions of clonedb's own that read a template's rows as text, and put them back in silence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clonedb.postgres.server import Server

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["open_session"]

# The same in the session that reads rows as text and in the one that writes them: text has to
# mean the same to both.
_SETTINGS = " ".join(
    f"-c {setting}"
    for setting in (
        "role=none",
        "session_replication_role=replica",
        "default_transaction_read_only=off",
        "statement_timeout=10s",
        "lock_timeout=1s",
        "idle_in_transaction_session_timeout=0",
        "idle_session_timeout=0",
        "row_security=off",
        "standard_conforming_strings=on",
        "client_encoding=UTF8",
        "DateStyle=ISO",
        "IntervalStyle=postgres",
        "extra_float_digits=3",
        "bytea_output=hex",
        "xmloption=content",
        "array_nulls=on",
        "check_function_bodies=off",
        "client_min_messages=error",
        "plan_cache_mode=force_generic_plan",
        "jit=off",
        "track_activities=on",
        "stats_fetch_consistency=none",
        "application_name=clonedb",
    )
)


def open_session(server: Server, database: str) -> Connection[Any]:
    """A session in which rows can be put back: no user's trigger, rule or foreign key acts in it.

    The time zone is left as the database has it: text of every type tells the offset, and what
    a generated column computes of it is what the tests' sessions would. Its commits survive a
    crash of the server where that is cheap. On a server that waits for the disk it would cost
    each test a flush, and a crash is noticed before the next test.
    """
    return server.connect(
        database,
        options=f"{_SETTINGS} -c synchronous_commit={'off' if server.info.fsync else 'local'}",
    )
