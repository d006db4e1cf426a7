"""Advisory locks on the maintenance database: the truth across processes, runs and hosts.

PostgreSQL scopes them to the database of the session that takes them, which is the maintenance
database. All processes that share a server may have set another one, so that a lock counts as
held in whichever database it is. They are of the session: the server gives them back when the
session of their owner ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from clonedb.originals import monotonic, sleep

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = [
    "admission_key",
    "build_key",
    "collector_key",
    "held_keys",
    "holder",
    "holders",
    "is_held_elsewhere",
    "keep_key",
    "owner_key",
    "release",
    "role_key",
    "try_lock",
    "use_key",
    "wait_for_lock",
]


def build_key(template: str) -> int:
    """Held while a template is built."""
    return _key("build", template)


def owner_key(owner: str) -> int:
    """The lock a process holds for as long as it owns databases: its lease."""
    return _key("owner", owner)


def collector_key(prefix: str) -> int:
    """Held while leftovers are collected, so that the workers of a run do not do it all at once."""
    return _key("collect", prefix)


def keep_key(project: str) -> int:
    """Held while it is decided whether there is room for one more kept clone of a project."""
    return _key("keep", project)


def role_key(role: str) -> int:
    """Held while the tests' role is given its right to log in."""
    return _key("role", role)


def admission_key(purpose: str, prefix: str = "") -> int:
    """The locks about room for one more database: the heads of the queues; `waiting`, which is shared; a `turn`."""
    return _key(f"admission {purpose}", prefix)


def use_key(template: str) -> int:
    """The lock that all who clone a template share, so that it is not collected meanwhile."""
    return _key("use", template)


def _key(purpose: str, name: str) -> int:
    digest = hashlib.sha256(f"clonedb {purpose} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


# CASE looks at the other databases after the lock was taken: of two sessions that do so at
# once, one at least sees the other.
_TRY = """
    select case
    when case when %(shared)s then pg_try_advisory_lock_shared(%(key)s) else pg_try_advisory_lock(%(key)s) end
    then not exists (
        select from pg_locks
        where locktype = 'advisory' and objsubid = 1 and granted and (classid::bigint << 32) | objid::bigint = %(key)s
              and database <> (select oid from pg_database where datname = current_database())
              and not (%(shared)s and mode = 'ShareLock')) end
"""


def try_lock(connection: Connection[Any], key: int, *, shared: bool = False) -> bool:
    """Take a lock if it is free in every database, or if it is shared and all others share it."""
    row = connection.execute(_TRY, {"key": key, "shared": shared}).fetchone()
    if row and row[0] is False:  # taken here, but held in another database
        release(connection, key, shared=shared)
    return bool(row and row[0])


def is_held_elsewhere(connection: Connection[Any], keys: Collection[int]) -> bool:
    """Whether a session of another database holds any of these locks: what it notifies does not come here."""
    row = connection.execute(
        """
        select exists (
            select from pg_locks
            where locktype = 'advisory' and objsubid = 1 and granted
                  and (classid::bigint << 32) | objid::bigint = any(%s)
                  and database <> (select oid from pg_database where datname = current_database()))
        """,
        [list(keys)],
    ).fetchone()
    return bool(row and row[0])


def release(connection: Connection[Any], key: int, *, shared: bool = False) -> None:
    """Give a lock back, which was taken as it is said here: shared or not."""
    query = (
        "select pg_advisory_unlock_shared(%s)" if shared else "select pg_advisory_unlock(%s)"
    )
    connection.execute(query, [key])


def wait_for_lock(
    connection: Connection[Any],
    key: int,
    *,
    timeout: float,
    waiting: Callable[[float], None] | None = None,
) -> bool:
    """Take a lock within `timeout` seconds; `waiting` is told every 50 ms for how many seconds it has been waited."""
    start = monotonic()
    while not try_lock(connection, key):
        waited = monotonic() - start
        if waited >= timeout:
            return False
        if waiting is not None:
            waiting(waited)
        sleep(0.05)
    return True


def held_keys(connection: Connection[Any]) -> set[int]:
    """The keys of all advisory locks that sessions of any database hold at the moment."""
    rows = connection.execute(
        """
        select (classid::bigint << 32) | objid::bigint from pg_locks
        where locktype = 'advisory' and objsubid = 1 and granted
        """
    )
    return {row[0] for row in rows}


def holders(connection: Connection[Any], keys: Collection[int]) -> set[int]:
    """The server's processes whose sessions hold any of these locks."""
    rows = connection.execute(
        """
        select pid from pg_locks
        where locktype = 'advisory' and objsubid = 1 and granted and (classid::bigint << 32) | objid::bigint = any(%s)
        """,
        [list(keys)],
    )
    return {row[0] for row in rows}


def holder(connection: Connection[Any], key: int) -> str | None:
    """Who holds a lock, since when: `clonedb on build-host, pid 4711, since 14 s`."""
    row = connection.execute(
        """
        select a.application_name, extract(epoch from now() - a.backend_start)::int
        from pg_locks l join pg_stat_activity a using (pid)
        where l.locktype = 'advisory' and l.objsubid = 1 and l.granted
              and (l.classid::bigint << 32) | l.objid::bigint = %s
        """,
        [key],
    ).fetchone()
    return f"{row[0]}, connected since {row[1]} s" if row else None
