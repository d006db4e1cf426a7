"""Prepared statements on a connection that the event loop reads: what a lease costs is mostly this."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.pq.abc import PGresult

__all__ = ["Statements"]

_LIMIT = 40.0  # seconds without an answer, after which the session counts as lost


class Statements:
    """Runs one statement after the other by libpq alone.

    Through psycopg's cursors each would take 140 us of the process's time, so it is 50
    (measured): conversions, and a reader that is added and removed for each. The connection is
    used for nothing else from now on, and closed by `close`. For one loop, and one task at a
    time.
    """

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._pgconn.nonblocking = 1
        self._loop = asyncio.get_running_loop()
        self._prepared: dict[bytes, bytes] = {}
        # the statement that is being answered, and its results so far
        self._answer: asyncio.Future[list[PGresult]] | None = None
        self._results: list[PGresult] = []
        self._names = 0
        self._broken = False
        self._socket = self._pgconn.socket

        self._loop.add_reader(self._socket, self._read)

    @property
    def broken(self) -> bool:
        """Whether the session is lost."""
        return self._broken

    async def value(self, query: bytes, values: Sequence[object]) -> str | None:
        """Run a statement, with `%s` for values: the first value of its first row, if it has one.

        Raises psycopg's errors. One that is cancelled is carried out all the same.
        """
        import psycopg

        # of a task that was cancelled
        while self._answer is not None:
            await asyncio.wait([self._answer])
        if self._broken:
            raise psycopg.OperationalError("the session is lost")
        name = self._prepared.get(query)
        if name is None:
            # never the same again: one whose task was cancelled is there, too
            self._names += 1
            name = b"clonedb_%d" % self._names
            await self._answered(self._pgconn.send_prepare, name, _numbered(query))
            self._prepared[query] = name
        encoded = [_encoded(value) for value in values]
        results = await self._answered(self._pgconn.send_query_prepared, name, encoded)
        if not results or not results[0].ntuples or not results[0].nfields:
            return None
        found = results[0].get_value(0, 0)
        return None if found is None else found.decode()

    async def _answered(self, send: Callable[..., None], *arguments: object) -> list[PGresult]:
        """What the server answers to what `send` sends."""
        import psycopg
        from psycopg.errors import error_from_result
        from psycopg.pq import ExecStatus

        try:
            send(*arguments)
        except psycopg.Error as error:
            self._lose(str(error))
            raise
        self._answer = self._loop.create_future()
        self._results = []
        self._write()
        try:
            async with asyncio.timeout(_LIMIT):
                # the answer belongs to this statement, whoever still waits for it
                results = await asyncio.shield(self._answer)
        except TimeoutError:
            self._lose(f"the server has not answered for {_LIMIT:g} s")
            raise psycopg.OperationalError(
                f"the server has not answered for {_LIMIT:g} s"
            ) from None
        for result in results:
            if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
                raise error_from_result(result)
        return results

    def _write(self) -> None:
        """Send what is left to send."""
        import psycopg

        try:
            left = self._pgconn.flush()
        except psycopg.Error as error:
            self._lose(str(error))
            return
        if left:
            self._loop.add_writer(self._socket, self._write)
        else:
            self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        """The server has sent something: of an answer, or its farewell."""
        import psycopg

        try:
            self._pgconn.consume_input()
            while self._answer is not None and not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:
                    self._end()
                    return
                self._results.append(result)
        except psycopg.Error as error:
            self._lose(str(error))
            return
        if self._pgconn.status != psycopg.pq.ConnStatus.OK:
            self._lose("the server has ended the session")

    def _end(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(self._results)

    def _lose(self, why: str) -> None:
        """The session is lost: nothing is read from it any more."""
        import psycopg

        self.close()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(psycopg.OperationalError(why))
            # it may be that nobody waits any more
            answer.exception()

    def close(self) -> None:
        """End the session."""
        if self._broken:
            return
        self._broken = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        with contextlib.suppress(Exception):
            self._connection.close()


def _numbered(query: bytes) -> bytes:
    """A statement as PostgreSQL wants it: `$1` for the first value."""
    first, *others = query.split(b"%s")
    return first + b"".join(
        b"$%d%s" % (number, part) for number, part in enumerate(others, start=1)
    )


def _encoded(value: object) -> bytes | None:
    """A value as PostgreSQL's text."""
    if value is None:
        return None
    if isinstance(value, bytes):
        return b"\\x" + value.hex().encode()
    if isinstance(value, list | tuple):
        return _array(map(str, value))
    return str(value).encode()


def _array(values: Iterable[str]) -> bytes:
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return ("{" + ",".join(f'"{value}"' for value in quoted) + "}").encode()
