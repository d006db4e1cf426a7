"""Client sessions of a database: which of them their clients have not closed, and the end of those."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from clonedb.originals import monotonic, sleep
from clonedb.postgres import sql

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["ClientSession", "end_open_sessions", "given_time", "left_open"]

_GRACE = 0.025  # seconds in which a session may go by itself, even one that its client holds open at the moment
_LONGEST = 1.0  # seconds for one whose client has closed it, or which is unknown here
_HELD = (
    "01",
    "08",
)  # the kernel's ESTABLISHED and CLOSE_WAIT: a TCP socket that this side has not closed


class ClientSession(NamedTuple):
    """A client's session: its process, what it calls itself, what it is doing (`idle in
    transaction`), and its last statement. `address` and `port` are the client's as the server
    sees them; None and -1 with a Unix socket.

    `client` is false for what is connected without a client: a background worker, or
    replication. `closed` says that the client has closed it, so that only its process at the
    server is left.
    """

    pid: int
    application: str
    state: str
    statement: str
    address: str | None = None
    port: int | None = None
    client: bool = True
    closed: bool = False


def end_open_sessions(
    connection: Connection[Any], name: str, *, keep: Collection[int] = ()
) -> list[ClientSession]:
    """End every session of a database that its client has not closed, but those to `keep`, and say which those were."""
    found = left_open(connection, name, keep=keep)
    if found:
        # also those that are only about to end: the database is to be free of sessions
        sql.end_sessions(connection, name, keep=keep)
    return [one for one in found if not one.closed]


def left_open(
    connection: Connection[Any], name: str, *, keep: Collection[int] = ()
) -> list[ClientSession]:
    """The client sessions of a database, but those to `keep`, that are still there after they were given time."""
    return given_time(
        lambda: [one for one in _open_sessions(connection, name) if one.pid not in keep]
    )


def given_time(look: Callable[[], list[ClientSession]]) -> list[ClientSession]:
    """What `look` finds after those sessions had time to go by themselves.

    A client's close() returns before its server process has ended, on a loaded machine long
    before: 25 ms are given to each session, and a second to one that its client is not known to
    hold open.
    """
    start = monotonic()
    while found := look():
        waited = monotonic() - start
        if waited < _GRACE:
            sleep(0.0005)
            continue

        # looked at only now, as most sessions go in the first milliseconds
        states = _states(found)
        if waited >= _LONGEST or all(
            not one.client or states.get(one.pid) in _HELD for one in found
        ):
            # a session that is not in the kernel's table counts as held open
            return [
                one._replace(closed=states.get(one.pid, _HELD[0]) not in _HELD) for one in found
            ]

        sleep(0.005)

    return []


def _states(sessions: Iterable[ClientSession]) -> dict[int, str]:
    """The states of the clients' ends of TCP connections, by the pids of the server's processes.

    Missing are connections by Unix sockets, clients on other machines, and all of them where
    there is no /proc.
    """
    ends = {
        # as the second column has it: 0100007F:1538 is 127.0.0.1, port 5432
        f"{_hexadecimal(one.address)}:{one.port:04X}": one.pid
        for one in sessions
        if one.address and one.port
    }
    found: dict[int, str] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6") if ends else ():
        with contextlib.suppress(OSError), open(table, encoding="ascii") as file:  # noqa: PTH123 - quicker
            for line in file:
                # the columns: number, local address, remote address, state
                local, _, state = line.split(maxsplit=4)[1:4]

                # the same end may have been that of a connection with another server, of which
                # the kernel still knows
                if local in ends and found.get(ends[local]) not in _HELD:
                    found[ends[local]] = state

    return found


def _hexadecimal(address: str) -> str:
    """An IP address as /proc/net/tcp has it: in words of 4 bytes, in the machine's order."""
    import ipaddress  # 4 ms, which a run without open connections does not pay

    packed = ipaddress.ip_address(address.partition("/")[0]).packed
    words = (packed[index : index + 4] for index in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


def _open_sessions(connection: Connection[Any], name: str) -> list[ClientSession]:
    # what SQL_ASCII lets through may be no text at all
    rows = connection.execute(
        "select pid, application_name, coalesce(state, ''), coalesce(case when getdatabaseencoding() = 'SQL_ASCII'"
        " then regexp_replace(query, '[^\\x01-\\x7f]', '?', 'g') else query end, ''), host(client_addr), client_port"
        " from pg_stat_activity"
        " where datname = %s and pid <> pg_backend_pid() and backend_type = 'client backend'",
        [name],
    )
    return [ClientSession(*row) for row in rows]
