"""IntegreSQL's routes, so that its clients work unchanged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.routing import Route

from clonedb.service.contract import DiscardedError
from clonedb.service.http.disconnects import acquire
from clonedb.service.http.replies import empty, reply, told
from clonedb.service.http.requests import fields, holder

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from clonedb.service.contract import Address, Cloning
    from clonedb.service.http.metrics import Metrics

__all__ = ["integresql_routes"]

_WAIT = 60.0  # seconds that a GET waits for a template or a free database, as the original's
_LONGEST_ID = 18  # digits


def integresql_routes(service: Cloning, metrics: Metrics) -> list[Route]:
    """The eight routes, below `/api/v1` and at the root."""
    handlers = _Handlers(service, metrics)
    found: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("POST", "/templates", handlers.initialize),
        ("PUT", "/templates/{hash:path}", handlers.finalize),
        ("DELETE", "/templates/{hash:path}/tests/{id}", handlers.give_back),
        ("DELETE", "/templates/{hash:path}", handlers.discard),
        ("GET", "/templates/{hash:path}/tests", handlers.acquire),
        ("POST", "/templates/{hash:path}/tests/{id}/unlock", handlers.give_back),
        ("POST", "/templates/{hash:path}/tests/{id}/recreate", handlers.give_back),
        ("DELETE", "/admin/templates", handlers.discard_all),
    ]
    return [
        Route(root + path, handler, methods=[method])
        for root in ("/api/v1", "")
        for method, path, handler in found
    ]


class _Handlers:
    def __init__(self, service: Cloning, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics

    async def initialize(self, request: Request) -> Response:
        hash_ = (await fields(request)).get("hash")
        if not isinstance(hash_, str) or not hash_:
            return told(400, "hash is required")
        address = await self._service.initialize(hash_, holder(request))
        return reply({"database": _database(hash_, address)})

    async def finalize(self, request: Request) -> Response:
        # the Python client 0.9.2 finalizes also what it was refused; it sends what `requests` calls itself
        agent = request.headers.get("user-agent", "")
        await self._service.finalize(
            _hash(request), doubtful=agent.startswith("python-requests/")
        )
        return empty()

    async def discard(self, request: Request) -> Response:
        await self._service.discard(_hash(request))
        return empty()

    async def discard_all(self, _request: Request) -> Response:
        await self._service.discard_all()
        return empty()

    async def acquire(self, request: Request) -> Response:
        hash_ = _hash(request)
        try:
            lease = await self._metrics.counted(
                acquire(self._service, request, hash_, holder(request), wait=_WAIT)
            )
        except DiscardedError:
            return told(410, "template was just discarded")
        return reply({"database": _database(hash_, lease.address), "id": lease.id})

    async def give_back(self, request: Request) -> Response:
        """Unlock and recreate are one: what was written is undone, whatever the caller says."""
        id_ = unquote(request.path_params["id"])
        if not (id_.isascii() and id_.isdecimal() and len(id_) <= _LONGEST_ID):
            return told(400, "invalid test database ID")
        await self._service.give_back(_hash(request), int(id_))
        return empty()


def _hash(request: Request) -> str:
    return unquote(request.path_params["hash"])


def _database(hash_: str, address: Address) -> dict[str, Any]:
    return {
        "templateHash": hash_,
        "config": {
            "host": address.host,
            "port": address.port,
            "username": address.username,
            "password": address.password,
            "database": address.database,
        },
    }
