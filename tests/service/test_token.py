"""The service with a token: who shows it, and who does not."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import pytest

from tests.service.site import Site

TOKEN_OF_ALL = "0123456789abcdef0123"


def basic(password: str) -> str:
    """What a client sends for `http://clonedb:password@host`."""
    return f"Basic {base64.b64encode(f'clonedb:{password}'.encode()).decode()}"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN_OF_ALL}x"},
        {"Authorization": f"Digest {TOKEN_OF_ALL}"},
        {"Authorization": "Basic ???"},
        {"Authorization": "Basic YQ"},
        {"Authorization": basic("wrong")},
        {"Cookie": f"clonedb={TOKEN_OF_ALL}"},
        {"Cookie": 'clonedb=; a=b c; "='},
    ],
)
def test_without_the_token(common_site: Site, headers: Mapping[str, str]) -> None:
    """Every route but the one for health says that it is needed, also those that do not exist; no reply shows it."""
    for method, path in (
        ("POST", "/api/v1/templates"),
        ("GET", "/templates/a/tests"),
        ("DELETE", "/admin/templates"),
        ("GET", "/v1/leases"),
        ("GET", "/metrics"),
        ("GET", "/readyz"),
        ("POST", "/page/drop"),
        ("GET", "/page/stream"),
        ("GET", "/nothing"),
    ):
        answer = common_site.ask(method, path, headers=headers)
        assert answer.status == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
        assert TOKEN_OF_ALL.encode() not in answer.body
    assert common_site.ask("GET", "/healthz", headers=headers).status == 200


def test_with_the_token(common_site: Site) -> None:
    """As a header, as the password of a URL, and in a browser by a form; then every route answers."""
    for shown in (f"Bearer {TOKEN_OF_ALL}", f"bearer {TOKEN_OF_ALL}", basic(TOKEN_OF_ALL)):
        assert (
            common_site.ask("GET", "/v1/leases", headers={"Authorization": shown}).status == 200
        )
    assert b'name="token"' in common_site.ask("GET", "/").body
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    refused = common_site.ask("POST", "/login", "token=wrong", form)
    assert (refused.status, b"that is not the token" in refused.body) == (401, True)
    let_in = common_site.ask("POST", "/login", f"token={TOKEN_OF_ALL}", form)
    assert (let_in.status, let_in.headers["location"]) == (303, "/")
    cookie = let_in.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN_OF_ALL not in cookie
    page = common_site.ask("GET", "/", headers={"Cookie": cookie.partition(";")[0]})
    assert b"Templates" in page.body
