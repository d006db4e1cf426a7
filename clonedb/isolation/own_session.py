"""The session of clonedb's own in a clone that goes from test to test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clonedb.clones.clone import Clone

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["open_session"]

# text has to mean the same when rows are read and when they are put back
_SETTINGS = "; ".join(
    f"set {setting}"
    for setting in (
        "role = none",
        "default_transaction_read_only = off",
        "statement_timeout = 0",
        "idle_in_transaction_session_timeout = 0",
        "lock_timeout = '10s'",
        "row_security = off",
        "synchronous_commit = off",
        "client_encoding = 'UTF8'",
        "client_min_messages = error",
        "standard_conforming_strings = on",
        "datestyle = 'ISO'",
        "intervalstyle = 'postgres'",
        "timezone = 'UTC'",
        "extra_float_digits = 3",
        "bytea_output = 'hex'",
        "xmloption = content",
        "array_nulls = on",
        "plan_cache_mode = force_generic_plan",
        "jit = off",
    )
)


def open_session(clone: Clone) -> Connection[Any]:
    """A session of clonedb's own in a clone, whose settings do not depend on the clone's."""
    connection = clone.server.connect(clone.name)
    connection.execute(_SETTINGS.encode())
    connection.prepare_threshold = (
        5  # without one psycopg prepares nothing, not even when it is told to
    )
    return connection
