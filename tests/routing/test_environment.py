"""The environment variables that name the application's database: before, with and after a clone."""

from __future__ import annotations

import os

import pytest

from clonedb.postgres.address import NO_DATABASE, NO_DIRECTORY, NO_HOST
from clonedb.routing.environment import Environment, variables_in
from clonedb.url import DatabaseURL

CLONE = DatabaseURL.parse("postgresql+psycopg://us:p%40ss@127.0.0.1:5433/clone")
OTHER = CLONE.replace(database="other")


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "PGHOST",
        "PGPORT",
        "PGUSER",
        "PGPASSWORD",
        "PGDATABASE",
        "PGSERVICE",
        "PGHOSTADDR",
    ):
        # set first: only what was there is put back, and a test may leave it set
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("PGSERVICE", "shop")
    monkeypatch.setenv("PGDATABASE", "mine")
    monkeypatch.setenv("SHOP_URL", "before")


def environment(text: str) -> Environment:
    return Environment({"SHOP_URL": DatabaseURL.parse(text)}, {})


def test_route_names_variables_among_others() -> None:
    """A URL and "*" are no variables."""
    assert variables_in(["SHOP_URL", "postgresql://far/shop", "*"]) == ("SHOP_URL",)


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("postgresql://far/shop", "postgresql://us:p%40ss@127.0.0.1:5433/clone"),
        (
            "postgresql+asyncpg://me:x@far:1/shop?prepared_statement_cache_size=0&ssl=require",
            "postgresql+asyncpg://us:p%40ss@127.0.0.1:5433/clone?prepared_statement_cache_size=0",
        ),
        (
            "postgresql+psycopg2:///shop?host=/tmp&sslmode=verify-full&options=-c%20jit%3Doff",
            "postgresql+psycopg2://us:p%40ss@127.0.0.1:5433/clone?options=-c%20jit%3Doff",
        ),
    ],
)
def test_led_to_a_clone_and_back(was: str, becomes: str) -> None:
    """Driver and query stay those of the variable, and libpq's own variables lead there too."""
    led = environment(was)
    led.lead_to(CLONE)
    assert os.environ["SHOP_URL"] == becomes
    assert os.environ["PGDATABASE"] == "clone"
    assert (os.environ["PGHOST"], os.environ["PGPORT"]) == ("127.0.0.1", "5433")
    assert (os.environ["PGUSER"], os.environ["PGPASSWORD"]) == ("us", "p@ss")
    assert "PGSERVICE" not in os.environ
    led.leave()
    assert os.environ["SHOP_URL"] == "before"
    assert (os.environ["PGSERVICE"], os.environ["PGDATABASE"]) == ("shop", "mine")
    assert "PGHOST" not in os.environ
    assert "PGPASSWORD" not in os.environ


def test_the_clones_own_parameters() -> None:
    """How to reach the tests' server is the clone's to say, in the words that asyncpg's dialect knows."""
    url = CLONE.replace(query=(("sslmode", "require"), ("application_name", "tests")))
    led = environment("postgresql+asyncpg://far/shop?ssl=verify-full")
    led.lead_to(url)
    assert os.environ["SHOP_URL"].endswith("/clone?ssl=require")


def test_nested() -> None:
    """One clone above another, and the first again."""
    led = environment("postgresql://far/shop")
    led.lead_to(CLONE)
    led.lead_to(OTHER)
    assert os.environ["SHOP_URL"].endswith("/other")
    led.lead_to(CLONE)
    assert os.environ["PGDATABASE"] == "clone"
    led.leave()
    assert os.environ["SHOP_URL"] == "before"


def test_a_variable_that_a_longer_patch_put_back() -> None:
    """monkeypatch may end after the clone, and then puts back the URL of a clone that is no more."""
    led = environment("postgresql://far/shop")
    led.lead_to(CLONE)
    of_the_clone = os.environ["SHOP_URL"]
    led.leave()
    os.environ["SHOP_URL"] = of_the_clone
    led.lead_to(OTHER)
    led.leave()
    assert os.environ["SHOP_URL"] == "before"


def test_a_variable_that_changed_between_clones() -> None:
    """What the project's own fixtures set between tests is what comes back."""
    led = environment("postgresql://far/shop")
    led.lead_to(CLONE)
    led.leave()
    os.environ["SHOP_URL"] = "changed"
    led.lead_to(OTHER)
    led.leave()
    assert os.environ["SHOP_URL"] == "changed"


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("postgresql://far/shop", f"postgresql://{NO_HOST}/shop"),
        (
            "postgresql+asyncpg://me:x@far:1/shop?ssl=require",
            f"postgresql+asyncpg://me:none@{NO_HOST}:1/shop?ssl=require",
        ),
        (
            "postgresql:///shop?host=/tmp&service=shop",
            f"postgresql:///shop?host={NO_DIRECTORY}",
        ),
        ("postgresql:///shop?hostaddr=10.0.0.1", f"postgresql:///shop?host={NO_DIRECTORY}"),
        ("postgresql://one:1,two:2/shop?jit=off", f"postgresql://{NO_HOST}/shop?jit=off"),
    ],
)
def test_led_nowhere(was: str, becomes: str) -> None:
    """A URL keeps its form, and says nothing of the real server or its password; what it was comes back."""
    led = environment(was)
    led.lead_nowhere(libpqs_place=True)
    assert os.environ["SHOP_URL"] == becomes
    assert (os.environ["PGHOST"], os.environ["PGDATABASE"]) == (NO_DIRECTORY, NO_DATABASE)
    assert "PGSERVICE" not in os.environ
    assert led.found == {
        "SHOP_URL": "before",
        "PGHOST": None,
        "PGDATABASE": "mine",
        "PGSERVICE": "shop",
        "PGHOSTADDR": None,
    }
    led.lead_to(CLONE)
    assert led.found["SHOP_URL"] == "before"
    led.leave()
    assert os.environ["SHOP_URL"] == becomes
    led.restore()
    assert os.environ["SHOP_URL"] == "before"
    assert (os.environ["PGSERVICE"], os.environ["PGDATABASE"]) == ("shop", "mine")
    assert "PGHOST" not in os.environ


def test_a_variable_that_others_set_meanwhile() -> None:
    """It is theirs: with a clone it leads there, then it is what they set, and in the end, too."""
    led = environment("postgresql://far/shop")
    led.lead_nowhere(libpqs_place=True)
    os.environ["SHOP_URL"] = "theirs"
    assert "SHOP_URL" not in led.found
    led.lead_to(CLONE)
    assert led.found["SHOP_URL"] == "theirs"
    led.leave()
    led.restore()
    assert os.environ["SHOP_URL"] == "theirs"
