"""The local queue before a build: one process of this machine at a time, and what the last one's failure was."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clonedb.config import Config
from clonedb.errors import BuildError, CloneDBError, LockTimeoutError
from clonedb.progress import Progress

__all__ = ["BuildQueue"]


class BuildQueue:
    """Waits for the file lock of one template, says who holds it, and remembers a failed build for those who waited."""

    def __init__(self, config: Config, name: str, run: str) -> None:
        from clonedb.postgres.state import state_dir

        self._timeout = config.lock_timeout
        self._name = name
        self._run = run
        self._asked = time.time()
        directory = state_dir(config) / "locks"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_file = directory / f"{name}.lock"
        self._builder_file = directory / f"{name}.builder"
        self._failure_file = directory / f"{name}.failed"

    @contextlib.contextmanager
    def turn(self, progress: Progress) -> Iterator[None]:
        """Wait for our turn to build; raises LockTimeoutError after lock_timeout seconds."""
        from filelock import FileLock, Timeout

        lock = FileLock(self._lock_file, mode=0o600)
        try:
            lock.acquire(timeout=min(1.0, self._timeout))
        except Timeout:
            progress.say(
                f"template {self._name!r} is being built by {self._builder()};"
                f" waiting (lock_timeout = {self._timeout:g} s)"
            )
            try:
                lock.acquire(timeout=max(0.0, self._timeout - 1.0))
            except Timeout:
                raise LockTimeoutError(
                    f"template {self._name!r} is still being built by {self._builder()}, after lock_timeout ="
                    f" {self._timeout:g} s; end that process if it hangs, or raise lock_timeout"
                ) from None
        try:
            _write(self._builder_file, {"pid": os.getpid(), "since": time.time()})
            yield
        finally:
            lock.release()

    def raise_if_failed(self) -> None:
        """Raise the error of a build that failed in this run, or while we waited: trying again would only repeat it."""
        failure = _read(self._failure_file)
        if failure and (failure.get("run") == self._run or failure.get("when", 0) >= self._asked):
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
            lines = str(error).splitlines()
            record = {"run": self._run, "when": time.time(), "pid": os.getpid(), "message": lines[0]}
            _write(self._failure_file, record)
            raise
        self._failure_file.unlink(missing_ok=True)

    def _builder(self) -> str:
        builder = _read(self._builder_file)
        if not builder:
            return "another process"
        return f"pid {builder['pid']} since {max(0, time.time() - builder['since']):.0f} s"


def _write(path: Path, data: dict[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(data), encoding="utf-8")
    temporary.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
