"""Streams that follow what happens in the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clonedb.service.contract import Cloning

__all__ = ["following"]

_STILL = (
    15.0  # seconds after which a stream says that it is there, so that proxies keep it open
)


async def following(service: Cloning, stopping: asyncio.Event) -> AsyncGenerator[bool]:
    """True at once and whenever something has changed, False when nothing has for a while; ends with the service."""
    changes = aiter(service.changes())
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


async def _next(changes: AsyncIterator[None]) -> None:
    await anext(changes, None)
