"""A lock among the threads of one process, which a forked child does not inherit locked."""

from __future__ import annotations

import threading
from typing import Any

from clonedb.originals import getpid

__all__ = ["ProcessLock"]


class ProcessLock:
    """A reentrant lock. A child that was forked while another thread had it would wait for ever: it has a new one."""

    def __init__(self) -> None:
        self._pid = getpid()
        # RLock is a function before Python 3.13
        self._lock: Any = threading.RLock()

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take it, waiting for it if that is to be done; whether it is taken."""
        if self._pid != getpid():
            self._pid, self._lock = getpid(), threading.RLock()
        taken: bool = self._lock.acquire(blocking)
        return taken

    def release(self) -> None:
        """Give it back."""
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
