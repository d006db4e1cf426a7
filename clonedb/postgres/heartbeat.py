"""The heartbeat of a process's session with a maintenance database, by which others know that its owner goes on.

A proxy may answer the server's keepalives by itself, and so does the kernel of a process that is
suspended. The session says in its application_name how long it will be silent at most.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from clonedb.originals import getpid, monotonic

__all__ = ["Heartbeat", "application_name"]

_LONGEST = 63  # bytes of application_name that PostgreSQL keeps


def application_name(lease_timeout: float | None) -> str:
    """`clonedb on build-host, pid 4711, lease 20`; without a timeout there is no lease."""
    lease = "" if lease_timeout is None else f", lease {lease_timeout:g}"
    end = f", pid {getpid()}{lease}"
    return f"clonedb on {socket.gethostname()}"[: _LONGEST - len(end)] + end


class Heartbeat:
    """A thread that sends it four times in `lease_timeout`, also while a test is at a breakpoint.

    `beat` sends one and says whether it was answered.
    """

    def __init__(self, beat: Callable[[], bool], lease_timeout: float) -> None:
        self._beat = beat
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
        while not stop.wait(self._timeout / 4):
            if self._beat():
                self._answered = monotonic()
