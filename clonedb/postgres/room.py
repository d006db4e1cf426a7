"""Room in memory for one more database: looked for before it is made, waited for while others will give theirs back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from clonedb.embedded.memory import SHARE, Memory, memory_at
from clonedb.errors import ServerError
from clonedb.names import parse
from clonedb.originals import monotonic, sleep
from clonedb.postgres import locks, sql
from clonedb.postgres.background import MaintenanceSession
from clonedb.quantities import size as shown

if TYPE_CHECKING:
    from psycopg import Connection

    from clonedb.postgres.server import Server

__all__ = ["room_for"]

_AT_ONCE = 64  # databases that others may be making at the same moment; with less room they are made one by one
_PATIENCE = 1.0  # seconds in which this process's own used clones are dropped behind its tests
_LONGEST = 60.0  # seconds to wait for those of others
_CALLS = 0.5  # seconds between two calls for room
_PAUSE = 0.02  # seconds between two looks
_TURN, _WAITING = locks.room_key("turn"), locks.room_key("waiting")


@contextlib.contextmanager
def room_for(
    server: Server, session: MaintenanceSession, size: int, what: str
) -> Iterator[None]:
    """Room for a database of `size` bytes, which is made in this context; nothing to do unless the data are in memory.

    The share of the memory that they may take is looked at before every database (0.2 ms), by
    its size in the template's metadata. Where it comes to an end databases are made one by one,
    so that two who look at the same moment never take the same room. A process that finds none
    asks the others for it by NOTIFY, as for a slot, and waits as long as one of those that have
    a clone goes on; a pool's thread, which has a session of its own, does not wait.

    Raises ServerError, which names the share and `data = "disk"`.
    """
    if _has_ample_room(server, size):
        yield
        return
    seeker = _Seeker(server, session, size, wait=session is server)
    try:
        seeker.seek(what)
        yield
    finally:
        with contextlib.suppress(Exception):  # a session that is gone has given its locks back
            session.run(seeker.leave)


def _has_ample_room(server: Server, size: int) -> bool:
    """Whether there is so much room that a database of `size` bytes can be made without taking turns."""
    memory = _memory(server)
    return memory is None or memory.left >= size * _AT_ONCE


class _Seeker:
    """One who needs room where there is little: in line, then looking, each 20 ms."""

    def __init__(
        self, server: Server, session: MaintenanceSession, size: int, *, wait: bool
    ) -> None:
        self._server = server
        self._session = session
        self._size = size
        self._wait = wait
        self._has_turn = False
        self._is_waiting = False

    def seek(self, what: str) -> None:
        """Until it is this session's turn and there is room. Raises ServerError."""
        start = called = said = monotonic()
        longest = min(_LONGEST, self._server.config.lock_timeout) if self._wait else 0.0
        while True:
            self._has_turn = self._has_turn or self._session.run(_take_turn)
            memory = _memory(self._server)
            if memory is None or (self._has_turn and memory.left >= self._size):
                return
            now = monotonic()
            if now - start >= longest or (now - start >= _PATIENCE and self._is_hopeless()):
                raise ServerError(_full(self._server, memory, self._size, what))
            if now - said >= _PATIENCE:
                said = now
                self._server.say(
                    f"waiting for room in memory for {what}: files in memory take {shown(memory.used)} of the"
                    f" {shown(memory.limit)} they may ({now - start:.0f} s, {longest:.0f} s at most)"
                )

            if now >= called:
                called = now + _CALLS
                self._session.run(self._call)

            sleep(_PAUSE)

    def _call(self, connection: Connection[Any]) -> None:
        """Be heard by those who have clones ahead or keep them for later (see cap.Cap), and be known to wait."""
        self._is_waiting = self._is_waiting or locks.try_lock(connection, _WAITING, shared=True)
        connection.execute(
            "select pg_notify(%s, '')", [f"clonedb_room_{self._server.config.prefix}"]
        )

    def _is_hopeless(self) -> bool:
        """Whether no process goes on that could give room back; of those that wait for each other the first is told."""
        return self._has_turn and not self._session.run(self._somebody_works)

    def _somebody_works(self, connection: Connection[Any]) -> bool:
        """Whether a session that owns clones does not wait for room itself."""
        prefix = self._server.config.prefix
        names = (parse(prefix, found.name) for found in sql.databases(connection, prefix))
        owners = {locks.owner_key(name.owner) for name in names if name and name.owner}
        return bool(locks.holders(connection, owners) - locks.holders(connection, {_WAITING}))

    def leave(self, connection: Connection[Any]) -> None:
        """Give the locks back, the turn last: whose turn it is next does not take this session for one that waits."""
        if self._is_waiting:
            locks.release(connection, _WAITING, shared=True)
        if self._has_turn:
            locks.release(connection, _TURN)


def _take_turn(connection: Connection[Any]) -> bool:
    return locks.try_lock(connection, _TURN)


def _memory(server: Server) -> Memory | None:
    return None if server.lease is None else memory_at(server.lease.data_dir.parent)


def _full(server: Server, memory: Memory, size: int, what: str) -> str:
    assert server.lease is not None  # noqa: S101 - only then are there data of ours in memory
    return (
        f"no room in memory for {what} ({shown(size)}): files in memory take {shown(memory.used)} of the"
        f" {shown(memory.limit)} they may, of which an eighth is kept for WAL and what tests write;"
        f" {SHARE:.0%} of the memory of this machine or container, and no more than the file system of"
        f" {str(server.lease.data_dir)!r} has. Set data = 'disk' ({server.config.source('data')}: it is"
        f" {server.config.data!r}), run fewer workers, or drop what is kept (`clonedb list`, `clonedb drop`)"
    )
