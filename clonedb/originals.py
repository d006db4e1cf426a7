"""What clonedb takes of its process when it is imported, before a test can replace it: the clock, sleep, the pid.

clonedb runs in the processes of other people's tests. freezegun replaces `time.monotonic` in
every module that has it, time-machine replaces it in the interpreter, and a frozen clock never
reaches a deadline. Both leave `clock_gettime(CLOCK_MONOTONIC)` alone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

__all__ = ["getpid", "monotonic", "now", "now_ns", "sleep"]

getpid: Callable[[], int] = os.getpid
sleep: Callable[[float], object] = time.sleep

_gettime = time.clock_gettime
_gettime_ns = time.clock_gettime_ns
_MONOTONIC = time.CLOCK_MONOTONIC
# CLOCK_REALTIME_COARSE, which the kernel stamps files with, and which time-machine does not
# know
_WALL = 5 if sys.platform == "linux" else time.CLOCK_REALTIME


def monotonic() -> float:
    """Seconds of a clock that only goes forward, for deadlines."""
    return _gettime(_MONOTONIC)


def now() -> float:
    """Unix time in seconds, as the kernel stamps files."""
    return _gettime(_WALL)


def now_ns() -> int:
    """Unix time in nanoseconds, as the kernel stamps files; on Linux it advances every 1 to 10 ms."""
    return _gettime_ns(_WALL)
