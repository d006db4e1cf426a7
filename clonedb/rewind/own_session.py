"""The sessions of clonedb's own that read a template's rows as text, and put them back in silence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clonedb.postgres.server import Server

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["AS_TEXT", "open_session"]

# The same in a session that reads rows as text and in the one that writes them, in whatever
# database: text has to mean the same to both.
AS_TEXT = (
    # ALTER ROLE and ALTER DATABASE ... SET may have set each of these for new sessions
    "role=none",
    "default_transaction_read_only=off",
    "idle_in_transaction_session_timeout=0",
    "row_security=off",
    # a backslash in a literal is a backslash
    "standard_conforming_strings=on",
    "client_encoding=UTF8",
    "DateStyle=ISO",
    "IntervalStyle=postgres",
    # with 1 and more, text has all digits of a float
    "extra_float_digits=3",
    "bytea_output=hex",
    "xmloption=content",
    "array_nulls=on",
    "client_min_messages=error",
    "plan_cache_mode=force_generic_plan",
    "jit=off",
)
"""Settings of sessions of clonedb's own in a clone, each `name=value`."""

_SETTINGS = " ".join(
    f"-c {setting}"
    for setting in (
        *AS_TEXT,
        "session_replication_role=replica",
        # a rewind that waits for something is given up, and a new clone is made
        "statement_timeout=10s",
        "lock_timeout=1s",
        "idle_session_timeout=0",
        "check_function_bodies=off",
        # Witness keeps a session only while pg_stat_activity says that it is idle
        "track_activities=on",
        # the counts of sessions are read more than once in a transaction, and have to be the
        # present ones
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
