"""The session of clonedb's own in a clone that goes from test to test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clonedb.clones.clone import Clone
from clonedb.rewind.own_session import AS_TEXT

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["open_session"]

# SET, as these sessions may be on servers behind a proxy, which takes no other parameters when
# one connects
_SETTINGS = "; ".join(
    f"set {setting}"
    # the clone may have inherited other values from its role or its database
    for setting in (
        *AS_TEXT,
        "statement_timeout=0",
        "lock_timeout='10s'",
        "synchronous_commit=off",
        "timezone=UTC",
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
