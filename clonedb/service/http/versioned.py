"""`/v1`: what IntegreSQL's protocol has no words for. `openapi.json` beside this file describes it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.responses import Response
from starlette.routing import Route

from clonedb.service.contract import NoSuchDatabaseError
from clonedb.service.http.disconnects import acquire
from clonedb.service.http.following import EventStream, following
from clonedb.service.http.replies import empty, reply
from clonedb.service.http.requests import BadRequestError, fields, holder
from clonedb.url import DatabaseURL

if TYPE_CHECKING:
    import datetime as dt

    from starlette.requests import Request

    from clonedb.service.contract import Address, Cloning, Event, Lease, TemplateState
    from clonedb.service.http.metrics import Metrics

__all__ = ["url_of", "versioned_routes"]

_OPENAPI = Path(__file__).parent / "assets" / "openapi.json"
_WAIT, _LONGEST_WAIT = 60.0, 3600.0  # seconds


def versioned_routes(
    service: Cloning, metrics: Metrics, stopping: asyncio.Event
) -> list[Route]:
    """All below `/v1`; open streams end when the service is `stopping`."""
    handlers = _Handlers(service, metrics, stopping)
    return [
        Route("/v1/openapi.json", _openapi, methods=["GET"]),
        Route("/v1/leases", handlers.acquire, methods=["POST"]),
        Route("/v1/leases", handlers.leases, methods=["GET"]),
        Route("/v1/leases/{lease}", handlers.lease, methods=["GET"]),
        Route("/v1/leases/{lease}", handlers.release, methods=["DELETE"]),
        Route("/v1/leases/{lease}/renew", handlers.renew, methods=["POST"]),
        Route("/v1/leases/{lease}/keep", handlers.keep, methods=["POST"]),
        Route("/v1/leases/{lease}/database", handlers.drop, methods=["DELETE"]),
        Route("/v1/templates", handlers.templates, methods=["GET"]),
        Route("/v1/events", handlers.events, methods=["GET"]),
    ]


def url_of(address: Address) -> str:
    """`postgresql://user:password@host:port/database`."""
    url = DatabaseURL.parse(f"postgresql://{address.host}:{address.port}/")
    return url.replace(
        user=address.username, password=address.password, database=address.database
    ).render()


async def _openapi(_request: Request) -> Response:
    return Response(_OPENAPI.read_bytes(), media_type="application/json")


class _Handlers:
    def __init__(self, service: Cloning, metrics: Metrics, stopping: asyncio.Event) -> None:
        self._service = service
        self._metrics = metrics
        self._stopping = stopping

    async def acquire(self, request: Request) -> Response:
        """A database of a template that a caller filled (`hash`) or of a project of this host (`project`)."""
        given = await fields(request)
        hash_, project = _text(given, "hash"), _text(given, "project")
        if (hash_ is None) == (project is None):
            raise BadRequestError(
                "give either hash or project (a directory of the service's host)"
            )

        if project is not None and not Path(project).is_absolute():
            raise BadRequestError(f"project is {project!r}, which is no absolute path")
        lease = await self._metrics.counted(
            acquire(
                self._service,
                request,
                hash_ or "",
                _text(given, "holder") or holder(request),
                wait=_wait(given),
                project=project,
            )
        )
        return reply(_lease(lease), 201)

    async def leases(self, _request: Request) -> Response:
        # whoever may see the list does not get everybody's passwords and names with it
        return reply({"leases": [_listed(one) for one in self._service.leases()]})

    async def lease(self, request: Request) -> Response:
        name = _name(request)
        for one in self._service.leases():
            if one.lease == name:
                return reply(_lease(one))
        raise NoSuchDatabaseError("that lease has ended")

    async def release(self, request: Request) -> Response:
        await self._service.release(_name(request))
        return empty()

    async def renew(self, request: Request) -> Response:
        return reply(_lease(await self._service.renew(_name(request))))

    async def keep(self, request: Request) -> Response:
        return reply(_lease(await self._service.keep(_name(request))))

    async def drop(self, request: Request) -> Response:
        await self._service.drop(_name(request))
        return empty()

    async def templates(self, _request: Request) -> Response:
        return reply({"templates": [_template(one) for one in self._service.templates()]})

    async def events(self, request: Request) -> Response:
        """The last events, or all that come, for a caller that accepts `text/event-stream`."""
        if "text/event-stream" in request.headers.get("accept", ""):
            return EventStream(self._stream())
        return reply({"events": [_event(one) for one in self._service.events()]})

    async def _stream(self) -> AsyncGenerator[str]:
        newest: Event | None = None
        async with contextlib.aclosing(following(self._service, self._stopping)) as pictures:
            async for changed in pictures:
                if not changed:
                    yield ": nothing has happened\n\n"
                for one in reversed(_until(newest, self._service.events())):
                    yield f"event: {one.kind}\ndata: {json.dumps(_event(one))}\n\n"
                    newest = one


def _name(request: Request) -> str:
    return unquote(request.path_params["lease"])


def _until(last: Event | None, events: Sequence[Event]) -> Sequence[Event]:
    """Those before the last one that is known."""
    return list(itertools.takewhile(lambda one: one is not last, events))


def _text(given: dict[str, Any], name: str) -> str | None:
    value = given.get(name)
    if value is None or (isinstance(value, str) and value):
        return value
    raise BadRequestError(f"{name} is {value!r}, which is no text")


def _wait(given: dict[str, Any]) -> float:
    value = given.get("wait", _WAIT)
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds <= _LONGEST_WAIT:
        raise BadRequestError(
            f"wait is {value!r}; it is a number of seconds from 0 to {_LONGEST_WAIT:g}"
        )
    return seconds


def _lease(lease: Lease) -> dict[str, Any]:
    return {
        "lease": lease.lease,
        **_listed(lease),
        "url": url_of(lease.address),
        "host": lease.address.host,
        "port": lease.address.port,
        "user": lease.address.username,
        "password": lease.address.password,
    }


def _listed(lease: Lease) -> dict[str, Any]:
    return {
        "id": lease.id,
        "database": lease.address.database,
        "template": lease.template,
        "holder": lease.holder,
        "since": _moment(lease.since),
        "expires": _moment(lease.expires),
        "seen": _moment(lease.seen),
        "kept": lease.kept,
    }


def _template(one: TemplateState) -> dict[str, Any]:
    return {
        "hash": one.hash,
        "state": one.state,
        "project": one.project,
        "heads": list(one.heads),
        "bytes": one.bytes,
        "built_by": one.built_by,
        "built": _moment(one.built),
        "used": _moment(one.used),
        "ready": one.ready,
        "leased": one.leased,
        "waiting": one.waiting,
    }


def _event(one: Event) -> dict[str, Any]:
    return {"at": _moment(one.at), "kind": one.kind, "template": one.template, "text": one.text}


def _moment(at: dt.datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds")
