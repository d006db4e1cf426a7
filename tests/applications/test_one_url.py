"""One URL from a worker's first test to its last: what caches it, in whatever program, stays right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from tests.applications.shops import SOMEBODYS
from tests.campaigns import VARIANT
from tests.projects import Project
from tests.pytest_plugin.plugins import run

CONFTEST = """
import json, os, subprocess, sys
from functools import lru_cache
import psycopg, pytest

@lru_cache
def settings():
    return os.environ["DATABASE_URL"]

SERVER = '''
import sys, psycopg
for line in sys.stdin:
    with psycopg.connect(sys.argv[1]) as connection:
        names = [name for (name,) in connection.execute("select name from item order by id")]
    print(*names, sep=",", flush=True)
'''

@lru_cache
def server():
    return subprocess.Popen([sys.executable, "-c", SERVER, settings()], stdin=-1, stdout=-1, text=True)

@pytest.fixture
def names_elsewhere():
    def ask():
        server().stdin.write("names\\n")
        server().stdin.flush()
        return server().stdout.readline().strip()
    return ask

seen = set()

@pytest.fixture
def add():
    def add(name):
        with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
            connection.execute("insert into item (name) values (%s)", [name])
    return add

@pytest.fixture(autouse=True)
def note():
    seen.add(os.environ["DATABASE_URL"])

def pytest_sessionfinish():
    if seen:
        server().stdin.close()
        server().stdout.close()
        server().wait(10)
        print("URLs:", json.dumps(sorted(seen)), file=sys.__stdout__, flush=True)
"""

TESTS = """
import os, time
import psycopg, pytest

@pytest.mark.parametrize("n", range(3))
def test_fresh(n, add, names_elsewhere):
    add(f"book {n}")
    assert names_elsewhere() == f"seeded,book {n}"

def test_ddl(names_elsewhere):
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        connection.execute("alter table item add extra int")
    assert names_elsewhere() == "seeded"

def test_after_ddl(add, names_elsewhere):
    add("book")
    assert names_elsewhere() == "seeded,book"

def test_kept(add):
    add("kept")
    raise AssertionError

@pytest.mark.filterwarnings("ignore::clonedb.LeakedConnectionWarning")
def test_that_leaves_connections(clonedb, add):
    global left
    left = [psycopg.connect(os.environ["DATABASE_URL"]) for _ in range(2)]
    left[0].execute("create table other ()")

@pytest.mark.filterwarnings("ignore::clonedb.LeakedConnectionWarning")
def test_that_renames_its_database(clonedb):
    with psycopg.connect(clonedb.dsn, dbname="postgres", autocommit=True) as connection:
        connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [clonedb.name])
        time.sleep(0.1)
        connection.execute(f"alter database {clonedb.name} rename to {clonedb.name}x")

def test_that_drops_its_database(clonedb):
    with psycopg.connect(clonedb.dsn, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"drop database {clonedb.name} with (force)")

@pytest.mark.parametrize("n", range(2))
def test_the_end(n, add, names_elsewhere):
    add("last")
    assert names_elsewhere() == "seeded,last"
"""


@pytest.fixture
def shop(items: Project) -> Project:
    """A project whose tests ask another program, which was started once, what is in the database."""
    items.environment["DATABASE_URL"] = SOMEBODYS.format(driver="psycopg").replace(
        "+psycopg", ""
    )
    items.write("conftest.py", CONFTEST)
    return items


@pytest.mark.parametrize(
    "isolation",
    ["auto", pytest.param("clone", marks=VARIANT), pytest.param("truncate", marks=VARIANT)],
)
def test_one_url(shop: Project, clones: Callable[[], list[str]], isolation: str) -> None:
    """However often a new clone was needed; and the kept one has the name that was printed."""
    shop.settings(route=["DATABASE_URL"], autouse=True, isolation=isolation)
    shop.write("test_it.py", TESTS)
    outcome = run(shop).demand(1)
    assert "1 failed, 10 passed" in outcome.out, outcome.text
    (urls,) = re.findall("URLs: (.*)", outcome.out)
    assert len(json.loads(urls)) == 1
    (kept,) = clones()
    assert f"clonedb psql {kept}" in outcome.out
    assert kept not in urls
    query = "select string_agg(name, ',' order by id) from item"
    assert "seeded,kept" in shop.clonedb("psql", kept, "-c", query).demand().out
    shop.clonedb("drop", kept).demand()
    assert clones() == []
