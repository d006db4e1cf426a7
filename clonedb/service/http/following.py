"""Streams that follow what happens in the service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import TYPE_CHECKING

from starlette.responses import StreamingResponse

if TYPE_CHECKING:
    from starlette.types import Send

    from clonedb.service.contract import Cloning

__all__ = ["EventStream", "following"]

_STILL = (
    15.0  # seconds after which a stream says that it is there, so that proxies keep it open
)


class EventStream(StreamingResponse):
    """A stream of events, whose generator is closed when its client is gone, and not when it is collected."""

    def __init__(
        self, events: AsyncGenerator[str], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._events = events

    async def stream_response(self, send: Send) -> None:
        """Send the events. Called by Starlette."""
        async with contextlib.aclosing(self._events):
            await super().stream_response(send)


async def following(service: Cloning, stopping: asyncio.Event) -> AsyncGenerator[bool]:
    """True at once and whenever something has changed, False when nothing has for a while; ends with the service."""
    changes = service.changes()
    stop = asyncio.ensure_future(stopping.wait())
    change = asyncio.ensure_future(_next(changes))
    changed = True

    try:
        while not stop.done():
            yield changed
            await asyncio.wait([change, stop], timeout=_STILL, return_when="FIRST_COMPLETED")
            changed = change.done()
            if changed:
                change = asyncio.ensure_future(_next(changes))
    finally:
        stop.cancel()
        change.cancel()
        with contextlib.suppress(
            RuntimeError
        ):  # the task is in it, and its end is that of both
            await changes.aclose()


async def _next(changes: AsyncIterator[None]) -> None:
    await anext(changes, None)
