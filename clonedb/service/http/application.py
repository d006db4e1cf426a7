"""All routes of the service, as one ASGI application."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from clonedb.errors import CloneDBError
from clonedb.service.contract import UnavailableError
from clonedb.service.http.guard import Guard
from clonedb.service.http.integresql import integresql_routes
from clonedb.service.http.metrics import Metrics
from clonedb.service.http.page import page_routes
from clonedb.service.http.replies import error_reply, reply, told
from clonedb.service.http.requests import BadRequestError
from clonedb.service.http.versioned import versioned_routes

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from clonedb.service.contract import Cloning

__all__ = ["make_application"]

_LOG = logging.getLogger("clonedb.service")


def make_application(
    service: Cloning, *, token: str | None, stopping: asyncio.Event
) -> Starlette:
    """The service over HTTP, which the caller starts and closes; `stopping` ends the open streams."""
    metrics = Metrics(service)

    async def healthy(_request: Request) -> Response:
        return reply({"status": "ok"})

    async def ready(_request: Request) -> Response:
        await service.ping()
        return reply({"status": "ready"})

    async def measured(_request: Request) -> Response:
        return await metrics.reply()

    routes = [
        Route("/healthz", healthy, methods=["GET"]),
        Route("/readyz", ready, methods=["GET"]),
        Route("/metrics", measured, methods=["GET"]),
        *page_routes(service, stopping),
        *versioned_routes(service, metrics, stopping),
        *integresql_routes(service, metrics),
    ]
    for route in routes:
        # a HEAD would be answered by what a GET does, which may hand out a database
        route.methods = (route.methods or set()) - {"HEAD"}
    application = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={
            CloneDBError: _refused,
            HTTPException: _no_route,
            Exception: _failed,
        },
    )
    application.router.redirect_slashes = False
    return application


async def _refused(_request: Request, error: Exception) -> Response:
    if isinstance(error, BadRequestError):
        return told(400, str(error))
    if isinstance(error, UnavailableError):
        _LOG.warning("%s", error)
    return error_reply(error) if isinstance(error, CloneDBError) else told(500, "")


async def _no_route(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these
    return told(error.status_code, error.detail)


async def _failed(_request: Request, _error: Exception) -> Response:
    return told(500, "this failed; the log of the service says how")
