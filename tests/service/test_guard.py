"""Who gets in, and what a request may hold."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping

import pytest

from clonedb.service import serve
from clonedb.service.http import guard
from tests.service.site import Site
from tests.service.stories import WAIT

WHOLE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Host": "evil.example"}, "answers to localhost and 127.0.0.1 alone"),
        ({"Host": "127.0.0.1.evil.example:5000"}, "answers to localhost"),
        ({"Host": "localhost.evil.example"}, "answers to localhost"),
        ({"Host": "10.0.0.7"}, "answers to localhost"),
        ({"Origin": "http://evil.example"}, "another site"),
        ({"Origin": "null"}, "another site"),
        ({"Origin": "http://["}, "another site"),
        ({"Origin": "http://localhost:3000", "Host": "localhost:5000"}, "another site"),
        ({"Referer": "http://evil.example/page"}, "another site"),
        ({"Referer": "http://localhost:3000/", "Host": "localhost:5000"}, "another site"),
        (
            {"Referer": "http://[", "Origin": "http://localhost", "Host": "localhost"},
            "another site",
        ),
        ({"Sec-Fetch-Site": "cross-site"}, "another site"),
        ({"Sec-Fetch-Site": "same-site"}, "another site"),
    ],
)
def test_pages_of_other_sites(common_site: Site, headers: Mapping[str, str], said: str) -> None:
    """A browser that one of them makes ask is refused, whatever it asks for: also a GET hands out a database."""
    for method, path in (
        ("DELETE", "/admin/templates"),
        ("GET", "/templates/a/tests"),
        ("GET", "/"),
    ):
        answer = common_site.ask(method, path, headers=headers)
        assert answer.status == 403
        assert said in answer.json["message"]


@pytest.mark.parametrize(
    "host", ["localhost:5000", "127.0.0.1", "[::1]:5000", "app.localhost", "127.8.8.8"]
)
def test_names_of_this_machine(common_site: Site, host: str) -> None:
    """They are answered."""
    assert common_site.ask("GET", "/healthz", headers={"Host": host}).status == 200


@pytest.mark.parametrize("referer", ["http://localhost:5000/page?of=ours", ""])
def test_pages_of_this_site(common_site: Site, referer: str) -> None:
    """They are answered, and so is a client that hides where it comes from."""
    headers = {"Host": "localhost:5000", "Referer": referer}
    assert common_site.ask("GET", "/v1/leases", headers=headers).status == 200


def test_bodies_that_are_too_long(common_site: Site) -> None:
    """They are refused before they are read, by their length, or where they exceed it."""
    assert common_site.ask("POST", "/templates", b"x" * 70_000).status == 413
    assert common_site.ask("POST", "/templates", None, {"Content-Length": "-5"}).status in (
        400,
        413,
    )
    with raw(common_site) as client:
        client.sendall(
            b"POST /templates HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        with contextlib.suppress(OSError):  # it hangs up while more is sent
            for _ in range(200):
                client.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
        assert b"413" in received(client)


def test_headers_without_end(common_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that goes on with them, at its first request and after an answer, is hung up on, and none are kept."""
    monkeypatch.setattr(serve, "_HEADERS", WAIT * 10)
    for before in (b"", WHOLE):
        begun = before + b"GET / HTTP/1.1\r\nHost: localhost\r\n"
        more = b"X-More: " + b"x" * 10_000 + b"\r\n"
        with raw(common_site) as client, pytest.raises(ConnectionError):
            client.sendall(begun + more * 10_000)
        assert common_site.ask("GET", "/healthz").status == 200


def test_bodies_that_do_not_come(common_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that says nothing more is answered in a while, and others meanwhile."""
    monkeypatch.setattr(guard, "_BODY_TIME", 0.3)
    with raw(common_site) as client:
        client.sendall(
            b"POST /templates HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n{"
        )
        assert common_site.ask("GET", "/healthz").status == 200
        assert b"the body was not there within 0.3 s" in received(client)


@pytest.mark.parametrize(
    ("before", "begun"),
    [
        (b"", b""),
        (b"", b"GET / HT"),
        (WHOLE, b"GET / HT"),
        (WHOLE, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "),
    ],
)
def test_headers_that_do_not_come(
    common_site: Site, monkeypatch: pytest.MonkeyPatch, before: bytes, begun: bytes
) -> None:
    """A client that takes its time is hung up on, at its first request and after an answer; so is a silent one."""
    monkeypatch.setattr(serve, "_HEADERS", 0.3)
    with raw(common_site) as client:
        client.sendall(before)
        while before and b'"ok"' not in client.recv(65536):
            pass
        client.sendall(begun)
        assert received(client) == b""


def test_a_failure_shows_nothing(common_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """No trace of the program's lines in a reply."""
    monkeypatch.setattr(common_site.service, "templates", lambda: 1 / 0)
    answer = common_site.ask("GET", "/v1/templates")
    assert answer.status == 500
    assert answer.json == {"message": "this failed; the log of the service says how"}


@contextlib.contextmanager
def raw(site: Site) -> Iterator[socket.socket]:
    """A connection for what no client library sends."""
    with socket.create_connection(("127.0.0.1", site.port), 30) as client:
        yield client


def received(client: socket.socket) -> bytes:
    """All that comes until the service hangs up, as it does after a refusal."""
    found = b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            part = client.recv(65536)
        except ConnectionError:
            break
        found += part
        if not part:
            break
    return found
