"""Proxies between clonedb and a server, such as PgBouncer: found out at once, and refused where they share sessions."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from clonedb.errors import ServerError
from clonedb.postgres import sql

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Connection

__all__ = ["is_proxied", "require_sessions"]

_ROUNDS = 3


def is_proxied(connection: Connection[Any]) -> bool:
    """Whether a proxy is in between: it tells its clients a number of its own as the pid of the server's process."""
    return sql.own_pid(connection) != connection.info.backend_pid


def require_sessions(
    connection: Connection[Any], connect: Callable[[], Connection[Any]], about: str
) -> None:
    """Raises ServerError for a proxy that gives one session of the server to several clients (transaction pooling).

    A lock taken through it has no owner. It gives a second client the session that the first
    one, `connection`, is not using at the moment, or the first one another session; which of
    its sessions it gives differs from proxy to proxy.
    """
    with contextlib.closing(connect()) as other:
        found = [(sql.own_pid(connection), sql.own_pid(other)) for _ in range(_ROUNDS)]
    ours, theirs = map(set, zip(*found, strict=True))
    if len(ours) > 1 or ours & theirs:
        raise ServerError(
            f"{about} is behind a proxy that shares sessions (PgBouncer with pool_mode = transaction?), on which"
            " locks hold nothing; give clonedb a url that reaches the server itself, or a pool with pool_mode = session"
        )
