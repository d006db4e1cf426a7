"""`/v1`, the file that describes it, and the client for Python."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from starlette.routing import Route

from clonedb.client import Client, ServiceError
from clonedb.errors import ConfigError
from clonedb.settings.config import Config
from tests.projects import Project
from tests.service.site import Answer, Site
from tests.service.stories import filled

OPENAPI = Path(__file__).parents[2] / "clonedb" / "service" / "http" / "assets" / "openapi.json"
TOKEN = "0123456789abcdef0123"


def described() -> dict[str, Any]:
    """The file."""
    return cast("dict[str, Any]", json.loads(OPENAPI.read_text()))


def require_described(answer: Answer, method: str, path: str) -> None:
    """The status is one of the file's, and the body has what the file says, no more and no less."""
    file = described()
    reply = file["paths"][path][method.lower()]["responses"][str(answer.status)]
    if "content" not in reply:
        assert answer.body == b""
        return
    schema = reply["content"]["application/json"]["schema"]
    if "$ref" in schema:
        schema = file["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        assert set(answer.json) == set(schema["properties"])


def test_every_route_is_described(common_site: Site) -> None:
    """And every route that is described is there."""
    known = {
        (method, route.path.replace("{hash:path}", "{hash}"))
        for route in common_site.routes
        if isinstance(route, Route)
        for method in route.methods or ()
    }
    documented = {
        (method.upper(), path)
        for path, methods in described()["paths"].items()
        for method in methods
        if method != "parameters"
    }
    ours = {pair for pair in known if not pair[1].startswith(("/page", "/templates", "/admin"))}
    assert ours - {("GET", "/")} == documented
    # at the root, too
    assert {
        (m, p.removeprefix("/api/v1")) for m, p in documented if p.startswith("/api/v1")
    } <= known


def test_a_lease(site: Site) -> None:
    """Acquired, looked at, renewed, listed without its secrets, and released; each reply is as it is described."""
    site.run(filled(site.service))
    made = site.ask("POST", "/v1/leases", {"hash": "abc", "wait": 30, "holder": "me"})
    assert made.status == 201
    require_described(made, "POST", "/v1/leases")
    name = made.json["lease"]
    with psycopg.connect(made.json["url"]) as connection:
        assert connection.info.dbname == made.json["database"]
    for method, path in (("GET", ""), ("POST", "/renew")):
        answer = site.ask(method, f"/v1/leases/{name}{path}")
        assert answer.status == 200
        require_described(answer, method, f"/v1/leases/{{lease}}{path}")
        assert answer.json["lease"] == name
    listed = site.ask("GET", "/v1/leases")
    assert [one["holder"] for one in listed.json["leases"]] == ["me"]
    assert name.encode() not in listed.body
    assert made.json["password"].encode() not in listed.body
    assert set(listed.json["leases"][0]) == set(
        described()["components"]["schemas"]["Listed"]["properties"]
    )
    templates = site.ask("GET", "/v1/templates").json["templates"]
    assert set(templates[0]) == set(
        described()["components"]["schemas"]["TemplateState"]["properties"]
    )
    released = site.ask("DELETE", f"/v1/leases/{name}")
    require_described(released, "DELETE", "/v1/leases/{lease}")
    gone = site.ask("DELETE", f"/v1/leases/{name}")
    assert gone.status == 404
    require_described(gone, "DELETE", "/v1/leases/{lease}")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "give either hash or project"),
        ({"hash": "a", "project": "/b"}, "give either hash or project"),
        ({"project": "shop"}, "no absolute path"),
        ({"hash": 1}, "hash is 1, which is no text"),
        ({"hash": "abc", "wait": "long"}, "wait is 'long'"),
        ({"hash": "abc", "wait": -1}, "wait is -1"),
        ({"hash": "abc", "wait": 1e9}, "wait is 1000000000.0"),
        ({"hash": "abc", "wait": float("nan")}, "wait is nan"),
    ],
)
def test_what_cannot_be_asked_for(common_site: Site, body: Any, said: str) -> None:
    """400, with what is wrong."""
    answer = common_site.ask("POST", "/v1/leases", body)
    assert answer.status == 400
    assert said in answer.json["message"]


def test_a_time_limit(site: Site) -> None:
    """A template that is being filled is waited for as long as it was said, and then told of."""
    site.ask("POST", "/templates", {"hash": "abc"})
    answer = site.ask("POST", "/v1/leases", {"hash": "abc", "wait": 0.2})
    assert answer.status == 503
    assert "still being filled" in answer.json["message"]


def test_events_are_streamed(site: Site) -> None:
    """What has happened, and what happens, each once."""
    site.run(filled(site.service, "first"))
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    connection.request("GET", "/v1/events", headers={"Accept": "text/event-stream"})
    reply = connection.getresponse()
    assert reply.headers["content-type"].startswith("text/event-stream")
    seen = list(events(reply, "first"))
    site.run(filled(site.service, "second"))
    seen += events(reply, "second")
    reply.close()
    connection.close()
    assert [one["template"] for one in seen if one["kind"] == "built"] == ["first", "second"]
    listed = site.ask("GET", "/v1/events").json["events"]
    assert [one["template"] for one in listed if one["kind"] == "built"] == ["second", "first"]


def events(reply: http.client.HTTPResponse, last: str) -> Iterator[dict[str, Any]]:
    """Those of a stream, up to the one that tells of a template."""
    for line in reply:
        if line.startswith(b"data: "):
            found: dict[str, Any] = json.loads(line[6:])
            yield found
            if found["template"] == last:
                return


def test_the_client(site: Site) -> None:
    """A context gives a database and releases it; a kept one stays until it is dropped."""
    site.run(filled(site.service))
    client = Client(site.url)
    with client.lease(hash="abc", holder="a script") as lease:
        with psycopg.connect(lease.url) as connection:
            connection.execute("delete from item")
        assert client.renew(lease).expires >= lease.expires
    with pytest.raises(ServiceError, match="no database of that lease") as ended:
        client.release(lease)
    assert ended.value.status == 404
    again = client.acquire(hash="abc")
    with psycopg.connect(again.url) as connection:
        assert connection.execute("select count(*) from item").fetchone() == (2,)
    assert client.keep(again).database == again.database
    client.drop(again)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(again.url)


@pytest.mark.usefixtures("variables")
def test_the_client_asks_for_a_project(site: Site, shop: Project) -> None:
    """The database is of the template that pytest uses there; one that does not build says why."""
    client = Client(site.url)
    with (
        client.lease(project=str(shop.directory)) as lease,
        psycopg.connect(lease.url) as connection,
    ):
        assert connection.execute("select count(*) from item").fetchone() == (1,)
    with pytest.raises(ServiceError, match="nowhere") as refused:
        client.acquire(project="/nowhere")
    assert refused.value.status == 503


def test_the_clients_errors(service_config: Config) -> None:
    """A URL that is none, nobody who listens, another token, something else that answers."""
    with pytest.raises(ConfigError, match="it looks like 'http://"):
        Client("127.0.0.1:5000")
    with pytest.raises(ServiceError, match="check that `clonedb serve` runs there"):
        Client("http://127.0.0.1:1").acquire(hash="abc")
    with Site(service_config, token=TOKEN) as closed:
        with pytest.raises(ServiceError, match="a token is needed") as refused:
            Client(closed.url, "wrong").acquire(hash="abc")
        assert refused.value.status == 401
        with pytest.raises(ServiceError, match="template not found"):
            Client(closed.url, TOKEN).acquire(hash="abc")


def test_hostile_names_of_leases(common_site: Site) -> None:
    """They name no lease, and nothing else."""
    for name in ("..", "%2e%2e", "'; drop table x; --", "a" * 5000, "%00"):
        for path in ("", "/database"):
            answer = common_site.ask("DELETE", f"/v1/leases/{name}{path}".replace(" ", "%20"))
            assert answer.status in (404, 405), name
