"""How soon a session and the server find out that the network between them is cut.

Linux begins to ask a silent peer after two hours. A session of clonedb's on a server of the
user's own is asked after a quarter of `lease_timeout`, by both sides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["keep_alive", "keywords"]

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
    on_socket_file = connection.info.host.startswith(("/", "@"))
    if on_socket_file or connection.info.server_version < _SETTABLE:
        return
    pause = _pause(lease_timeout)
    connection.execute(
        f"set tcp_keepalives_idle = {pause}; set tcp_keepalives_interval = {pause};"
        f" set tcp_keepalives_count = {_PROBES}; set tcp_user_timeout = {round(lease_timeout * 1000)}".encode()
    )


def _pause(lease_timeout: float) -> int:
    """Whole seconds between two probes."""
    return max(1, int(lease_timeout / (_PROBES + 1)))
