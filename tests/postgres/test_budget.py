"""How many sessions a server has left for a run, counted before one is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg
import pytest

from clonedb.postgres.budget import SESSIONS, shortage
from clonedb.postgres.servers import open_server
from clonedb.settings.config import Config
from tests.projects import PYTEST, Project
from tests.rewind.ordinary import ordinary_server


@pytest.fixture(scope="module")
def url(postgres_bin: str | None) -> Iterator[str]:
    """A server with few connections."""
    with ordinary_server(postgres_bin, "fsync=off", "max_connections=18") as found:
        yield found


@pytest.mark.campaign("long")
def test_a_run_is_told_before_a_session_is_refused(items: Project, url: str) -> None:
    """By one worker; nothing is said where there is room."""
    items.environment["CLONEDB_URL"] = url
    items.write(
        "test_it.py",
        "import pytest\n@pytest.mark.parametrize('n', range(4))\ndef test_it(n, clonedb): pass\n",
    )
    with psycopg.connect(url, dbname="postgres"):
        said = items.run(*PYTEST, "-n", "2").demand()
        assert "sessions" not in said.err
        few = [psycopg.connect(url, dbname="postgres") for _ in range(7)]
        said = items.run(*PYTEST, "-n", "3").demand()
        for connection in few:
            connection.close()
    line = (
        "a run of 3 workers opens up to 7 sessions for each; 10 of max_connections = 18 are left, 21 are needed: raise"
        " max_connections, or run fewer workers (-n)"
    )
    assert (said.out + said.err).count(line) == 1


def test_a_worker_opens_no_more(items: Project, url: str) -> None:
    """Tests that update rows and leave tables behind, the dearest there are; the server counts."""
    items.environment["CLONEDB_URL"] = url
    items.write(
        "test_it.py",
        """
import time
import pytest

def count(connection):
    query = "select count(*) from pg_stat_activity where backend_type = 'client backend'"
    time.sleep(0.05)  # one that was just closed may be counted for a moment
    return connection.execute(query).fetchone()[0]

@pytest.mark.parametrize("n", range(12))
def test_it(n, clonedb_connection):
    with open("counts", "a") as file:
        print(min(count(clonedb_connection) for _ in range(4)), file=file)
    clonedb_connection.execute("update item set name = 'changed'")
    if n % 3 == 2:
        clonedb_connection.execute("create table mine (n int)")
    clonedb_connection.commit()
""",
    )
    items.run(*PYTEST).demand()
    counts = [int(line) for line in (items.directory / "counts").read_text().split()]
    # that of the maintenance database, the witness, and the test's at least
    assert min(counts) >= 3
    assert max(counts) in range(5, SESSIONS + 1), counts


def test_limits_of_the_role_and_the_database(config: Config, url: str) -> None:
    """A superuser has none; each is named, with the statement that raises it."""
    with psycopg.connect(url, dbname="postgres", autocommit=True) as admin:
        admin.execute("create role few login createdb connection limit 7")
        admin.execute("alter database postgres connection limit 4")
        theirs = config.replace("the test", url=url.replace("postgres@", "few@"))
        ours = config.replace("the test", url=url)
        with (
            contextlib.closing(open_server(theirs)) as modest,
            contextlib.closing(open_server(ours)) as server,
        ):
            assert server.run(shortage, 2) is None
            assert modest.run(shortage, 1) is None
            said = modest.run(shortage, 2)
        admin.execute("alter database postgres connection limit -1; drop role few")
    assert said is not None
    of_role = "7 of the 7 of role 'few' are left, 14 are needed: run `ALTER ROLE \"few\" CONNECTION LIMIT 14`"
    of_database = (
        "3 of the 4 of database 'postgres' are left, 6 are needed: run"
        ' `ALTER DATABASE "postgres" CONNECTION LIMIT 7`'
    )
    assert of_role in said
    assert of_database in said
