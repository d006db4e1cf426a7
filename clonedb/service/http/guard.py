"""Who gets in, and how much a request may hold: asked before any route sees it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from clonedb.service.http.page import login_form
from clonedb.service.http.replies import told

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard", "is_loopback"]

_BODY = 64 * 1024  # bytes of a body, which holds a hash
_PATH = 64 * 1024  # characters
_BODY_TIME = 10.0  # seconds in which a body has to be there
_ID = 200  # characters of a request's id that are sent back
_COOKIE = "clonedb"
_OPEN = frozenset({"/healthz", "/page/style.css"})

_Headers = Mapping[bytes, bytes]


class _TooMuchError(Exception):
    """A body that goes on above its limit, or takes too long."""


def is_loopback(host: str) -> bool:
    """Whether an address or name is of this machine alone."""
    host = host.strip("[]").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """An ASGI application around another one.

    With a `token`, who asks has to show it: as `Authorization: Bearer`, as the password of a
    URL (`http://clonedb:TOKEN@host:5000/api`, for clients that know no tokens), or, for the
    page, by a cookie that its form sets. Without one the service answers to its machine's own
    names alone, so that no web page reaches it by a name of its own that leads to loopback.
    Either way what a page of another site makes a browser ask for is refused. A browser of
    before 2023 tells of such a page by Referer alone, unless the page forbids it.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        headers: _Headers = dict(scope["headers"])
        reply = _Reply(send, _request_id(headers))
        # as it was sent: a slash of a hash, `%2F`, is none of the path
        path = scope["path"] = scope["raw_path"].decode().rstrip("/") or "/"
        size = headers.get(b"content-length", b"0")
        chunked = b"transfer-encoding" in headers
        if not size.isdigit() or int(size) > _BODY or len(path) > _PATH:
            await _refuse(
                scope, receive, reply, 413, f"the request is longer than {_BODY} bytes"
            )
            return
        if (why := self._foreign(headers)) is not None:
            await _refuse(scope, receive, reply, 403, why)
            return
        if self._token is not None and path not in _OPEN and not self._knows(headers):
            await self._ask_for_token(scope, path, _Body(receive), reply)
            return

        reply.closes = chunked and scope["method"] != "POST"
        try:
            await self._app(
                scope, _Body(receive) if chunked or size != b"0" else receive, reply
            )
        except _TooMuchError as error:
            if not reply.started:
                await _refuse(scope, receive, reply, 413, str(error))

    def _foreign(self, headers: _Headers) -> str | None:
        """Why a request comes from another site's page, or by a name that is not this service's."""
        if headers.get(b"sec-fetch-site", b"none") in (b"cross-site", b"same-site"):
            return "a page of another site asks for this"

        host = headers.get(b"host", b"").decode(errors="replace")
        # browsers of before 2023 send neither Sec-Fetch-Site nor, with a GET, an Origin
        for page in (headers.get(b"origin"), headers.get(b"referer") or None):
            if page is not None and _site(page.decode(errors="replace")) != host:
                return "a page of another site asks for this"
        if self._token is None and host and not is_loopback(_name(host)):
            return (
                f"the service has no token, and answers to localhost and 127.0.0.1 alone, not to {host[:100]!r}:"
                " start it with --token-file"
            )
        return None

    def _knows(self, headers: _Headers) -> bool:
        """Whether the headers show the token."""
        assert self._token is not None  # noqa: S101 - only then is it asked for
        kind, _, shown = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() == b"basic":
            try:
                shown = base64.b64decode(shown).partition(b":")[2]
            except binascii.Error:
                return False
        if kind.lower() in (b"bearer", b"basic"):
            return hmac.compare_digest(shown.strip(), self._token)

        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(headers.get(b"cookie", b"").decode(errors="replace"))
        except CookieError:
            return False
        given = cookies[_COOKIE].value if _COOKIE in cookies else ""
        return hmac.compare_digest(given.encode(), self._cookie().encode())

    def _cookie(self) -> str:
        """What a browser keeps: it proves the token, and does not tell it."""
        return hmac.new(self._token or b"", b"clonedb's page", hashlib.sha256).hexdigest()

    async def _ask_for_token(
        self, scope: Scope, path: str, receive: Receive, reply: _Reply
    ) -> None:
        if (scope["method"], path) == ("GET", "/"):
            await login_form()(scope, receive, reply)
        elif (scope["method"], path) == ("POST", "/login"):
            await self._log_in(scope, receive, reply)
        else:
            reply.more = {b"www-authenticate": b"Bearer"}
            await _refuse(
                scope, receive, reply, 401, "a token is needed: Authorization: Bearer TOKEN"
            )

    async def _log_in(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        try:
            body = await _whole(receive)
        except _TooMuchError as error:
            await _refuse(scope, receive, reply, 413, str(error))
            return
        given = dict(parse_qsl(body.decode(errors="replace"))).get("token", "").strip()
        if not hmac.compare_digest(given.encode(), self._token or b""):
            await login_form("that is not the token")(scope, receive, reply)
            return

        cookie = f"{_COOKIE}={self._cookie()}; Path=/; HttpOnly; SameSite=Strict"
        reply.more = {b"location": b"/", b"set-cookie": cookie.encode()}
        await _refuse(scope, receive, reply, 303, "see /")


class _Reply:
    """Sends a reply, with the request's id."""

    def __init__(self, send: Send, request_id: bytes) -> None:
        self.started = False
        self.closes = False
        self.more: dict[bytes, bytes] = {}
        self._send = send
        self._id = request_id

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = [
                *message.get("headers", ()),
                (b"x-request-id", self._id),
                *self.more.items(),
            ]
            if self.closes:
                headers.append((b"connection", b"close"))
            message["headers"] = headers
        await self._send(message)


class _Body:
    """Receives a body within its limits."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._size = 0
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()

        try:
            async with asyncio.timeout(_BODY_TIME):
                message = await self._receive()
        except TimeoutError:
            raise _TooMuchError(f"the body was not there within {_BODY_TIME:g} s") from None
        self._size += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._size > _BODY:
            raise _TooMuchError(f"the request is longer than {_BODY} bytes")
        return message


async def _whole(receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _refuse(scope: Scope, receive: Receive, reply: _Reply, status: int, why: str) -> None:
    reply.closes = status != 303  # what is left of a body is not read
    await told(status, why)(scope, receive, reply)


def _name(host: str) -> str:
    """The name of `name:port`, `[::1]:port`."""
    return (
        host[: host.index("]") + 1]
        if host.startswith("[") and "]" in host
        else host.partition(":")[0]
    )


def _site(origin: str) -> str | None:
    """The `name:port` of `http://name:port`."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _request_id(headers: _Headers) -> bytes:
    given = headers.get(b"x-request-id", b"")[:_ID]
    return given if given.isascii() and given.strip() else secrets.token_hex(16).encode()
