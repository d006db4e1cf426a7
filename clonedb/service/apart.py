"""Calls that may take minutes, in threads that a process does not wait for when it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

__all__ = ["apart"]

T = TypeVar("T")
P = ParamSpec("P")


async def apart(function: Callable[P, T], /, *arguments: P.args, **named: P.kwargs) -> T:
    """Call a function in a thread of its own; raises what it raises.

    Executors of `concurrent.futures`, asyncio's own among them, wait at the end of the process
    for all that they have begun, a build of many minutes too.
    """
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(function(*arguments, **named))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            done.set_exception(error)

    threading.Thread(target=run, name="clonedb-apart", daemon=True).start()
    return await asyncio.wrap_future(done)
