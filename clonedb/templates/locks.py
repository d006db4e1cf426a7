"""The server-side lock of a template's builder: the truth across hosts."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from clonedb.errors import LockTimeoutError
from clonedb.originals import getpid
from clonedb.postgres import locks
from clonedb.postgres.server import Server
from clonedb.progress import Progress

__all__ = ["server_lock"]


@contextlib.contextmanager
def server_lock(server: Server, name: str, progress: Progress) -> Iterator[None]:
    """Hold the template's advisory lock on a session of its own: the truth across hosts."""
    key, timeout, told = locks.build_key(name), server.config.lock_timeout, False
    # NAMEDATALEN - 1: the server cuts off the rest
    application = f"clonedb build on {socket.gethostname()}, pid {getpid()}"[:63]
    with contextlib.closing(
        server.connect(server.config.maintenance_database, application_name=application)
    ) as own:

        def waiting(seconds: float) -> None:
            nonlocal told
            if seconds > 1 and not told:
                told = True
                who = locks.holder(own, key) or "another session"
                progress.say(
                    f"template {name!r} is being built by {who}; waiting (lock_timeout = {timeout:g} s)"
                )

        if not locks.wait_for_lock(own, key, timeout=timeout, waiting=waiting):
            who = locks.holder(own, key) or "another session"
            raise LockTimeoutError(
                f"template {name!r} is still being built by {who}, after lock_timeout = {timeout:g} s; "
                "end that process if it hangs, or raise lock_timeout"
            )

        yield
