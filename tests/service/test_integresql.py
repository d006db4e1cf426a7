"""IntegreSQL's routes: statuses, bodies and headers, as the clients of eight languages read them."""

from __future__ import annotations

import json
import re
import threading
from typing import Any
from urllib.parse import quote

import pytest

from clonedb.service import pool
from clonedb.service.contract import Address
from tests.service.site import Answer, Site
from tests.service.stories import ITEMS, WAIT, ready, run_sql

AGENT = {"User-Agent": "the tests"}
HASH = "1f3870be274f6c49b3e31a0c6728957f"


def address(answer: Answer) -> Address:
    """Where the database of a reply is."""
    config: dict[str, Any] = answer.json["database"]["config"]
    return Address(**config)


def fill(site: Site, hash_: str = HASH, root: str = "/api/v1") -> None:
    """A template, as a client makes it."""
    begun = site.ask("POST", f"{root}/templates", {"hash": hash_}, AGENT)
    assert begun.status == 200
    run_sql(address(begun), *ITEMS)
    assert (
        site.ask("PUT", f"{root}/templates/{quote(hash_, safe='')}", None, AGENT).status == 204
    )


@pytest.fixture(scope="module")
def known(common_site: Site) -> Site:
    """The service with one template, `known`."""
    fill(common_site, "known")
    return common_site


@pytest.mark.parametrize("root", ["/api/v1", ""])
def test_the_life_of_a_template(site: Site, monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    """Each route, its status and its body."""
    # however busy the machine is, a return waits until the database is there again
    monkeypatch.setattr(pool, "_SOON", WAIT)
    begun = site.ask("POST", f"{root}/templates", {"hash": HASH})
    assert begun.status == 200
    assert begun.headers["content-type"] == "application/json; charset=UTF-8"
    assert begun.body.endswith(b"}\n")
    assert set(begun.json) == {"database"}
    assert begun.json["database"]["templateHash"] == HASH
    config = begun.json["database"]["config"]
    assert set(config) == {"host", "port", "username", "password", "database"}
    assert isinstance(config["port"], int)
    again = site.ask("POST", f"{root}/templates", {"hash": HASH})
    assert (again.status, again.body) == (423, b"{}\n"), (
        "the Java client parses it before the status"
    )
    run_sql(address(begun), *ITEMS)
    for _ in range(2):
        finalized = site.ask("PUT", f"{root}/templates/{HASH}")
        assert (finalized.status, finalized.body) == (204, b"")
        assert "content-type" not in finalized.headers
    assert site.ask("POST", f"{root}/templates", {"hash": HASH}).status == 423
    # what is lent before that is made new once
    site.run(ready(site.service, HASH))
    got = site.ask("GET", f"{root}/templates/{HASH}/tests")
    assert (got.status, set(got.json)) == (200, {"database", "id"})
    assert isinstance(got.json["id"], int)
    assert run_sql(address(got), "select count(*) from item") == [(2,)]
    tests = f"{root}/templates/{HASH}/tests"
    for method, path in (("POST", "/unlock"), ("POST", "/recreate"), ("DELETE", "")):
        assert run_sql(address(got), "delete from item returning 1") == [(1,), (1,)]
        returned = site.ask(method, f"{tests}/{got.json['id']}{path}")
        assert (returned.status, returned.body) == (204, b"")
        got = site.ask("GET", tests)
        assert run_sql(address(got), "select count(*) from item") == [(2,)]
    discarded = site.ask("DELETE", f"{root}/templates/{HASH}")
    assert (discarded.status, discarded.body) == (204, b"")
    missing = site.ask("GET", tests)
    assert (missing.status, missing.json) == (404, {"message": "template not found"})
    assert site.ask("DELETE", f"{root}/admin/templates").status == 204


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("PUT", "/templates/nobody", 404, "template not found"),
        ("DELETE", "/templates/nobody", 404, "template not found"),
        ("GET", "/templates/nobody/tests", 404, "template not found"),
        ("POST", "/templates/nobody/tests/0/unlock", 404, "template not found"),
        ("POST", "/templates/known/tests/77/unlock", 404, "test database not found"),
        ("POST", "/templates/known/tests/77/recreate", 404, "test database not found"),
        ("DELETE", "/templates/known/tests/77", 404, "test database not found"),
        ("DELETE", "/templates/known/tests/-1", 400, "invalid test database ID"),
        ("POST", "/templates/known/tests/one/unlock", 400, "invalid test database ID"),
        ("POST", "/templates/known/tests/²/unlock", 400, "invalid test database ID"),
        (
            "POST",
            f"/templates/known/tests/{'9' * 5000}/unlock",
            400,
            "invalid test database ID",
        ),
        ("GET", "/nothing", 404, "Not Found"),
        ("PATCH", "/templates", 405, "Method Not Allowed"),
        ("GET", "/templates", 405, "Method Not Allowed"),
        ("HEAD", "/templates/known/tests", 405, ""),
    ],
)
def test_errors(known: Site, method: str, path: str, status: int, message: str) -> None:
    """Their statuses and their words."""
    answer = known.ask(method, f"/api/v1{quote(path)}")
    assert answer.status == status
    if message:
        assert (
            answer.body
            == json.dumps({"message": message}, separators=(",", ":")).encode() + b"\n"
        )


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("", "application/json", "hash is required"),
        ("{}", "application/json", "hash is required"),
        ('{"hash": ""}', "application/json", "hash is required"),
        ('{"hash": 7}', "application/json", "hash is required"),
        ("hash=", "application/x-www-form-urlencoded", "hash is required"),
        ("{", "application/json", "the body cannot be read"),
        ("[1]", "application/json", "the body is no JSON object"),
        ('{"hash": "\\ud800"}', "application/json", "the body cannot be read"),
        ("[" * 30_000, "application/json", "the body cannot be read"),
        (b'{"hash": "\xff"}', "application/json", "the body cannot be read"),
    ],
)
def test_bodies_that_say_nothing(common_site: Site, body: Any, kind: str, message: str) -> None:
    """They are 400, with what is missing."""
    answer = common_site.ask("POST", "/api/v1/templates", body, {"Content-Type": kind})
    assert answer.status == 400
    assert answer.json["message"].startswith(message)


def test_what_clients_send_besides(site: Site) -> None:
    """Forms, trailing slashes, ids of requests, a JSON type without a body, `null` where a body means nothing."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    begun = site.ask(
        "POST", "/api/v1/templates/", f"hash={HASH}", {**form, "X-Request-Id": "mine"}
    )
    assert begun.status == 200
    assert begun.headers["x-request-id"] == "mine"
    run_sql(address(begun), *ITEMS)
    null = {"Content-Type": "application/json"}
    assert site.ask("PUT", f"/api/v1/templates/{HASH}/", "null", null).status == 204
    got = site.ask("GET", f"/api/v1/templates/{HASH}/tests", "null", null)
    assert got.status == 200
    assert re.fullmatch(r"[0-9a-f]{32}", got.headers["x-request-id"])
    assert (
        site.ask("DELETE", f"/api/v1/templates/{HASH}/tests/{got.json['id']}", "null").status
        == 204
    )
    assert (
        site.ask(
            "POST", f"/api/v1/templates/{HASH}/tests/{got.json['id']}/unlock", None, null
        ).status
        == 404
    )


@pytest.mark.parametrize(
    "hash_",
    [
        "h" * 10_000,
        "'; drop database postgres; --",
        '"quoted"',
        "../../admin/templates",
        "a/b c?d#e%2F",
        "known/tests/0",
        "known/tests",
        "slash/",
        "nul\x00byte",
        "snow\u2603man",
    ],
    ids=[
        "long",
        "statement",
        "quoted",
        "path",
        "address",
        "database",
        "tests",
        "slash",
        "nul",
        "snowman",
    ],
)
def test_a_hash_is_data(common_site: Site, hash_: str) -> None:
    """Whatever is in it: it names a template, and nothing else."""
    begun = common_site.ask("POST", "/api/v1/templates", {"hash": hash_})
    assert begun.status == 200
    assert begun.json["database"]["templateHash"] == hash_
    run_sql(address(begun), *ITEMS)
    path = f"/api/v1/templates/{quote(hash_, safe='')}"
    assert common_site.ask("PUT", path).status == 204
    got = common_site.ask("GET", f"{path}/tests")
    assert got.status == 200
    assert got.json["database"]["templateHash"] == hash_
    assert len(address(got).database.encode()) < 64
    assert common_site.ask("DELETE", f"{path}/tests/{got.json['id']}").status == 204
    assert common_site.ask("DELETE", path).status == 204


def test_a_hash_that_looks_like_a_database(site: Site) -> None:
    """`known/tests/0` is the name of a template, and its DELETE gives nobody's database back."""
    fill(site, "known")
    number = site.ask("GET", "/templates/known/tests").json["id"]
    answer = site.ask("DELETE", f"/templates/{quote(f'known/tests/{number}', safe='')}")
    assert (answer.status, answer.json) == (404, {"message": "template not found"})
    assert site.ask("DELETE", f"/templates/known/tests/{number}").status == 204


def test_those_who_wait_for_a_discarded_template(site: Site) -> None:
    """Five GETs that block until it is finalized are told 410."""
    begun = site.ask("POST", "/api/v1/templates", {"hash": HASH})
    assert begun.status == 200
    answers: list[Answer] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(site.ask("GET", f"/api/v1/templates/{HASH}/tests"))
        )
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()

    async def waiting() -> int:
        return sum(one.waiting for one in site.service.templates())

    while site.run(waiting()) < 5:
        pass
    assert site.ask("DELETE", f"/api/v1/templates/{HASH}").status == 204
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} == {410}
    assert answers[0].json == {"message": "template was just discarded"}


def test_those_who_wait_for_the_end_of_a_build(site: Site) -> None:
    """A GET blocks until the template is finalized, and has its contents."""
    begun = site.ask("POST", "/api/v1/templates", {"hash": HASH})
    answers: list[Answer] = []
    thread = threading.Thread(
        target=lambda: answers.append(site.ask("GET", f"/api/v1/templates/{HASH}/tests"))
    )
    thread.start()
    run_sql(address(begun), *ITEMS)
    assert answers == []
    assert site.ask("PUT", f"/api/v1/templates/{HASH}").status == 204
    thread.join()
    assert run_sql(address(answers[0]), "select count(*) from item") == [(2,)]
