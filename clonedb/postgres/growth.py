"""The growth of databases in memory: watched while tests write, and stopped before the kernel kills a process."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Protocol

from clonedb.embedded.memory import EMPTY, Memory, is_nearly_full, memory_at, way_out
from clonedb.errors import ServerError
from clonedb.names import Name, parse
from clonedb.postgres import sql
from clonedb.quantities import size as shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from psycopg import Connection

    from clonedb.embedded.leases import Lease
    from clonedb.settings.config import Config

__all__ = ["Growth"]

_PAUSE = 0.25  # seconds between two looks, each of 0.2 ms; backends write some 100 MB meanwhile
_LEAST = 32 * 1024**2  # bytes that a database has grown by, before its sessions are ended


class Watched(Protocol):
    """A server, as far as its databases are watched."""

    config: Config
    lease: Lease | None
    say: Callable[[str], None]

    @property
    def owner(self) -> str:
        """The process's name among the owners of databases."""

    def connect(self, database: str, **keywords: Any) -> Connection[Any]:
        """A connection of clonedb's own, in autocommit mode."""


class Growth:
    """A thread that looks at the memory, and ends the sessions of the process's database that has grown the most.

    Each process looks after its own databases, so that it can tell its tests. Data on a disk
    are not watched.
    """

    def __init__(self, server: Watched) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopped: dict[str, str] = {}

    def watch(self) -> None:
        """Begin to look, when the process begins to own databases."""
        # the thread of an owner before, if there was one, ends
        self._stop.set()
        directory = None if self._server.lease is None else self._server.lease.data_dir.parent
        if directory is not None and memory_at(directory) is not None:
            self._stop = threading.Event()
            arguments = self._stop, directory
            self._thread = threading.Thread(
                target=self._work, args=arguments, name="clonedb-growth", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Look no more; the thread ends, within a second if it is just ending sessions."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(1.0)

    def require_not_stopped(self, name: str) -> None:
        """Raises ServerError, once, when the sessions of a database were ended."""
        __tracebackhide__ = True
        if (why := self._stopped.pop(name, None)) is not None:
            raise ServerError(why)

    def _work(self, stop: threading.Event, directory: Path) -> None:
        while not stop.wait(_PAUSE):
            with contextlib.suppress(Exception):  # the next query meets the same error
                memory = memory_at(directory)
                if memory is not None and is_nearly_full(memory):
                    self._end_the_largest(memory, directory)

    def _end_the_largest(self, memory: Memory, directory: Path) -> None:
        server = self._server
        database = server.config.maintenance_database
        # a session of its own: the server's may be waiting for an answer
        with contextlib.closing(
            server.connect(database, application_name="clonedb growth")
        ) as own:
            grown = _grown(own, server.config.prefix, server.owner)
            if not grown:
                return
            name = max(grown, key=lambda each: grown[each])
            # noted first: a test's statement fails as soon as its session has ended
            self._stopped[name] = self._why(name, grown[name], memory, directory)
            sql.end_sessions(own, name)
            server.say(self._stopped[name])

    def _why(self, name: str, growth: int, memory: Memory, directory: Path) -> str:
        return (
            f"the sessions of database {name!r} were ended, which has grown by {shown(growth)}: files in memory take"
            f" {shown(memory.used)} of the {shown(memory.limit)} they may;"
            f" {way_out(self._server.config, directory)}, or run fewer workers"
        )


def _grown(connection: Connection[Any], prefix: str, owner: str) -> Mapping[str, int]:
    """The owner's databases that have grown by what is worth ending sessions for: the bytes of each."""
    names = [
        name
        for found in sql.databases(connection, prefix)
        if (name := parse(prefix, found.name))
    ]
    growth = {
        name.text: sql.database_size(connection, name.text)
        - _first_size(connection, name, names)
        for name in names
        if name.owner == owner
    }
    return {name: bytes_ for name, bytes_ in growth.items() if bytes_ >= _LEAST}


def _first_size(connection: Connection[Any], name: Name, names: list[Name]) -> int:
    """The bytes of a database when it was made: a clone's are its template's."""
    for other in names:
        if (
            # a clone's name has the beginning of its template's fingerprint
            name.kind == "clone"
            and other.kind == "template"
            and other.fingerprint.startswith(name.fingerprint)
        ):
            return sql.database_size(connection, other.text)
    return EMPTY
