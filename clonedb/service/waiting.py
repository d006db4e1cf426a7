"""Callers that wait for a database, and disconnect meanwhile: their wait ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from clonedb.service.contract import Disconnected, DisconnectedError

__all__ = ["ending_with"]


@contextlib.contextmanager
def ending_with(
    waiter: asyncio.Future[Any], disconnected: Disconnected | None
) -> Iterator[None]:
    """A context in which a future that is waited for fails with DisconnectedError when a client disconnects."""
    if disconnected is None:
        yield
        return

    def end(watch: asyncio.Task[None]) -> None:
        if not watch.cancelled() and not waiter.done():
            waiter.set_exception(
                watch.exception() or DisconnectedError("the caller has disconnected")
            )

    watch = asyncio.get_running_loop().create_task(disconnected())
    watch.add_done_callback(end)
    try:
        yield
    finally:
        watch.cancel()
