"""Clients that disconnect while they wait for a database: what was lent to them comes back."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING

from clonedb.service.contract import DisconnectedError, NoSuchDatabaseError

if TYPE_CHECKING:
    from starlette.requests import Request

    from clonedb.service.contract import Cloning, Lease

__all__ = ["acquire"]

# seconds within which a lease is replied to as a client can hardly have gone: to ask for that
# costs a sixth of such a reply
_QUICK = 0.01


async def acquire(
    service: Cloning,
    request: Request,
    hash_: str,
    holder: str,
    *,
    wait: float,
    project: str | None = None,
) -> Lease:
    """As `Cloning.acquire`, for the client of a request, whose body has been read.

    No task is cancelled for it: a wait in the queue ends by an error, and a lease that was
    written down is released. Raises DisconnectedError when the client has gone.
    """
    loop = asyncio.get_running_loop()
    begun = loop.time()
    lease = await service.acquire(
        hash_, holder, wait=wait, project=project, disconnected=partial(_disconnected, request)
    )
    if loop.time() - begun > _QUICK and await request.is_disconnected():
        with contextlib.suppress(NoSuchDatabaseError):  # its template was discarded, or so
            await service.release(lease.lease)
        raise DisconnectedError(f"{holder} has disconnected")
    return lease


async def _disconnected(request: Request) -> None:
    """Return when the client of a request has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
