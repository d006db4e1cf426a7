"""The sessions of clonedb's own that read a template's rows as text, and put them back in silence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clonedb.postgres.server import Server

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["open_session"]

# The same in the session that reads rows as text and in the one that writes them: text has to mean the same to both.
_SETTINGS = " ".join(
    f"-c {setting}"
    for setting in (
        "role=none",
        "session_replication_role=replica",
        "synchronous_commit=off",
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
        "TimeZone=UTC",
        "extra_float_digits=3",
        "bytea_output=hex",
        "xmloption=content",
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
    """A session in which rows can be put back: no user's trigger, rule or foreign key acts in it."""
    return server.connect(database, options=_SETTINGS)
