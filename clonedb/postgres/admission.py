"""Admission of one more database to a server: a slot of `max_clones`, room in memory, and one queue for both."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from clonedb.originals import getpid, monotonic, sleep
from clonedb.postgres import locks
from clonedb.postgres.memory_room import MemoryRoom
from clonedb.postgres.slots import Slots

if TYPE_CHECKING:
    from psycopg import Connection

    from clonedb.postgres.host import Host

__all__ = ["Admission", "Waiter"]

_LOOKS = 0.5  # seconds between two looks for others that wait
_LINES = 1.0  # seconds between two lines about waiting

T = TypeVar("T")
Taken_co = TypeVar("Taken_co", covariant=True)
P = ParamSpec("P")


class Holder(Protocol):
    """A database that holds a slot until it tells that it is given up."""

    on_drop: Callable[[], None] | None


H = TypeVar("H", bound=Holder)


class Waiter(Protocol):
    """A process that may have to wait: what it gives up, what it does meanwhile, and who prints its lines."""

    def release_spares(self) -> None:
        """Drop every clone of this process that no test has."""

    def pause(self, seconds: float) -> object:
        """Wait for some seconds."""

    def others_work(self) -> bool:
        """Whether another thread of this process has a clone and goes on."""

    def say(self, message: str) -> None:
        """Print a line about waiting."""


class _Lone:
    """A process that has nothing to give up."""

    def __init__(self, server: Host) -> None:
        self._server = server

    def release_spares(self) -> None:
        """There are none."""

    def pause(self, seconds: float) -> None:
        sleep(seconds)

    def others_work(self) -> bool:
        return False

    def say(self, message: str) -> None:
        self._server.say(message)


class _Need(Protocol[Taken_co]):
    """What a database needs and a process may have to wait for.

    `what` is the database, as a line names it; `queue` is the key of the lock at the head of
    the queue; `late` makes the error of one that has waited
    for so many seconds, `stuck` that of one for which no process will make room.
    """

    what: str
    queue: int

    def take(self, connection: Connection[Any]) -> Taken_co | None:
        """Take it if it is there."""

    def holders(self, connection: Connection[Any]) -> set[int]:
        """The server's processes for those that could give some of it back."""

    def shortage(self) -> str:
        """Why it is not there."""

    def late(self, seconds: float) -> Exception: ...

    def stuck(self) -> Exception: ...


class Admission:
    """What this process has of a server's room for databases, and its waiting for more.

    Of the processes that need the same, the first in the queue looks for it; an advisory lock
    is the place at its head. The other processes look for that lock now and then, in whatever
    database it is held: while it is, they drop what they have made ahead or keep for later, and
    wait in line for their next one. A process that needs memory does not wait for those that
    need a slot, as it may have the slot that they wait for.

    Nobody is called by NOTIFY: an idle session reads nothing, some 280 notifications fill its
    socket, and from then on every CREATE and DROP DATABASE of the server waits for its process.
    """

    def __init__(self, server: Host) -> None:
        prefix = server.config.prefix
        self._server = server
        self._slots = Slots(server)
        self._memory = MemoryRoom(server)
        self._lone = _Lone(server)
        self._waiting = locks.admission_key("waiting", prefix)
        self._pid = getpid()
        # the pid of the session that has the slots; when it looked for others (monotonic), who waited then
        self._backend: int | None = None
        self._looked = float("-inf")
        self._others_wait = False
        self._says_so = False  # that this session waits
        self._own_waits: set[object] = set()  # one for each thread of this process that waits

    @property
    def is_awaited(self) -> bool:
        """Whether a thread of this process waits for room, or another process did when this one looked last."""
        return self._others_wait or bool(self._own_waits)

    def others_wait(self) -> bool:
        """Whether another process waits for room, as this one knows half a second later at most."""
        if (now := monotonic()) - self._looked > _LOOKS:
            self._looked = now
            queues = {self._slots.queue, self._memory.queue}
            self._others_wait = self._run(locks.is_held_by_another, queues)
        return self._others_wait

    def try_slot(self) -> int | None:
        """A slot, if one is free."""
        return self._run(self._slots.take)

    def slot(self, waiter: Waiter | None = None) -> int:
        """A slot, which may be waited for.

        Raises LockTimeoutError after lock_timeout, and ConfigError when all who have one wait
        for another.
        """
        return self._admit(self._slots, waiter or self._lone)

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
        with contextlib.suppress(Exception):  # a session that is gone has given it back
            self._run(self._slots.give, slot)

    @contextlib.contextmanager
    def room(
        self, size: int, what: str, waiter: Waiter | None = None, *, wait: bool = True
    ) -> Iterator[None]:
        """Room in memory for a database of `size` bytes, which is made in this context; on a disk nothing is to do.

        Raises ServerError, which names the share of the memory and `data = "disk"`; without
        `wait` at once.
        """
        need = self._memory.need(size, what)
        if need is None:
            yield
            return

        try:
            self._admit(need, (waiter or self._lone) if wait else None)
            yield
        finally:
            with contextlib.suppress(
                Exception
            ):  # a session that is gone has given its lock back
                self._server.run(need.leave)

    def _admit(self, need: _Need[T], waiter: Waiter | None) -> T:
        # or it would take the room that others stand in line for
        if waiter is None or not self.others_wait():
            got = self._run(need.take)
            if got is not None:
                return got
        if waiter is None:
            raise need.late(0.0)
        return self._wait(need, waiter)

    def _wait(self, need: _Need[T], waiter: Waiter) -> T:
        """Stand in the queue, then look until there is room: 5 ms at first, in the end each 20 (in the queue: 100)."""
        timeout = self._server.config.lock_timeout
        start = told = monotonic()
        first, pause, wait = False, 0.005, object()
        self._own_waits.add(wait)
        try:
            # this process's own spare clones may be all that is missing; no more are made from here on
            waiter.release_spares()
            while True:
                first = first or self._run(locks.try_lock, need.queue)
                if first and (got := self._run(need.take)) is not None:
                    return got
                now = monotonic()
                if now - start >= timeout:
                    raise need.late(now - start)

                if now - told >= _LINES:
                    told = now
                    for ended in self._server.run(self._end_silent, need):
                        waiter.say(f"{ended} sent no heartbeat: its session was ended")
                    if self._server.run(self._is_stuck, need, waiter):
                        # somebody may have given some back before it was asked who works
                        if (got := self._run(need.take)) is not None:
                            return got
                        raise need.stuck()
                    waiter.say(
                        f"waiting for room for {need.what}: {need.shortage()}"
                        f" ({now - start:.0f} s; lock_timeout = {timeout:g} s)"
                    )

                waiter.pause(pause)
                pause = min(pause * 1.3, 0.02 if first else 0.1)
        finally:
            self._own_waits.discard(wait)
            with contextlib.suppress(Exception):  # of a session that is gone nothing is left
                self._server.run(self._leave, need.queue if first else None)

    def _end_silent(self, connection: Connection[Any], need: _Need[Any]) -> list[locks.Holder]:
        """End the sessions that have what is needed, or stand first in the queue, and are silent."""
        pids = need.holders(connection) | locks.holders(connection, {need.queue})
        return locks.end_silent(connection, pids)

    def _is_stuck(self, connection: Connection[Any], need: _Need[Any], waiter: Waiter) -> bool:
        """Whether nobody who has what is needed goes on, and this session is the one of them that is told.

        That a session waits is said by a lock, which it shares from its first second of waiting
        on, while no other thread of its process works.
        """
        works = waiter.others_work()
        if works == self._says_so:
            change = locks.release if works else locks.try_lock
            change(connection, self._waiting, shared=True)
            self._says_so = not works
        if works:
            return False

        holders = need.holders(connection)
        ours = connection.info.backend_pid
        # all find the same one, by the lowest pid; its error frees what it holds for the others
        told = min(holders, default=ours)
        return told == ours and holders <= locks.holders(connection, {self._waiting})

    def _leave(self, connection: Connection[Any], queue: int | None) -> None:
        if self._says_so:
            self._says_so = False
            locks.release(connection, self._waiting, shared=True)
        if queue is not None:
            locks.release(connection, queue)

    def _run(
        self,
        function: Callable[Concatenate[Connection[Any], P], T],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> T:
        """Call a function with the session, which has this process's slots."""

        def run(connection: Connection[Any]) -> T:
            self._attend(connection)
            return function(connection, *arguments, **named)

        return self._server.run(run)

    def _attend(self, connection: Connection[Any]) -> None:
        """On a new session: take the slots that ended with the session before."""
        if self._pid != getpid():  # they are the parent's
            self._pid = getpid()
            self._own_waits.clear()
            self._slots.forget()
            self._memory.forget()

        if self._backend != (backend := connection.info.backend_pid):
            self._slots.take_again(connection)
            self._backend = backend
