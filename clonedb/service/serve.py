"""`clonedb serve`: the application on a socket, until a signal stops it."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from clonedb.errors import ConfigError, ServerError
from clonedb.service.cloning import Service, Sizes
from clonedb.service.http.application import make_application
from clonedb.service.http.guard import is_loopback

if TYPE_CHECKING:
    from clonedb.settings.config import Config

__all__ = ["HttpProtocol", "LogFormat", "read_token", "serve"]

LogFormat = Literal["lines", "json"]

_SHORTEST = 16  # characters of a token
_HEADERS = 10.0  # seconds in which a request's headers have to be there
_REQUEST = 1024 * 1024  # bytes of a request, headers and all
# its name is as long as the one that replaces it
_HTTP_2 = re.compile(rb"\r\nupgrade:(?=[ \t]*h2c[ \t]*\r\n)", re.IGNORECASE)
_UNREAD = 30.0  # seconds that a client may leave what is sent to it unread
_IDLE = 30  # seconds for which a client's connection stays open without a request
_STOP = 20  # seconds that stopping waits for replies
_BACKLOG = 2048


def read_token(file: Path) -> str:
    """The token that a file holds. Raises ConfigError: it cannot be read, or it is easily guessed."""
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"the token file {str(file)!r} cannot be read: {why}") from error
    if len(token) < _SHORTEST or not token.isascii() or len(token.split()) != 1:
        raise ConfigError(
            f"the token file {str(file)!r} has to hold one word of {_SHORTEST} ASCII characters or more: make one"
            f" with `openssl rand -hex 32`"
        )
    return token


def serve(
    config: Config,
    *,
    host: str,
    port: int,
    token: str | None,
    sizes: Sizes | None = None,
    log_format: LogFormat = "lines",
) -> None:
    """Serve until SIGTERM or SIGINT; leases stay. A port of 0 is a free one, which the first line tells.

    Raises ConfigError: another address than loopback without a token; ServerError: the address
    cannot be used, or PostgreSQL cannot.
    """
    if token is None and not is_loopback(host):
        raise ConfigError(
            f"host {host!r} can be reached from other machines: give a token (--token-file FILE), or use 127.0.0.1"
        )
    _log_to_stderr(log_format)
    with (
        _listen(host, port) as listening,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(Service(config, sizes=sizes), listening, token))


async def _serve(service: Service, listening: socket.socket, token: str | None) -> None:
    stopping = asyncio.Event()
    settings = uvicorn.Config(
        make_application(service, token=token, stopping=stopping),
        http=HttpProtocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_IDLE,
        timeout_graceful_shutdown=_STOP,
    )
    await service.start()
    serving = asyncio.create_task(
        _Server(settings, stopping, _place(listening)).serve([listening])
    )
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([serving, stop], return_when="FIRST_COMPLETED")
    finally:
        # those who wait for a database are told before the ends of their replies are waited for
        await service.close()

    await serving


class _Server(uvicorn.Server):
    """Says where it listens once it is ready, and ends the streams before it waits for replies."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event, place: str) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._place = place

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            logging.getLogger("clonedb.service").info("listening on %s", self._place)

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._stopping.set()
        super().handle_exit(sig, frame)
        # it ends as a command that was told to, and not by the signal that uvicorn raises again
        self._captured_signals.clear()


class HttpProtocol(HttpToolsProtocol):
    """HTTP whose clients have to say within some seconds, and in not too many words, what they want.

    One that does not read what is sent to it, a stream of events for example, is cut off: the
    task that answers it would wait for good.

    The offer of HTTP/2 with which Java's own client begins is not seen: the parser would leave
    out the body of a request that asks for another protocol.
    """

    _late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _size: int | None = None  # bytes of the request that is coming

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._late = self.loop.call_later(_HEADERS, transport.close)

    def data_received(self, data: bytes) -> None:
        """It says something."""
        if self._late is None and not self._is_answering():
            self._late = self.loop.call_later(_HEADERS, self.transport.close)
        if b"h2c" in data:
            data = _HTTP_2.sub(b"\r\nx-other:", data)
        super().data_received(data)
        if self._size is not None:
            self._size += len(data)
            if self._size > _REQUEST:
                self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._size = 0
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """It is there."""
        self._size = None
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        """It has said what it wants."""
        self._has_said()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._has_said()
        self._has_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """It does not read: 64 kB are left, beside what the kernel keeps for it."""
        # `close` would wait until all of it is read
        self._unread = self.loop.call_later(_UNREAD, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        """It reads again."""
        self._has_read()
        super().resume_writing()

    def _is_answering(self) -> bool:
        # None before the first request, whatever its annotation says
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _has_said(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _has_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ServerError: the address is in use, or none of this machine."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        made = socket.socket(*found[0][:2])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(found[0][4])
        made.listen(_BACKLOG)
    except OSError as error:
        advice = (
            "; another program listens there: stop it, or give another --port"
            if error.errno == errno.EADDRINUSE
            else ""
        )
        raise ServerError(
            f"cannot listen on {host}:{port}: {error.strerror}{advice}"
        ) from error
    return made


def _place(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Lines(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said)


def _log_to_stderr(log_format: LogFormat) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Lines())
    for name in ("clonedb", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == "clonedb" else logging.WARNING)
