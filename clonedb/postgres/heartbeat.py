"""The heartbeat of a process's session with a maintenance database, by which others know that its owner goes on.

A proxy may answer the server's keepalives by itself, and so does the kernel of a process that is
suspended. The session says in its application_name how long it will be silent at most.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from clonedb.errors import ServerError
from clonedb.originals import getpid, monotonic
from clonedb.postgres import message

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Heartbeat", "application_name", "beat"]

_BEATS = 4  # heartbeats in `lease_timeout`
_LONGEST = 63  # bytes of application_name that PostgreSQL keeps


def application_name(lease_timeout: float | None) -> str:
    """`clonedb on build-host, pid 4711, lease 20`; without a timeout there is no lease."""
    lease = "" if lease_timeout is None else f", lease {lease_timeout:g}"
    end = f", pid {getpid()}{lease}"
    return f"clonedb on {socket.gethostname()}"[: _LONGEST - len(end)] + end


def beat(session: Connection[Any], statement: str, lease_timeout: float) -> str | None:
    """Send one on an idle session: None if it was answered, else why it was not.

    A session that gives no answer for `lease_timeout` is closed. A proxy may keep one whose
    server is out of reach, where no keepalive ends it; a thread that waits for it goes on now.
    """
    import psycopg

    try:
        message.send(session.pgconn, [statement])
        message.answer(session.pgconn, lease_timeout)
    except psycopg.Error as error:
        return str(error).strip().partition("\n")[0]
    except ServerError:
        session.close()
        return f"no answer for {lease_timeout:g} s"
    return None


class Heartbeat:
    """A thread that sends it four times in `lease_timeout`, also while a test is at a breakpoint.

    `beat` sends one and says whether it was answered; None if the session is at work, which is
    as good as one. `look` finds out whether the server can be reached: it is called when no
    answer came, and when the session has been at work for `lease_timeout`.
    """

    def __init__(
        self, beat: Callable[[], bool | None], look: Callable[[], None], lease_timeout: float
    ) -> None:
        self._beat = beat
        self._look = look
        self._timeout = lease_timeout
        self._answered = monotonic()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start the thread, unless it runs in this process; a forked child has none."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(self._stop,), name="clonedb-heartbeat", daemon=True
        )
        # debugpy and PyCharm stop every other thread at a breakpoint
        self._thread.pydev_do_not_trace = True  # type: ignore[attr-defined]
        self._thread.is_pydev_daemon_thread = True  # type: ignore[attr-defined]
        self._thread.start()

    def loss(self, about: str) -> str | None:
        """What to say of a lost session with a server, if a silence of this process may have cost it its leases."""
        silent = monotonic() - self._answered
        self._answered = monotonic()
        if silent <= self._timeout:
            return None
        return (
            f"this process, or its network, stood still for {silent:.0f} s, longer than lease_timeout ="
            f" {self._timeout:g} s: its session with {about} was ended, and its clones may have been collected by"
            " another host"
        )

    def close(self) -> None:
        """Send no more."""
        self._stop.set()

    def _work(self, stop: threading.Event) -> None:
        silent = 0
        while not stop.wait(self._timeout / _BEATS):
            answered = self._beat()
            if answered is not False:
                self._answered = monotonic()
            silent = 0 if answered else silent + 1
            at_once = answered is False and silent == 1
            if at_once or (silent and silent % _BEATS == 0):
                self._look()
