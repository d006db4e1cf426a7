"""The server-side lock of a template's builder: the truth across hosts, and a lease that ends with its heartbeat."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from clonedb.errors import LeaseLostError, LockTimeoutError
from clonedb.originals import getpid, monotonic
from clonedb.postgres import locks
from clonedb.postgres.heartbeat import beat
from clonedb.postgres.server import Server
from clonedb.progress import Progress
from clonedb.url import redact

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["BuildLease", "server_lock"]

T = TypeVar("T")

_PAUSE = 60.0  # seconds between two lines about what is waited for


class BuildLease:
    """A template's advisory lock on a session of its own, in the hands of the process that builds it.

    On a server of the user's own the session sends a heartbeat, which says how far the build
    is. A waiting process ends a session that sends none for longer than lease_timeout, as that
    of a host that was suspended, or that is cut off behind a proxy which keeps the session.
    """

    def __init__(self, server: Server, name: str, own: Connection[Any]) -> None:
        self._server = server
        self._name = name
        self._own = own
        self._timeout = server.config.lease_timeout
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._lost: str | None = None
        self._answered = monotonic()
        self.at: str = ""
        self._thread = threading.Thread(
            target=self._work, name="clonedb-heartbeat", daemon=True
        )

    def begin(self) -> None:
        """Send the first heartbeat, and go on in a thread; the embedded server's users are all on this machine."""
        if not self._server.embedded:
            self._beat()
            self._thread.start()

    def close(self) -> None:
        """Send no more; the thread ends by itself if it waits for an answer that does not come."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    @property
    def lost(self) -> bool:
        """Whether another process may be building the template by now."""
        silent = monotonic() - self._answered > self._timeout and not self._server.embedded
        return self._lost is not None or silent

    def require(self) -> None:
        """Raises LeaseLostError if the lock is lost."""
        if self.lost:
            raise self.error()

    def error(self) -> LeaseLostError:
        """What a process is told that lost it."""
        reason = self._lost or f"no answer for {monotonic() - self._answered:.0f} s"
        return LeaseLostError(
            f"the lock on template {self._name!r} was lost while it was being built: {self._server.about} was out of"
            f" reach, or this process was, and lease_timeout is {self._timeout:g} s ({redact(reason)}); nothing of this"
            " build is kept, and another host may have begun it; run again"
        )

    def run(self, function: Callable[[Connection[Any]], T]) -> T:
        """Call a function with the session that holds the lock: what it commits, it commits as the builder.

        Raises LeaseLostError when the session was ended.
        """
        import psycopg

        self.require()
        if not self._lock.acquire(timeout=self._timeout):
            raise self.error()  # the heartbeat waits for an answer
        try:
            return function(self._own)
        except psycopg.OperationalError as error:
            if not self._own.closed:
                raise
            self._lost = self._lost or _first_line(error)
            raise self.error() from error
        finally:
            self._answered = monotonic()
            self._lock.release()

    def _work(self) -> None:
        while self._lost is None and not self._stop.wait(self._timeout / 4):
            self._beat()

    def _beat(self) -> None:
        with self._lock:
            why = beat(self._own, locks.heartbeat(self._timeout, self.at), self._timeout)
            if why is None:
                self._answered = monotonic()
            elif not self._stop.is_set():
                self._lost = why


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


@contextlib.contextmanager
def server_lock(server: Server, name: str, progress: Progress) -> Iterator[BuildLease]:
    """Hold the template's advisory lock on a session of its own: the truth across hosts."""
    with contextlib.closing(_waited_for(server, name, progress)) as own:
        lease = BuildLease(server, name, own)
        lease.begin()
        try:
            yield lease
        finally:
            lease.close()


def _waited_for(server: Server, name: str, progress: Progress) -> Connection[Any]:
    """A session that has the lock; one that is lost while it waits, as in a restart of the server, is replaced."""
    import psycopg

    key, timeout = locks.build_key(name), server.config.lock_timeout
    # NAMEDATALEN - 1: the server cuts off the rest
    application = f"clonedb build on {socket.gethostname()}, pid {getpid()}"[:63]
    start = monotonic()
    while True:
        own = server.connect(server.config.maintenance_database, application_name=application)
        waiting = _Waiting(own, key, name, timeout, progress)
        try:
            waiting.wait(timeout - (monotonic() - start))
        except psycopg.OperationalError as error:
            if not own.closed:
                own.close()
                raise
            progress.say(
                f"the session that waits for template {name!r} was lost ({redact(_first_line(error))});"
                " connecting again"
            )
        except BaseException:
            own.close()
            raise
        else:
            return own


class _Waiting:
    """What a process does while another one builds: it says so, and ends a builder's session that has fallen silent."""

    def __init__(
        self, own: Connection[Any], key: int, name: str, timeout: float, progress: Progress
    ) -> None:
        self._own = own
        self._key = key
        self._name = name
        self._timeout = timeout
        self._progress = progress
        self._look_at = 1.0
        self._say_at = 1.0

    def who(self) -> str:
        """The builder, in words."""
        holder = locks.holder(self._own, self._key)
        return str(holder) if holder else "another session"

    def wait(self, seconds: float) -> None:
        """Wait for the lock, no longer than that; raises LockTimeoutError."""
        if not locks.wait_for_lock(
            self._own, self._key, timeout=max(0.0, seconds), waiting=self
        ):
            raise LockTimeoutError(
                f"template {self._name!r} is still being built by {self.who()}, after lock_timeout ="
                f" {self._timeout:g} s; end that process if it hangs, or raise lock_timeout"
            )

    def __call__(self, seconds: float) -> None:
        """It has been waited for so long."""
        if seconds < self._look_at:
            return
        self._look_at = seconds + 1
        if seconds >= self._say_at:
            self._say_at = seconds + _PAUSE
            holder = locks.holder(self._own, self._key)
            remedy = f"; `select pg_terminate_backend({holder.pid})` ends it" if holder else ""
            self._progress.say(
                f"template {self._name!r} is being built by {holder or 'another session'}; waiting for"
                f" {seconds:.0f} s (lock_timeout = {self._timeout:g} s){remedy}"
            )
        holders = locks.holders(self._own, {self._key})
        for ended in locks.end_silent(self._own, holders):
            self._progress.say(
                f"template {self._name!r} was being built by {ended}, which sent no heartbeat for longer than its"
                " lease_timeout: its session was ended, and the lock is free"
            )
