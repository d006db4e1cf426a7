"""The lock of whoever makes a template, on the server: the truth across hosts."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from clonedb.errors import LockTimeoutError, ServerError
from clonedb.postgres import locks
from clonedb.postgres.server import Server
from clonedb.progress import Progress

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["server_lock"]


@contextlib.contextmanager
def server_lock(server: Server, name: str, progress: Progress) -> Iterator[None]:
    """Hold the template's advisory lock on a session of its own: the truth across hosts."""
    key, timeout, told = locks.build_key(name), server.config.lock_timeout, False
    application = f"clonedb build on {socket.gethostname()}, pid {os.getpid()}"[:63]
    with contextlib.closing(server.connect(server.config.maintenance_database, application_name=application)) as own:
        _demand_sessions(server, own)

        def waiting(seconds: float) -> None:
            nonlocal told
            if seconds > 1 and not told:
                told = True
                who = locks.holder(own, key) or "another session"
                progress.say(f"template {name!r} is being built by {who}; waiting (lock_timeout = {timeout:g} s)")

        if not locks.wait_for_lock(own, key, timeout=timeout, waiting=waiting):
            who = locks.holder(own, key) or "another session"
            raise LockTimeoutError(
                f"template {name!r} is still being built by {who}, after lock_timeout = {timeout:g} s; "
                "end that process if it hangs, or raise lock_timeout"
            )
        yield


def _demand_sessions(server: Server, own: Connection[Any]) -> None:
    """Refuse a transaction-pooling proxy: a lock taken through it belongs to nobody.

    Such a proxy gives a second client the server session that the first one is not using at the moment.
    """
    pid = own.execute("select pg_backend_pid()").fetchone()
    other = server.run(lambda connection: connection.execute("select pg_backend_pid()").fetchone())
    if pid == other:
        raise ServerError(
            f"{server.about} is behind a proxy that shares sessions (PgBouncer with pool_mode = transaction?), on which"
            " locks hold nothing; give clonedb a url that reaches the server itself"
        )
