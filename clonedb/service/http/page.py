"""The page of the service: three tables that follow what happens, and what can be done about a lease."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import shlex
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from clonedb.quantities import size
from clonedb.service.contract import NoSuchDatabaseError, UnavailableError
from clonedb.service.http.following import EventStream, following
from clonedb.service.http.versioned import url_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from clonedb.service.contract import Cloning

__all__ = ["HEADERS", "login_form", "page_routes"]

HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": (
            "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:;"
            " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        ),
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
)
"""Of every reply: nothing from elsewhere is loaded, and no other page may hold this one in a frame."""

_ASSETS = Path(__file__).parent / "assets"
_KINDS: Mapping[str, str] = MappingProxyType(
    {"style.css": "text/css", "page.js": "text/javascript"}
)
_MOST = 200  # rows of leases and of events that are shown
_SHOWN = 24  # characters of a hash


def page_routes(service: Cloning, stopping: asyncio.Event) -> list[Route]:
    """`/` and what it needs below `/page/`; open streams end when the service is `stopping`."""
    page = _Page(service, stopping)
    return [
        Route("/", page.whole, methods=["GET"]),
        Route("/page/stream", page.stream, methods=["GET"]),
        Route("/page/{name}", _asset, methods=["GET"]),
        Route("/page/psql", page.psql, methods=["POST"]),
        Route("/page/keep", page.keep, methods=["POST"]),
        Route("/page/drop", page.drop, methods=["POST"]),
    ]


def login_form(told: str = "") -> Response:
    """The form that asks for the token; `told` is why it is shown again."""
    text = _environment().get_template("login.html").render(told=told)
    return Response(text, 401, {**HEADERS, "WWW-Authenticate": "Bearer"}, "text/html")


async def _asset(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _KINDS:
        return PlainTextResponse("Not Found", 404)
    return Response((_ASSETS / name).read_bytes(), 200, HEADERS, _KINDS[name])


class _Page:
    def __init__(self, service: Cloning, stopping: asyncio.Event) -> None:
        self._service = service
        self._stopping = stopping
        self._templates = _environment()

    async def whole(self, _request: Request) -> Response:
        text = self._templates.get_template("page.html").render(self._rows())
        return Response(text, 200, HEADERS, "text/html")

    async def stream(self, _request: Request) -> Response:
        """The tables as they are, and again whenever something has changed."""
        return EventStream(self._pictures(), HEADERS)

    async def psql(self, request: Request) -> Response:
        """The line to look into a lease's database, with its password."""
        name = await _lease(request)
        for lease in self._service.leases():
            if lease.lease == name:
                return PlainTextResponse(
                    f"psql {shlex.quote(url_of(lease.address))}", headers=HEADERS
                )
        return PlainTextResponse("that lease has ended", 404, HEADERS)

    async def keep(self, request: Request) -> Response:
        return await _done(self._service.keep, await _lease(request))

    async def drop(self, request: Request) -> Response:
        return await _done(self._service.drop, await _lease(request))

    async def _pictures(self) -> AsyncGenerator[str]:
        shown = ""
        async with contextlib.aclosing(following(self._service, self._stopping)) as pictures:
            async for _ in pictures:
                text = self._templates.get_template("tables.html").render(self._rows())
                lines = "".join(f"data: {line}\n" for line in text.splitlines())
                yield (
                    f"event: tables\n{lines}\n"
                    if text != shown
                    else ": nothing has changed\n\n"
                )
                shown = text

    def _rows(self) -> dict[str, Any]:
        return {
            "templates": self._service.templates(),
            "leases": self._service.leases(),
            "events": self._service.events(),
            "most": _MOST,
        }


async def _lease(request: Request) -> str:
    fields = dict(parse_qsl((await request.body()).decode(errors="replace")))
    return fields.get("lease", "")


async def _done(act: Callable[[str], Awaitable[object]], lease: str) -> Response:
    try:
        await act(lease)
    except NoSuchDatabaseError as error:
        return PlainTextResponse(str(error), 404, HEADERS)
    except UnavailableError as error:
        return PlainTextResponse(str(error), 503, HEADERS)
    return PlainTextResponse("", headers=HEADERS)


def _moment(at: dt.datetime | None) -> Markup:
    """A time; the page's script says how long ago it is."""
    if at is None:
        return Markup("")
    at = at.astimezone(dt.UTC)
    return Markup('<time datetime="{}">{:%H:%M:%S} UTC</time>').format(at.isoformat(), at)


def _directory(path: str) -> str:
    return Path(path).name


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _environment() -> Environment:
    environment = Environment(loader=FileSystemLoader(_ASSETS), autoescape=True)
    environment.filters |= {
        "directory": _directory,
        "moment": _moment,
        "shortened": _shortened,
        "size": size,
    }
    return environment
