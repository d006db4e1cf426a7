"""What the clients of Go, Java and .NET send, byte for byte, each run on one connection as their libraries do."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from clonedb.service.contract import Address
from tests.service.site import Answer, Site
from tests.service.stories import ITEMS, WAIT, run_sql

HASH = "1f3870be274f6c49b3e31a0c6728957f"


class Dialect(NamedTuple):
    """How a client writes its requests."""

    root: str
    sends: str  # the headers of each request
    posts: str  # those of one with a body
    chunked: bool = False  # the body's length is not said before it
    resets: bool = True  # it begins with DELETE /admin/templates
    recreates: str = ""  # what it has beside DELETE for a database that comes back
    says_empty: bool = False  # `Content-Length: 0` where there is no body


DIALECTS: Mapping[str, Dialect] = {
    "go": Dialect(
        "/api/v1",
        "User-Agent: Go-http-client/1.1\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\n",
        "Content-Type: application/json; charset=UTF-8\r\n",
    ),
    "java": Dialect(
        "/api/v1",
        "User-Agent: Java-http-client/21.0.5\r\nAccept: application/json\r\n",
        "Content-Type: application/json; charset=UTF-8\r\n",
        recreates="unlock",
        says_empty=True,
    ),
    # what Java's own HTTP client sends at first, unless it is told not to speak HTTP/2
    "java that would speak HTTP/2": Dialect(
        "/api/v1",
        "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
        "Upgrade: h2c\r\nUser-Agent: Java-http-client/21.0.5\r\nAccept: application/json\r\n",
        "Content-Type: application/json; charset=UTF-8\r\n",
        recreates="unlock",
        says_empty=True,
    ),
    ".net, entity framework": Dialect(
        "/api/v1",
        "",
        "Content-Type: application/json; charset=utf-8\r\n",
        chunked=True,
        resets=False,
        recreates="recreate",
        says_empty=True,
    ),
    ".net, toxon": Dialect(
        "", "", "Content-Type: application/json; charset=utf-8\r\n", resets=False
    ),
}


class Wire:
    """One connection, which stays open from request to request."""

    def __init__(self, port: int, dialect: Dialect) -> None:
        self._port = port
        self._dialect = dialect
        self._socket = socket.create_connection(("127.0.0.1", port), WAIT)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def ask(self, method: str, path: str, body: str = "") -> Answer:
        """The answer to a request as the client writes it."""
        text, ours = body.encode(), self._dialect
        more = ours.posts if body else ""
        if body and ours.chunked:
            more += "Transfer-Encoding: chunked\r\n"
            text = b"%x\r\n%b\r\n0\r\n\r\n" % (len(text), text)
        elif body or (ours.says_empty and method in ("POST", "PUT")):
            more += f"Content-Length: {len(text)}\r\n"
        head = f"{method} {ours.root}{path} HTTP/1.1\r\nHost: localhost:{self._port}\r\n{ours.sends}{more}\r\n"
        self._socket.sendall(head.encode() + text)
        reply = http.client.HTTPResponse(self._socket, method=method)
        reply.begin()
        headers = {name.lower(): value for name, value in reply.getheaders()}
        return Answer(reply.status, reply.read(), headers)


@pytest.fixture(params=[*DIALECTS])
def dialect(request: pytest.FixtureRequest) -> Dialect:
    """Each client's."""
    return DIALECTS[request.param]


@pytest.fixture
def wire(site: Site, dialect: Dialect) -> Iterator[Wire]:
    """A connection of the client that builds."""
    made = Wire(site.port, dialect)
    yield made
    made.close()


def of(answer: Answer) -> Address:
    """Where the database of a reply is."""
    config: dict[str, Any] = answer.json["database"]["config"]
    return Address(**config)


def test_a_run_of_the_client(site: Site, wire: Wire, dialect: Dialect) -> None:
    """It builds, another process is told that it need not, databases come and go, and all of it is discarded."""
    if dialect.resets:
        assert wire.ask("DELETE", "/admin/templates").status == 204
    begun = wire.ask("POST", "/templates", f'{{"hash":"{HASH}"}}')
    assert begun.status == 200
    second = Wire(site.port, dialect)
    refused = second.ask("POST", "/templates", f'{{"hash":"{HASH}"}}')
    assert (refused.status, refused.body) == (423, b"{}\n")
    run_sql(of(begun), *ITEMS)
    finalized = wire.ask("PUT", f"/templates/{HASH}")
    assert (finalized.status, finalized.body) == (204, b"")

    mine, other = (
        wire.ask("GET", f"/templates/{HASH}/tests"),
        second.ask("GET", f"/templates/{HASH}/tests"),
    )
    assert (mine.status, other.status) == (200, 200)
    assert mine.json["id"] != other.json["id"]
    assert mine.json["database"]["templateHash"] == HASH
    back = [("DELETE", "")]
    if dialect.recreates:
        back.append(("POST", f"/{dialect.recreates}"))
    for method, path in back:
        run_sql(of(mine), "delete from item")
        returned = wire.ask(method, f"/templates/{HASH}/tests/{mine.json['id']}{path}")
        assert (returned.status, returned.body) == (204, b"")
        mine = wire.ask("GET", f"/templates/{HASH}/tests")
        assert run_sql(of(mine), "select count(*) from item") == [(2,)]

    assert wire.ask("DELETE", f"/templates/{HASH}").status == 204
    gone = second.ask("GET", f"/templates/{HASH}/tests")
    assert (gone.status, gone.body) == (404, b'{"message":"template not found"}\n')
    second.close()
    # the same hash again, at once
    assert wire.ask("POST", "/templates", f'{{"hash":"{HASH}"}}').status == 200
