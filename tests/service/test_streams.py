"""Streams whose clients do not read them."""

from __future__ import annotations

import asyncio
import socket

import pytest

from clonedb.service import events, serve
from clonedb.service.cloning import Service
from tests.campaigns import VARIANT
from tests.service.site import Site
from tests.service.stories import until


@pytest.mark.parametrize("path", [b"/page/stream", pytest.param(b"/v1/events", marks=VARIANT)])
def test_a_client_that_never_reads(
    site: Site, monkeypatch: pytest.MonkeyPatch, path: bytes
) -> None:
    """Its task ends some seconds after nothing more can be sent to it; others are answered meanwhile."""
    monkeypatch.setattr(events, "_PAUSE", 0.0)
    monkeypatch.setattr(serve, "_UNREAD", 0.3)

    async def stream(service: Service, *, there: bool) -> None:
        """Wait until a stream is there or has ended, while as much happens as no socket keeps unread."""
        found = service._backend.events

        def looked() -> bool:
            for number in range(100):
                found.add("refused", "", f"{number} " + 1000 * "x")
            return bool(found._listeners) is there

        await until(looked, "the stream goes on" if not there else "there is no stream")

    async def answering() -> bool:
        return any("run_asgi" in repr(task) for task in asyncio.all_tasks())

    with socket.create_connection(("127.0.0.1", site.port)) as client:
        client.sendall(
            b"GET %b HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n" % path
        )
        site.run(stream(site.service, there=True))
        assert site.run(answering())
        site.run(stream(site.service, there=False))
        assert site.ask("GET", "/healthz").status == 200
        assert not site.run(answering())
