"""How soon a session and the server find out that the network between them is cut.

Linux begins to ask a silent peer after two hours. A session of clonedb's on a server of the
user's own is asked after a quarter of `lease_timeout`, by both sides.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["keep_alive", "keep_clients_alive", "keep_socket_alive", "keywords"]

_PROBES = 3  # unanswered ones, after which the other side is gone
_SETTABLE = 120000  # the first version with tcp_user_timeout


def keywords(lease_timeout: float) -> dict[str, str]:
    """Libpq's keywords for the client's side.

    The client notices a cut network after three quarters of the time, the server after all of
    it: a process has found that it lost its locks before another one can have them.
    """
    pause = _pause(lease_timeout)
    return {
        "keepalives": "1",
        "keepalives_idle": str(pause),
        "keepalives_interval": str(pause),
        "keepalives_count": str(_PROBES - 1),
        "tcp_user_timeout": str(round(lease_timeout * 750)),  # milliseconds
    }


def keep_alive(connection: Connection[Any], lease_timeout: float) -> None:
    """Have the server notice it; a statement, as PgBouncer refuses such parameters of the connection."""
    if _may_be_cut(connection):
        connection.execute(
            "; ".join(f"set {each}" for each in _settings(lease_timeout)).encode()
        )


def keep_clients_alive(connection: Connection[Any], name: str, lease_timeout: float) -> None:
    """Have the server notice it for every client of a database, the application too."""
    from psycopg.sql import SQL, Identifier

    if _may_be_cut(connection):
        change = SQL("alter database {} set ").format(Identifier(name))
        changes = [change + SQL(each) for each in _settings(lease_timeout)]
        connection.execute(SQL("; ").join(changes))


def keep_socket_alive(connection: socket.socket, lease_timeout: float) -> None:
    """Have this side of any TCP connection notice it; nothing happens where the system lacks these options."""
    pause = _pause(lease_timeout)
    options = {
        "TCP_KEEPIDLE": pause,
        "TCP_KEEPINTVL": pause,
        "TCP_KEEPCNT": _PROBES,
        "TCP_USER_TIMEOUT": round(lease_timeout * 1000),
    }
    with contextlib.suppress(OSError):  # of another family, or closed
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            if (option := getattr(socket, name, None)) is not None:
                connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _may_be_cut(connection: Connection[Any]) -> bool:
    on_socket_file = connection.info.host.startswith(("/", "@"))
    return not on_socket_file and connection.info.server_version >= _SETTABLE


def _settings(lease_timeout: float) -> tuple[str, ...]:
    pause = _pause(lease_timeout)
    return (
        f"tcp_keepalives_idle = {pause}",
        f"tcp_keepalives_interval = {pause}",
        f"tcp_keepalives_count = {_PROBES}",
        f"tcp_user_timeout = {round(lease_timeout * 1000)}",
    )


def _pause(lease_timeout: float) -> int:
    """Whole seconds between two probes."""
    return max(1, int(lease_timeout / (_PROBES + 1)))
