"""How many clones live on a server at once: `max_clones` slots for each prefix, shared by all processes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from clonedb.errors import ConfigError, LockTimeoutError
from clonedb.originals import getpid, monotonic, sleep
from clonedb.postgres.server import Server

if TYPE_CHECKING:
    from psycopg import Connection, Notify

__all__ = ["Cap"]

_HEEDED = 2.0  # seconds for which a call for room is heeded
_CALLS = 0.5  # seconds between two calls
_QUEUE, _WAITING = 2**31 - 1, 2**31 - 2  # beside the slots, which are numbered from 0

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

_CALLED = f"select exists (select from {_ELSEWHERE} where number = %(queue)s)"  # noqa: S608 - ours

# Whether the sessions that have slots all wait for another one, and this session is the one of
# them that is told.
_STUCK = """
    with ours as (
        select pid, objid::bigint as number from pg_locks
        where locktype = 'advisory' and objsubid = 2 and granted and classid::bigint = %(group)s),
    holders as (select pid from ours where number < %(limit)s)
    select (select min(pid) from holders) = pg_backend_pid()
           and not exists (select from holders where pid not in (select pid from ours where number = %(waiting)s))
"""


class Holder(Protocol):
    """A database that holds a slot until it tells that it is given up."""

    on_drop: Callable[[], None] | None


H = TypeVar("H", bound=Holder)


class Cap:
    """The slots of this process on one server, and its waiting for one when all are taken.

    A slot is an advisory lock of the process's own session with the maintenance database, so
    that the server gives it back when the session of its owner ends; to take one costs a round
    trip. A process that finds no free slot sends NOTIFY. The other processes receive it with
    the reply to their next query, at no cost: they drop what they have made ahead or keep for
    later, and wait in line for their next one. Of the waiting processes one looks for a slot at
    a time.

    PostgreSQL scopes both, locks and NOTIFY, to the maintenance database. Processes that set
    another one count all the same: their locks are looked up in pg_locks, and the one of those
    who wait stands for their NOTIFY.

    `pause` waits for some seconds; `others_work` says whether another thread of this process
    has a clone and goes on.
    """

    def __init__(
        self,
        server: Server,
        say: Callable[[str], None] = lambda _message: None,
        *,
        pause: Callable[[float], object] = sleep,
        others_work: Callable[[], bool] = lambda: False,
    ) -> None:
        self._server = server
        self._say = say
        self._pause = pause
        self._others_work = others_work
        self._limit = server.config.max_clones
        digest = hashlib.sha256(f"clonedb clones {server.config.prefix}".encode()).digest()
        self._group = (
            int.from_bytes(digest[:4], "big") >> 1
        )  # the first half of a key of two halves
        self._channel = f"clonedb_room_{server.config.prefix}"
        self._pid = getpid()
        self._backend: int | None = None
        self._mine: set[int] = set()
        self._heard = float("-inf")
        self._says_so = False  # that this session waits

    @property
    def called(self) -> bool:
        """Whether another process waits for room, as far as this one has heard."""
        return monotonic() - self._heard < _HEEDED

    def listen(self) -> bool:
        """`called`, after having listened: for a process that asks the server nothing else at the moment."""
        self._server.run(self._ask)
        return self.called

    def try_take(self) -> int | None:
        """A slot, if one is free."""
        return self._server.run(self._try)

    def take(self, make_room: Callable[[], None]) -> int:
        """A slot, which may be waited for; `make_room` gives up what this process itself could do without.

        Raises LockTimeoutError after lock_timeout, and ConfigError when all who have one wait
        for another.
        """
        if not self.called and (slot := self.try_take()) is not None:
            return slot
        make_room()
        return self._wait()

    def filled(self, slot: int, make: Callable[[], H]) -> H:
        """What `make` makes, which holds the slot until it is dropped; if that fails, the slot is given back."""
        try:
            made = make()
        except BaseException:
            self.give(slot)
            raise
        made.on_drop = lambda: self.give(slot)
        return made

    def give(self, slot: int) -> None:
        """Give a slot back; nothing happens if it was lost with the session."""

        def release(connection: Connection[Any]) -> None:
            if slot in self._mine:
                self._mine.discard(slot)
                if connection.info.backend_pid == self._backend:
                    self._release(connection, slot)

        with contextlib.suppress(Exception):  # a session that is gone has given it back
            self._server.run(release)

    def _attend(self, connection: Connection[Any]) -> Connection[Any]:
        """On a new session: hear who calls, and take the slots that ended with the session before."""
        if self._pid != getpid():  # they are the parent's
            self._pid = getpid()
            self._mine.clear()

        if self._backend != (backend := connection.info.backend_pid):
            from psycopg import sql

            connection.add_notify_handler(self._hear)
            connection.execute(sql.SQL("listen {}").format(sql.Identifier(self._channel)))
            if self._mine:
                query = "select pg_try_advisory_lock(%s::int, n) from unnest(%s::int[]) n"
                connection.execute(query, [self._group, list(self._mine)])

            self._backend = backend

        return connection

    def _ask(self, connection: Connection[Any]) -> None:
        """The next answer of the server brings what was notified here; who waits elsewhere is looked up."""
        values = {"group": self._group, "queue": _QUEUE}
        row = self._attend(connection).execute(_CALLED, values).fetchone()
        if row and row[0]:
            self._heard = monotonic()

    def _hear(self, notify: Notify) -> None:
        if notify.channel == self._channel and notify.pid != self._backend:
            self._heard = monotonic()

    def _try(self, connection: Connection[Any]) -> int | None:
        """The first free slot; one that a session elsewhere took in the same moment is left to it."""
        self._attend(connection)
        left: set[int] = set()
        while True:
            not_these = list(self._mine | left)
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

    def _wait(self) -> int:
        """Stand in line, then look for a slot until there is one: 5 ms at first, in the end each 20 (in line: 100)."""
        config, start = self._server.config, monotonic()
        first, said, pause, call = False, 0, 0.005, start
        try:
            while True:
                first = first or self._server.run(self._lock, _QUEUE)
                if first and (slot := self.try_take()) is not None:
                    return slot
                now = monotonic()
                if first and now >= call:
                    call = now + _CALLS
                    self._server.rows("select pg_notify(%s, '')", [self._channel])

                if now - start >= config.lock_timeout:
                    raise LockTimeoutError(
                        f"waited {now - start:.0f} s for room for a clone on {self._server.about}: {self._full()};"
                        " raise it, run fewer workers, or wait longer (lock_timeout)"
                    )

                if now - start >= said + 1.0:
                    said += 1
                    self._require_that_somebody_works()
                    self._say(
                        f"waiting for room for a clone: {self._full()}"
                        f" ({now - start:.0f} s; lock_timeout = {config.lock_timeout:g} s)"
                    )

                self._pause(pause)
                pause = min(pause * 1.3, 0.02 if first else 0.1)
        finally:
            with contextlib.suppress(
                Exception
            ):  # of a session that is gone nothing is left to be released
                self._server.run(self._leave, first=first)

    def _full(self) -> str:
        source = self._server.config.source("max_clones")
        return f"{self._limit} {'is' if self._limit == 1 else 'are'} in use, which is max_clones ({source})"

    def _require_that_somebody_works(self) -> None:
        """Raises ConfigError when no holder of a clone can go on without one more.

        That a session waits is said by a lock, which it shares from its first second of waiting
        on, while no other thread of its process works.
        """

        def look(connection: Connection[Any]) -> bool:
            works = self._others_work()
            if works == self._says_so:
                change = self._release if works else self._lock
                change(connection, _WAITING, shared=True)
                self._says_so = not works

            values = {"group": self._group, "limit": self._limit, "waiting": _WAITING}
            row = None if works else connection.execute(_STUCK, values).fetchone()
            return bool(row and row[0])

        if self._server.run(look):
            raise ConfigError(
                f"a test needs one more clone on {self._server.about}, but {self._full()}, and all who have one wait"
                " for another; raise max_clones above what the workers' tests hold at once"
            )

    def _leave(self, connection: Connection[Any], *, first: bool) -> None:
        if self._says_so:
            self._says_so = False
            self._release(connection, _WAITING, shared=True)
        if first:
            self._release(connection, _QUEUE)

    def _lock(self, connection: Connection[Any], number: int, *, shared: bool = False) -> bool:
        function = "pg_try_advisory_lock_shared" if shared else "pg_try_advisory_lock"
        row = connection.execute(
            f"select {function}(%s::int, %s::int)", [self._group, number]
        ).fetchone()
        return bool(row and row[0])

    def _release(
        self, connection: Connection[Any], number: int, *, shared: bool = False
    ) -> None:
        function = "pg_advisory_unlock_shared" if shared else "pg_advisory_unlock"
        connection.execute(f"select {function}(%s::int, %s::int)", [self._group, number])
