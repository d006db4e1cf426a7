"""The service over HTTP, in a thread of the test's process with a loop of its own."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple, Self, TypeVar

import uvicorn

from clonedb.service.cloning import Service, Sizes
from clonedb.service.http.application import make_application
from clonedb.service.serve import HttpProtocol
from clonedb.settings.config import Config
from tests.embedded.sandbox import wait_until
from tests.service.stories import WAIT

__all__ = ["Answer", "Site"]

T = TypeVar("T")


class Answer(NamedTuple):
    """A reply: its status, what came with it, and its headers by their names in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


class Site:
    """The service and its routes, on a port of its own."""

    def __init__(
        self,
        config: Config,
        *,
        token: str | None = None,
        maximum: int = 20,
        lease_timeout: float = 60.0,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self.service = Service(config, sizes=Sizes(1, maximum), lease_timeout=lease_timeout)
        application = make_application(self.service, token=token, stopping=self._stopping)
        self.routes = application.routes
        self._server = uvicorn.Server(
            uvicorn.Config(
                application, port=0, log_level="warning", lifespan="off", http=HttpProtocol
            )
        )
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=[self._serve()]
        )

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._server.started, WAIT)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._server.should_exit = True
        self._thread.join(WAIT)
        assert not self._thread.is_alive()
        self._loop.close()

    async def _serve(self) -> None:
        await self.service.start()
        await self._server.serve()
        await self.service.close()

    @property
    def port(self) -> int:
        """The one that it listens on."""
        (listening,) = self._server.servers[0].sockets
        port: int = listening.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Of the page."""
        return f"http://127.0.0.1:{self.port}/"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What comes of something that the service does."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The answer to a request; a body that is no text is sent as JSON."""
        given = dict(headers or {})
        if body is not None and not isinstance(body, (str, bytes)):
            body = json.dumps(body)
            given.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        try:
            connection.request(method, path, body, given)
            reply = connection.getresponse()
            found = {name.lower(): value for name, value in reply.getheaders()}
            return Answer(reply.status, reply.read(), found)
        finally:
            connection.close()
