"""What a run's output says: the header, the summary, and each error once."""

from __future__ import annotations

import re
import socket

import pytest

from tests.campaigns import VARIANT
from tests.projects import Project

TESTS = """
import pytest

@pytest.mark.parametrize("n", range(4))
def test_database(clonedb_connection, n):
    assert clonedb_connection.execute("select count(*) from item").fetchone() == (1,)

def test_both(clonedb, clonedb_factory):
    clonedb_factory()

def test_plain():
    pass
"""
SUMMARY = re.compile(
    r"^clonedb: template '(?P<name>\w+)' (?P<made>reused|built in \d+\.\d s)"
    r" on embedded server \(PostgreSQL \d+(\.\d+)?\); (?P<clones>\d+) clones?;"
    r" a test paid (?P<median>\d+\.\d) ms \(median\), (?P<most>\d+\.\d) ms \(95th percentile\)$",
    re.MULTILINE,
)


@pytest.mark.parametrize(
    "arguments",
    [("-n", "2"), pytest.param(("-p", "no:xdist", "-q"), marks=VARIANT)],
    ids=["n2", "no-xdist"],
)
def test_the_summary(items: Project, arguments: tuple[str, ...]) -> None:
    """One line: built or reused, how many clones, what a test paid; the numbers of all workers together."""
    items.write("test_it.py", TESTS)
    items.environment["CLONEDB_ISOLATION"] = "clone"
    outcome = items.pytest("--clonedb-rebuild", *arguments).demand()
    (found,) = SUMMARY.finditer(outcome.out)
    assert found["made"].startswith("built in ")
    assert found["clones"] == "6"
    assert 0 < float(found["median"]) <= float(found["most"])
    assert outcome.err.count("building template") == 1
    outcome = items.pytest(*arguments).demand()
    (again,) = SUMMARY.finditer(outcome.out)
    assert (again["name"], again["made"], again["clones"]) == (found["name"], "reused", "6")
    assert "building template" not in outcome.err
    assert "kept" not in outcome.out


def test_no_summary_without_a_database(items: Project) -> None:
    """The header says which server is meant; a run that needed none says no more."""
    items.write("test_it.py", TESTS)
    outcome = items.pytest("-k", "plain").demand()
    assert outcome.out.count("clonedb:") == 1
    header = r"clonedb: embedded server, isolation 'auto' \(default\), data (on disk|in memory \(at most \d+\.\d GB\))\n"
    assert re.search(header, outcome.out)


def test_the_header_hides_the_password_and_says_who_named_the_server(items: Project) -> None:
    """An external server stands in the header as its URL without the password, and the place that was set at."""
    items.write("test_it.py", "def test_plain(): pass")
    url = "postgresql+asyncpg://me:s%40cret@db.invalid:5433/?ssl=require"
    shown = "clonedb: server 'postgresql+asyncpg://me:***@db.invalid:5433/?ssl=require' from {}, isolation 'auto'"
    outcome = items.pytest("--clonedb-url", url).demand()
    assert shown.format("--clonedb-url") in outcome.out
    assert "cret" not in outcome.text
    application = "postgresql://me@db.invalid/production"
    outcome = items.pytest(TEST_DATABASE_URL=url, DATABASE_URL=application).demand()
    assert shown.format("TEST_DATABASE_URL") in outcome.out
    assert "embedded server" in items.pytest(DATABASE_URL=application).demand().out


def test_an_unreachable_server_is_told_once(items: Project) -> None:
    """Every test that needs it fails, but only the first shows the message in full, and no traceback."""
    items.write("test_it.py", TESTS)
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://me:hidden-word@127.0.0.1:{taken.getsockname()[1]}/"
        outcome = items.pytest("-rN", CLONEDB_URL=url).demand(1)
    assert "1 passed, 5 errors" in outcome.out
    assert outcome.out.count("check that it runs, and its host, port, user and password") == 1
    assert outcome.out.count("(shown in full above)") == 4
    assert "(url is from CLONEDB_URL; connect_timeout = 5 s)" in outcome.out
    assert "hidden-word" not in outcome.text
    assert "server.py" not in outcome.text


def test_a_failing_migration_is_shown_once(items: Project) -> None:
    """One test shows revision, file and statement; the other tests and workers say in a line that it failed."""
    items.write("test_it.py", TESTS)
    items.revision("bad", 'op.execute("create tabel oops (x int)")')
    salt = f"{items.environment['CLONEDB_SALT']} alone"  # with a layer below it is tried upon that first
    outcome = items.pytest("-rN", "-n", "2", "--clonedb-salt", salt).demand(1)
    assert "1 passed, 5 errors" in outcome.out
    assert outcome.out.count("statement: create tabel oops") == 1
    assert "revision 'bad' (migrations/versions/bad.py:10) failed: SyntaxError" in outcome.out
    assert outcome.err.count("building template") == 1
    assert "clonedb: template" not in outcome.out
