"""Processes that a program left behind, in whatever session: adopted by this process, and ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time

__all__ = ["adopt_orphans", "children", "end_children"]

_PR_SET_CHILD_SUBREAPER = 36
_LIMIT = 2.0  # seconds in which a killed process ends, unless the kernel holds it
_PAUSE = 0.002  # seconds between two looks


def adopt_orphans() -> None:
    """From here on a process below this one whose parent ends becomes this one's child.

    A daemon is one on purpose: it has a session of its own, which no signal to the session that
    started it reaches.
    """
    # a C library without prctl() leaves orphans to init
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> set[int]:
    """The pids of this process's children, orphans that it has adopted among them."""
    found: set[int] = set()
    for thread in os.listdir("/proc/self/task"):  # noqa: PTH208 - it is text
        # a thread may end meanwhile
        with (
            contextlib.suppress(OSError),
            open(f"/proc/self/task/{thread}/children", encoding="ascii") as file,  # noqa: PTH123
        ):
            found.update(map(int, file.read().split()))
    return found


def end_children(*, but: set[int]) -> None:
    """Kill all children, and theirs, which are adopted then; `but` are left as they are."""
    deadline = time.monotonic() + _LIMIT
    while (strays := children() - but) and time.monotonic() < deadline:
        for pid in strays:
            # one that runs as another account can only be left
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

        time.sleep(_PAUSE)
