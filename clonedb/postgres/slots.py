"""The slots of `max_clones`: how many clones live on a server at once, for each prefix, whoever made them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from clonedb.errors import ConfigError, LockTimeoutError
from clonedb.postgres import locks

if TYPE_CHECKING:
    from psycopg import Connection

    from clonedb.postgres.host import Host

__all__ = ["Slots"]

# The locks of one prefix that sessions have whose maintenance database is another one, each
# with its number.
_ELSEWHERE = """
    (select objid::bigint as number from pg_locks
     where locktype = 'advisory' and objsubid = 2 and granted and classid::bigint = %(group)s
           and database <> (select oid from pg_database where datname = current_database())) elsewhere
"""

# A slot, and whether a session of another database has it, too: of two that take one at once,
# one at least sees the other. The second look is at the one slot that was taken. In the
# condition it would be at several, and PostgreSQL reads pg_locks once for all of them.
_TAKE = f"""
    select n, exists (select from {_ELSEWHERE} where number = n) from (
        select n from generate_series(0, %(limit)s::int - 1) n
        where case when n = any(%(not_these)s::int[]) or n = any(array(select number from {_ELSEWHERE})) then false
                   else pg_try_advisory_lock(%(group)s::int, n) end
        limit 1) taken
"""  # noqa: S608 - ours

# pg_locks shows a key of two halves as classid and objid, with 2 as its objsubid
_HOLDERS = """
    select pid from pg_locks
    where locktype = 'advisory' and objsubid = 2 and granted and classid::bigint = %(group)s
"""


class Slots:
    """The slots that a process has on one server.

    A slot is an advisory lock of the process's own session with the maintenance database, so
    that the server gives it back when the session of its owner ends; to take one costs a round
    trip. PostgreSQL scopes it to the maintenance database. The slots of processes that set
    another one count all the same: they are looked up in pg_locks.
    """

    what = "a clone"

    def __init__(self, server: Host) -> None:
        self._server = server
        self._limit = server.config.max_clones
        self.queue: int = locks.admission_key("slots", server.config.prefix)
        digest = hashlib.sha256(f"clonedb clones {server.config.prefix}".encode()).digest()
        # the first half of a key of two halves
        self._group = int.from_bytes(digest[:4], "big") >> 1
        self._mine: set[int] = set()

    def take(self, connection: Connection[Any]) -> int | None:
        """The first free slot; one that a session elsewhere took in the same moment is left to it."""
        left: set[int] = set()
        while True:
            not_these = list(self._mine | left)
            # an advisory lock may be taken again by its own session, so that ours are left out
            values = {"limit": self._limit, "not_these": not_these, "group": self._group}
            row = connection.execute(_TAKE, values).fetchone()
            if row is None:
                return None
            slot, taken_elsewhere = row
            if not taken_elsewhere:
                self._mine.add(slot)
                return int(slot)
            self._release(connection, slot)
            left.add(slot)

    def give(self, connection: Connection[Any], slot: int) -> None:
        """Give one back, if it is this process's still."""
        if slot in self._mine:
            self._mine.discard(slot)
            self._release(connection, slot)

    def take_again(self, connection: Connection[Any]) -> None:
        """On a new session: those that ended with the one before."""
        if self._mine:
            query = "select pg_try_advisory_lock(%s::int, n) from unnest(%s::int[]) n"
            connection.execute(query, [self._group, list(self._mine)])

    def forget(self) -> None:
        """In a forked child: they are the parent's."""
        self._mine.clear()

    def holders(self, connection: Connection[Any]) -> set[int]:
        """The server's processes for those that have one."""
        return {pid for (pid,) in connection.execute(_HOLDERS, {"group": self._group})}

    def shortage(self) -> str:
        """`100 are in use, which is max_clones (default)`."""
        source = self._server.config.source("max_clones")
        verb = "is" if self._limit == 1 else "are"
        return f"{self._limit} {verb} in use, which is max_clones ({source})"

    def late(self, seconds: float) -> LockTimeoutError:
        """The error of a process that has waited for one for so long."""
        return LockTimeoutError(
            f"waited {seconds:.0f} s for room for a clone on {self._server.about}: {self.shortage()};"
            " raise it, run fewer workers, or wait longer (lock_timeout)"
        )

    def stuck(self) -> ConfigError:
        """The error of a process that has one and needs another, as all who have one do."""
        return ConfigError(
            f"a test needs one more clone on {self._server.about}, but {self.shortage()}, and all who have one wait"
            " for another; raise max_clones above what the workers' tests hold at once"
        )

    def _release(self, connection: Connection[Any], slot: int) -> None:
        connection.execute("select pg_advisory_unlock(%s::int, %s::int)", [self._group, slot])
