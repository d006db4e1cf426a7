"""The local queue before a build: one process of this machine at a time, and what the last one's failure was."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from clonedb.embedded.machine import is_stopped
from clonedb.errors import BuildError, CloneDBError, LockTimeoutError
from clonedb.originals import getpid, monotonic, now
from clonedb.progress import Progress
from clonedb.url import DatabaseURL

if TYPE_CHECKING:
    from filelock import BaseFileLock

    from clonedb.postgres.server import Server

__all__ = ["BuildQueue"]

_PAUSE = 60.0  # seconds between two lines about what is waited for
_DAY = 86400.0  # seconds after which a run is over, whatever it was


class BuildQueue:
    """Waits for the file lock of one template, says who holds it, and remembers a failed build for those who waited.

    Of a run that uses several servers one process builds at a time: the others find a template
    there that they can copy. A build that failed says nothing of other servers.
    """

    def __init__(self, server: Server, name: str, run: str) -> None:
        from clonedb.embedded.places import state_files

        self._timeout = server.config.lock_timeout
        self._name = name
        self._run = run
        self._asked = now()
        self._files = state_files(server.config) / "locks"
        self._files.make()
        together = f"{name}-{_digest(_servers(server))}"
        self._lock_file = f"{together}.lock"
        self._builder_file = f"{together}.builder"
        self._failure_file = f"{name}-{_digest(server.place)}.failed"

    @contextlib.contextmanager
    def turn(self, progress: Progress) -> Iterator[None]:
        """Wait for our turn to build; raises LockTimeoutError after lock_timeout seconds."""
        from filelock import FileLock

        os.close(
            self._files.open(self._lock_file, os.O_RDWR | os.O_CREAT)
        )  # FileLock would follow a link
        lock = FileLock(self._files.path / self._lock_file, mode=0o600)
        self._acquire(lock, progress)
        try:
            self._forget_old()
            self._write(self._builder_file, {"pid": getpid(), "since": now()})
            yield
        finally:
            with contextlib.suppress(OSError):  # the state directory is being deleted
                self._files.unlink(self._builder_file)

                # a process that has it open and locks it now goes on beside the next one; the
                # server's lock orders them
                self._files.unlink(self._lock_file)

            lock.release()

    def _acquire(self, lock: BaseFileLock, progress: Progress) -> None:
        from filelock import Timeout

        start = monotonic()
        # in silence for a second: many builds are over by then
        pause = 1.0
        while True:
            left = start + self._timeout - monotonic()
            try:
                lock.acquire(timeout=max(0.0, min(pause, left)))
            except Timeout:
                waited = monotonic() - start
                if waited >= self._timeout:
                    raise LockTimeoutError(
                        f"template {self._name!r} is still being built by {self._builder()}, after lock_timeout ="
                        f" {self._timeout:g} s; end that process if it hangs, or raise lock_timeout"
                    ) from None

                progress.say(
                    f"template {self._name!r} is being built by {self._builder()}; waiting for {waited:.0f} s"
                    f" (lock_timeout = {self._timeout:g} s)"
                )
                pause = _PAUSE
            else:
                return

    def _forget_old(self) -> None:
        """Remove what failed builds left for their runs, when those are over."""
        for name in self._files.names():
            found = self._files.stat(name)
            if found is not None and name.endswith(".failed") and found.st_mtime < now() - _DAY:
                self._files.unlink(name)

    def raise_if_failed(self) -> None:
        """Raise the error of a build that failed in this run, or while we waited: trying again would only repeat it."""
        failure = self._read(self._failure_file)
        if failure and (
            # of this run, or of another one that ended while this process waited
            failure.get("run") == self._run or failure.get("when", 0) >= self._asked
        ):
            raise BuildError(
                f"template {self._name!r} could not be built in this run: {failure['message']}"
                f" (pid {failure['pid']} shows it in full)"
            )

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Remember the error of the build that is run inside, for those who wait."""
        try:
            yield
        except CloneDBError as error:
            # the rest is shown by the process whose build failed
            lines = str(error).splitlines()
            record = {"run": self._run, "when": now(), "pid": getpid(), "message": lines[0]}
            self._write(self._failure_file, record)
            raise
        self._files.unlink(self._failure_file)

    def _builder(self) -> str:
        builder = self._read(self._builder_file)
        if not builder:
            return "another process"
        pid, since = builder["pid"], max(0, now() - builder["since"])
        remedy = f"`kill {pid}` ends it"
        # by Ctrl-Z in another terminal: SIGTERM waits for SIGCONT then
        if is_stopped(pid):
            remedy = f"it is stopped: `kill -CONT {pid}` continues it"
        return f"pid {pid} since {since:.0f} s ({remedy})"

    def _write(self, name: str, data: dict[str, Any]) -> None:
        self._files.write(name, json.dumps(data))

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            data = json.loads(self._files.read(name))
        except (OSError, ValueError):
            return None
        return data if isinstance(data, dict) else None


def _servers(server: Server) -> str:
    """The servers among which a run's templates are copied, of which this is one: the same text for each of them."""
    if server.embedded:
        return "embedded"
    urls = server.config.urls
    if len(urls) > 1:
        return " ".join(sorted(str(DatabaseURL.parse(url)) for url in urls))
    return server.place


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]
