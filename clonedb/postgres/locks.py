"""Advisory locks on the maintenance database: the truth across processes, runs and hosts.

PostgreSQL scopes them to the database of the session that takes them, which is the maintenance
database. All processes that share a server may have set another one, so that a lock counts as
held in whichever database it is. They are of the session: the server gives them back when the
session of their owner ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple

from clonedb.originals import monotonic, sleep

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = [
    "Holder",
    "admission_key",
    "build_key",
    "collector_key",
    "end_silent",
    "heartbeat",
    "held_by",
    "held_keys",
    "holder",
    "holders",
    "is_held_by_another",
    "keep_key",
    "owner_key",
    "release",
    "role_key",
    "service_key",
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


def service_key(prefix: str) -> int:
    """Held by the one `clonedb serve` that works on a server under a prefix."""
    return _key("service", prefix)


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


def is_held_by_another(connection: Connection[Any], keys: Collection[int]) -> bool:
    """Whether another session holds any of these locks, in whatever database."""
    row = connection.execute(
        """
        select exists (
            select from pg_locks
            where locktype = 'advisory' and objsubid = 1 and granted
                  and (classid::bigint << 32) | objid::bigint = any(%s)
                  and pid <> pg_backend_pid())
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


def held_by(connection: Connection[Any], keys: Collection[int]) -> set[tuple[int, int]]:
    """Of these locks those that are held: the server's process, and the key."""
    rows = connection.execute(
        """
        select pid, (classid::bigint << 32) | objid::bigint from pg_locks
        where locktype = 'advisory' and objsubid = 1 and granted and (classid::bigint << 32) | objid::bigint = any(%s)
        """,
        [list(keys)],
    )
    return {(pid, key) for pid, key in rows}


def holders(connection: Connection[Any], keys: Collection[int]) -> set[int]:
    """The server's processes whose sessions hold any of these locks."""
    return {pid for pid, _ in held_by(connection, keys)}


class Holder(NamedTuple):
    """A session that holds a lock; `address` is None for one of this machine's Unix sockets, `at` how far it is."""

    application: str
    pid: int
    address: str | None
    seconds: int
    at: str

    def __str__(self) -> str:
        """`clonedb build on build-host, pid 4711 (server process 815, from 10.0.0.7, since 14 s, at revision 3f2a)`."""
        about = [f"server process {self.pid}"]
        if self.address:
            about.append(f"from {self.address}")
        about.append(f"connected since {self.seconds} s")
        if self.at:
            about.append(f"at {self.at}")
        return f"{self.application} ({', '.join(about)})"


_HOLDERS = """
    select a.application_name, a.pid, host(a.client_addr), extract(epoch from clock_timestamp() - a.backend_start)::int,
           coalesce(substring(a.query from 'clonedb heartbeat, lease_timeout=[0-9.]+, at: ([^*]*) [*]/'), '')
    from pg_locks l join pg_stat_activity a using (pid)
    where l.locktype = 'advisory' and l.objsubid = 1 and l.granted
          and (l.classid::bigint << 32) | l.objid::bigint = %s
"""
_SILENT = """
    select a.application_name, a.pid, host(a.client_addr),
           extract(epoch from clock_timestamp() - a.backend_start)::int, ''
    from pg_stat_activity a
    where a.pid = any(%s) and a.state = 'idle' and extract(epoch from clock_timestamp() - a.state_change)
        > coalesce(substring(a.query from 'clonedb heartbeat, lease_timeout=([0-9.]+)'),
                   substring(a.application_name from '^clonedb on .*, lease ([0-9.]+)$'))::float
"""


def holder(connection: Connection[Any], key: int) -> Holder | None:
    """Who holds a lock, since when."""
    row = connection.execute(_HOLDERS, [key]).fetchone()
    return Holder(*row) if row else None


def heartbeat(lease_timeout: float, at: str) -> str:
    """The statement that a session sends again and again while it holds a lock; pg_stat_activity shows when, and it.

    The session's own lease_timeout is in it, so that others need not have the same.
    """
    where = re.sub(r"[^\w .()'-]", " ", at)
    return f"select /* clonedb heartbeat, lease_timeout={lease_timeout:.3f}, at: {where} */"


def end_silent(connection: Connection[Any], pids: Collection[int]) -> list[Holder]:
    """End those of some sessions that sent no heartbeat for longer than they said they would: which ones.

    Only sessions that this role may look at and end are known to be silent.
    """
    from psycopg.errors import InsufficientPrivilege

    found = [Holder(*row) for row in connection.execute(_SILENT.encode(), [list(pids)])]
    ended = []
    for silent in found:
        with contextlib.suppress(InsufficientPrivilege):
            connection.execute("select pg_terminate_backend(%s)", [silent.pid])
            ended.append(silent)
    return ended
