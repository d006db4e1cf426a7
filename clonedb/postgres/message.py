"""A message of several statements to the server, and its answer, by libpq alone."""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

from clonedb.embedded.machine import is_stopped_server
from clonedb.errors import ServerError

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

__all__ = ["Results", "Row", "answer", "ask", "is_alive", "number", "send", "text"]

Row: TypeAlias = tuple[bytes | None, ...]
"""Values as the server wrote them; `text` and `number` read them."""

Results: TypeAlias = list[list[Row]]
"""The rows of those statements that have any, in their order."""

LIMIT = 600.0
"""Seconds without a byte from the server after which its process counts as stopped."""

LOOK = 5.0
"""Seconds without one after which a process of this machine is looked at."""


def ask(connection: PGconn, statements: Iterable[str]) -> Results:
    """Send statements in one message, and wait for the answer.

    A cursor would take 15 us for each of them, more than the server does: descriptions,
    loaders, a generator. Raises psycopg's errors, after the whole answer has come, and
    ServerError when none comes.
    """
    send(connection, statements)
    return answer(connection)


def send(connection: PGconn, statements: Iterable[str]) -> None:
    """Send them; until `answer` was called the connection is good for nothing else."""
    connection.send_query("; ".join(statements).encode())
    while connection.flush():
        _wait(connection, select.POLLIN | select.POLLOUT)
        # libpq's manual: read while it flushes, or two full buffers wait for each other
        connection.consume_input()


def answer(connection: PGconn, limit: float | None = None) -> Results:
    """Wait for what was sent; raises the first error, and ServerError when no answer comes.

    That is after LIMIT seconds without a byte, or as soon as the server's process is found
    stopped; with a `limit`, after so many seconds. After that, and after an interrupt, the
    connection is in the middle of it.
    """
    from psycopg.errors import error_from_result
    from psycopg.pq import ExecStatus

    found: Results = []
    error = None
    while True:
        # get_result() itself would wait where no interrupt comes through
        while connection.is_busy():
            _wait(connection, select.POLLIN, limit)
            connection.consume_input()

        if (result := connection.get_result()) is None:
            break
        if result.status == ExecStatus.TUPLES_OK:
            columns = range(result.nfields)
            found.append(
                [
                    tuple(result.get_value(row, column) for column in columns)
                    for row in range(result.ntuples)
                ]
            )
        elif result.status != ExecStatus.COMMAND_OK:
            # the first: after an error the server skips the other statements of a message
            error = error or error_from_result(result)

    if error is not None:
        raise error
    return found


def is_alive(connection: PGconn) -> bool:
    """Whether the server has not ended an idle session: what it says at its end, and the end itself, can be read."""
    import psycopg

    try:
        while _is_readable(connection):
            connection.consume_input()
    except psycopg.Error:
        return False
    return connection.status == psycopg.pq.ConnStatus.OK


def text(value: bytes | None) -> str:
    """A value that is not NULL, as text."""
    if value is None:
        raise ValueError("NULL where a value was expected")
    return value.decode()


def number(value: bytes | None) -> int:
    """A value that is not NULL, as a number."""
    return int(text(value))


def _is_readable(connection: PGconn) -> bool:
    waiting = select.poll()
    waiting.register(connection.socket, select.POLLIN)
    return bool(waiting.poll(0))


def _wait(connection: PGconn, what: int, limit: float | None = None) -> None:
    """As Python waits, so that Ctrl-C comes through and other threads go on."""
    most = LIMIT if limit is None else limit
    waiting = select.poll()
    waiting.register(connection.socket, what)
    waited = 0.0
    while not waiting.poll(min(LOOK, most) * 1000):
        waited += min(LOOK, most)
        pid = connection.backend_pid
        found = "is stopped" if limit is None and is_stopped_server(pid) else ""
        if waited >= most:
            found = found or f"has not answered for {most:g} s; it may be stopped"
        if found:
            raise ServerError(
                f"the server's process {pid} {found}: let it go on (kill -CONT {pid}), or end it"
            )
