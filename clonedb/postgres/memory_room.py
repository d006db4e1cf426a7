"""Room in memory for one more database, where the data of the embedded server are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clonedb.embedded.memory import SHARE, Memory, memory_at, way_out
from clonedb.errors import ServerError
from clonedb.names import parse
from clonedb.postgres import locks, sql
from clonedb.quantities import size as shown

if TYPE_CHECKING:
    from psycopg import Connection

    from clonedb.postgres.host import Host

__all__ = ["MemoryRoom"]

_AT_ONCE = 64  # databases that others may be making at the same moment; with less room they are made one by one
# one for all prefixes, as they share the memory
_TURN = locks.admission_key("turn")


class MemoryRoom:
    """The share of the memory that databases may take, looked at before each is made (0.2 ms), by its template's size.

    Where it comes to an end databases are made one by one, so that two who look at the same
    moment never take the same room: `making` is true while one of this process is made.
    """

    def __init__(self, server: Host) -> None:
        self._server = server
        self.queue: int = locks.admission_key("memory", server.config.prefix)
        self.making: bool = False

    def need(self, size: int, what: str) -> _Need | None:
        """What a database of `size` bytes needs; None on a disk, or where memory is far from its end."""
        memory = self.memory()
        if memory is None or memory.left >= size * _AT_ONCE:
            return None
        return _Need(self, self._server, memory, size, what)

    def memory(self) -> Memory | None:
        """The file system in memory that the data are on; None for a disk."""
        lease = self._server.lease
        return None if lease is None else memory_at(lease.data_dir.parent)

    def forget(self) -> None:
        """In a forked child: what the parent makes is not the child's."""
        self.making = False


class _Need:
    """Room for one database, and this process's turn to make it, which is an advisory lock until `leave`."""

    def __init__(
        self, room: MemoryRoom, server: Host, memory: Memory, size: int, what: str
    ) -> None:
        self.what = what
        self.queue: int = room.queue
        self._room = room
        self._server = server
        self._memory = memory
        self._size = size
        self._has_turn = False

    def take(self, connection: Connection[Any]) -> bool | None:
        """Take the turn, if there is room for the database."""
        # the session's lock does not keep another thread of the process out
        if self._room.making or not locks.try_lock(connection, _TURN):
            return None
        self._memory = self._room.memory() or self._memory
        if self._memory.left >= self._size:
            self._has_turn = self._room.making = True
            return True
        locks.release(connection, _TURN)
        return None

    def leave(self, connection: Connection[Any]) -> None:
        """Give the turn back, if this process has it."""
        if self._has_turn:
            self._has_turn = self._room.making = False
            locks.release(connection, _TURN)

    def holders(self, connection: Connection[Any]) -> set[int]:
        """The server's processes for those that own databases."""
        prefix = self._server.config.prefix
        names = (parse(prefix, found.name) for found in sql.databases(connection, prefix))
        owners = {locks.owner_key(name.owner) for name in names if name and name.owner}
        return locks.holders(connection, owners)

    def shortage(self) -> str:
        """`files in memory take 11.2 GB of the 11.8 GB they may`."""
        used, limit = shown(self._memory.used), shown(self._memory.limit)
        return f"files in memory take {used} of the {limit} they may"

    def late(self, _seconds: float) -> ServerError:
        """The error of a process that does not wait any longer."""
        return self.stuck()

    def stuck(self) -> ServerError:
        """The error where nobody will make room."""
        config, lease = self._server.config, self._server.lease
        assert lease is not None  # noqa: S101 - only then are there data of ours in memory
        return ServerError(
            f"no room in memory for {self.what} ({shown(self._size)}): {self.shortage()}, of which an eighth is kept"
            f" for WAL and what tests write; {SHARE:.0%} of the memory of this machine or container, and no more than"
            f" the file system of {str(lease.data_dir)!r} has; {way_out(config, lease.data_dir)},"
            f" run fewer workers, or drop what is kept (`clonedb list`, `clonedb drop`)"
        )
