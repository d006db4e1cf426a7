"""The drivers' functions that connect, watched: also a driver that is imported later, and one that a test replaces."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, sys
from clonedb.postgres.drivers import WatchedDrivers

class Refused(Exception): pass

def look(*texts):
    if any("token" in text for text in texts if text):
        raise Refused

watched = WatchedDrivers(look)
"""


def run(program: str) -> None:
    """Run a program that may not fail, in an interpreter that has imported no driver."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM + program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("driver", "connect"),
    [
        ("psycopg", "psycopg.connect(url)"),
        ("psycopg", "asyncio.run(psycopg.AsyncConnection.connect(url))"),
        ("psycopg2", "psycopg2.connect(url)"),
        ("asyncpg", "asyncio.run(asyncpg.connect(url))"),
    ],
)
@pytest.mark.parametrize(
    "order", ["imported, watched", "watched, imported", "watched, looked for, imported"]
)
def test_a_driver_is_watched_whenever_it_is_imported(
    driver: str, connect: str, order: str
) -> None:
    """No driver is imported for that, and none is watched any more in the end."""
    steps = {
        "imported": f"import {driver}",
        "watched": f"before = {driver!r} in sys.modules; watched.install()",
        "looked for": f"import importlib.util; assert importlib.util.find_spec({driver!r})",
    }
    program = "\n".join(steps[step] for step in order.split(", "))
    run(
        f"""
{program}
assert before == {order.startswith("imported")}
url = "postgresql://localhost:1/db?application_name=token"
try:
    {connect}
except Refused:
    pass
else:
    raise SystemExit("accepted")
watched.uninstall()
assert watched not in sys.meta_path
try:
    {connect}
except Refused:
    raise
except Exception:
    pass  # nobody listens on port 1
"""
    )


def test_a_function_that_a_test_replaces_is_left_alone() -> None:
    """Neither is its replacement watched, nor is it taken away at the end."""
    run(
        """
import psycopg2
watched.install()
def replacement(dsn, **keywords): return dsn
wrapped, psycopg2._connect = psycopg2._connect, replacement
assert "token" in psycopg2.connect("dbname=token")
watched.uninstall()
assert psycopg2._connect is replacement
psycopg2._connect = wrapped
try:
    psycopg2.connect("dbname=token host=localhost port=1")
except psycopg2.OperationalError:
    pass
"""
    )


def test_a_driver_that_is_not_there_is_no_error() -> None:
    """Its import fails as it would without anybody who waits for it."""
    run(
        """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "psycopg2" else find_spec(name, package)
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == "psycopg2":
            raise ModuleNotFoundError(name)
watched.install()
sys.meta_path.insert(1, Hidden())
for _ in range(2):
    try:
        import psycopg2
    except ModuleNotFoundError:
        pass
    else:
        raise SystemExit("found")
"""
    )


def test_asyncpg_takes_the_name_of_an_application() -> None:
    """As SQLAlchemy hands it on, from a URL in which a test has put asyncpg in the place of another driver."""
    run(
        """
import asyncpg, inspect
watched.install()
assert inspect.iscoroutinefunction(asyncpg.connect)
try:
    asyncio.run(asyncpg.connect("postgresql://localhost:1/db", application_name="token", require_auth="any"))
except Refused:
    pass
else:
    raise SystemExit("accepted")
"""
    )


@pytest.mark.parametrize(
    "module", ["None", "types.ModuleType('psycopg2')", "unittest.mock.MagicMock()"]
)
def test_what_a_project_puts_in_the_place_of_a_driver_is_left_alone(module: str) -> None:
    """It may say that there is none, or be a mock."""
    run(
        f"import types, unittest.mock\nsys.modules['psycopg2'] = {module}\nwatched.install()\nwatched.uninstall()\n"
    )
