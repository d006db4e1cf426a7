"""Where the arguments of connect() lead, and their change, in the words of each driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from clonedb.postgres import libpq_variables
from clonedb.postgres.address import Address, aimed_at, reached, redirect
from clonedb.url import DatabaseURL

DEFAULTS = {"user": "me", "port": "5433"}
SHOP = Address(frozenset({("localhost", "5433")}), "shop")


@pytest.mark.parametrize(
    ("positional", "keywords"),
    [
        ([], {"dbname": "shop"}),
        ([], {"database": "shop", "host": "LocalHost", "port": 5433}),
        ([], {"database": "shop", "host": ["localhost"], "port": [5433]}),
        ([], {"user": "shop"}),
        ([], {"host": "/var/run/postgresql", "dbname": "shop"}),
        ([], {"host": "db.example", "hostaddr": "127.0.0.1", "dbname": "shop"}),
        (["host=::1 dbname=shop"], {}),
        (["dbname=other"], {"dbname": "shop"}),
        ([], {"dsn": "postgresql://somebody@127.0.0.1/shop?application_name=x"}),
        ([], {"conninfo": "dbname=shop", "host": None}),
        (
            [],
            {
                "dsn": "postgresql://somebody@127.0.0.1:1/other",
                "port": 5433,
                "database": "shop",
            },
        ),
    ],
)
def test_same_place(positional: list[Any], keywords: dict[str, Any]) -> None:
    """However it is written, and whatever libpq fills in."""
    assert aimed_at(positional, keywords, DEFAULTS) == SHOP


@pytest.mark.parametrize(
    "keywords",
    [
        {"dbname": "shop", "port": 5432},
        {"dbname": "shop2"},
        {"dbname": "shop", "host": "db.example"},
        {},
    ],
)
def test_another_place(keywords: dict[str, Any]) -> None:
    """Another port, database or host is somewhere else."""
    assert not aimed_at([], keywords, DEFAULTS).is_at(SHOP)


def test_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its file says wins over libpq's variables, and what is given wins over both; one that is not there says nothing."""
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATABASE", "elsewhere")
    monkeypatch.delenv("PGSERVICE", raising=False)
    (tmp_path / "services").write_text("[shop]\nhost=localhost\nport=5433\ndbname=shop\n")
    assert aimed_at(["service=shop"], {}, {}) == SHOP
    assert aimed_at([], {"service": "shop", "dbname": "other"}, {}).database == "other"
    assert aimed_at(["service=of_that_name_there_is_none"], {}, {}).database == "elsewhere"
    assert libpq_variables.defaults()["dbname"] == "elsewhere"


def test_one_of_several_hosts() -> None:
    """A list of hosts is the place of each of them, as libpq and asyncpg write it."""
    several = Address(frozenset({("a", "1"), ("b", "2")}), "shop")
    assert aimed_at([], {"host": "a,b", "port": "1,2", "dbname": "shop"}, {}) == several
    assert aimed_at([], {"host": ["a", "b"], "port": [1, 2], "database": "shop"}, {}) == several
    assert aimed_at([], {"host": "b", "port": 2, "dbname": "shop"}, {}).is_at(several)
    assert str(several) == "'shop' at a:1,b:2"


@pytest.mark.parametrize(
    ("driver", "positional", "keywords", "expected"),
    [
        (
            "psycopg",
            ["host=far dbname=shop application_name=x", 1],
            {"sslmode": "verify-full", "options": "-c jit=off", "prepare_threshold": 0},
            {
                "application_name": "x",
                "options": "-c jit=off",
                "prepare_threshold": 0,
                "dbname": "clone",
            },
        ),
        (
            "psycopg2",
            [],
            {"dsn": "dbname=shop", "service": "shop", "connect_timeout": 3},
            {"connect_timeout": 3},
        ),
        (
            "asyncpg",
            [],
            {
                "dsn": "postgresql://far/shop?application_name=x",
                "ssl": True,
                "server_settings": {"jit": "off"},
            },
            {"server_settings": {"application_name": "x", "jit": "off"}, "database": "clone"},
        ),
        (
            "pg8000",
            [],
            {"unix_sock": "/tmp/x", "application_name": "x"},
            {"application_name": "x"},
        ),
    ],
)
def test_redirected(
    driver: str, positional: list[Any], keywords: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Only the place and who connects are changed: what else the caller wanted stays."""
    port = 5433 if driver in ("asyncpg", "pg8000") else "5433"
    name = "database" if driver in ("asyncpg", "pg8000") else "dbname"
    redirect(
        DatabaseURL.parse("postgresql://us:pw@127.0.0.1:5433/clone"),
        driver,
        positional,
        keywords,
    )
    place = {"host": "127.0.0.1", "port": port, "user": "us", "password": "pw", name: "clone"}
    assert keywords == {**place, **expected}
    assert positional in ([], [1])


def test_reached(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open connection says where it is, and a service is looked up as libpq does."""
    url = DatabaseURL.parse(empty_database_url)
    with psycopg.connect(url.replace(driver=None).render()) as connection:
        assert reached(connection, {}) == Address.of(url.conninfo(), {})
    assert reached(object(), {}) is None
    monkeypatch.setenv("PGDATABASE", "shop")
    assert libpq_variables.defaults()["dbname"] == "shop"
