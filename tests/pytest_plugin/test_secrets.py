"""Passwords of servers are in nothing that pytest prints or writes of a test that holds a URL."""

from __future__ import annotations

import pytest

from clonedb.pytest_plugin.secrets import without
from tests.projects import Project

SECRET = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            f"'postgresql://postgres:{SECRET}@127.0.0.1:1/x'",
            "'postgresql://postgres:***@127.0.0.1:1/x'",
        ),
        (
            f"u = 'postgresql://postgres:{SECRET[:20]}...c&y=1'",
            "u = 'postgresql://postgres:***...c&y=1'",
        ),
        (
            f"u = 'postgresql://post...{SECRET[-9:]}@127.0.0.1'",
            "u = 'postgresql://post...***@127.0.0.1'",
        ),
        (f"{SECRET} and ... and {SECRET[:6]}...{SECRET[-6:]}", "*** and ... and ***...***"),
        ("nothing ... of it", "nothing ... of it"),
    ],
)
def test_a_password_and_its_parts(text: str, shown: str) -> None:
    """Also of a value that pytest has cut in the middle."""
    assert without(text, SECRET) == shown


def test_a_word_as_a_password() -> None:
    """It is one only where a URL or a DSN has it."""
    text = "app://app:app@app/app, user=app password=app host=app, password='app', and the application app"
    shown = "app://app:***@app/app, user=app password=*** host=app, password='app', and the application app"
    assert without(text, "app") == shown


HOLDS = """
import logging, warnings, pytest

@pytest.fixture
def address(clonedb_url):
    return {"url": clonedb_url.replace("+psycopg", ""), "long": "x" * 90 + clonedb_url + "y" * 90}

def test_holds(clonedb_dsn, address):
    parts = clonedb_dsn.split("@")
    print("out", clonedb_dsn)
    logging.getLogger().warning(clonedb_dsn)
    with open("secret", "w") as file:
        file.write(parts[0].rpartition(":")[2])
    assert address["url"] == ""

def test_chain(clonedb_url):
    try:
        raise ValueError(clonedb_url)
    except ValueError as error:
        raise RuntimeError("later") from error

def test_passes(clonedb_dsn, record_property):
    print("passes", clonedb_dsn)
    warnings.warn("deprecated " + clonedb_dsn)
    record_property("address", clonedb_dsn)

@pytest.fixture
def broken(clonedb_dsn):
    raise OSError(clonedb_dsn)

def test_setup(broken): pass
"""


@pytest.mark.parametrize(
    "options",
    [("-n", "0", "-vv", "--tb=long"), ("-n", "1", "--tb=auto")],
    ids=["alone", "xdist"],
)
def test_a_test_that_holds_a_url(items: Project, options: tuple[str, ...]) -> None:
    """Neither its variables, arguments, messages and output, nor JUnit's file tell the password; all else is shown."""
    items.write("test_it.py", HOLDS)
    outcome = items.pytest(
        "--showlocals", "-rA", "--junitxml=junit.xml", "-o", "junit_logging=all", *options
    ).demand(1)
    secret = (items.directory / "secret").read_text()
    junit = (items.directory / "junit.xml").read_text()
    assert len(secret) == 64
    assert "UserWarning: deprecated postgresql://postgres:***@" in outcome.text
    assert 'name="address" value="postgresql://postgres:***@' in junit
    for text in (outcome.text, junit):
        assert "out postgresql://postgres:***@127.0.0.1:" in text
        assert "RuntimeError: later" in text
        assert "OSError: postgresql://postgres:***@" in text
        for part in (secret, secret[:6], secret[-6:]):
            assert part not in text
