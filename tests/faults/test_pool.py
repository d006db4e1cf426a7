"""Clones made ahead when something goes wrong: processes killed and interrupted, the server gone, no room."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

import clonedb
from clonedb.clones.pool import Pool
from clonedb.embedded import leases
from clonedb.errors import CloneDBError, ServerError
from clonedb.postgres import connector, sql
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL
from tests.campaigns import VARIANT
from tests.embedded.sandbox import Sandbox, by_socket, is_alive, wait_until
from tests.faults.conftest import Start
from tests.faults.processes import demand_nothing_left
from tests.projects import PYTEST, Project, databases, one

# From the second test on clones are made ahead; the last one hangs in its own code, with one of them at hand.
TESTS = """
import os, time, pytest

@pytest.mark.parametrize("number", range(4))
def test_item(clonedb_connection, number):
    clonedb_connection.execute("insert into item (name) values ('mine')")
    clonedb_connection.commit()
    assert clonedb_connection.execute("select count(*) from item").fetchone() == (2,)
    if number == 3 and "HANG" in os.environ:
        time.sleep(0.5)
        open(os.environ["HANG"], "w").close()
        time.sleep(60)

def test_after_all(clonedb):
    pass
"""

# Each test sees how many clones there are.
CROWD = """
import os, time, pytest

@pytest.mark.parametrize("number", range(12))
def test_item(clonedb_connection, number):
    clonedb_connection.execute("insert into item (name) values ('mine')")
    clonedb_connection.commit()
    assert clonedb_connection.execute("select count(*) from item").fetchone() == (2,)
    prefix = os.environ["CLONEDB_PREFIX"] + "_c_"
    query = "select count(*) from pg_database where starts_with(datname::text, %s)"
    with open("found", "a") as file:
        print(clonedb_connection.execute(query, [prefix]).fetchone()[0], file=file)
    time.sleep(0.02)
"""


@pytest.fixture
def pooling(items: Project) -> Project:
    """The project with tests under isolation `clone`, and its template built."""
    items.write("test_it.py", TESTS)
    items.environment["CLONEDB_ISOLATION"] = "clone"
    items.clonedb("build").demand()
    return items


def clones(project: Project, dsn: str) -> list[str]:
    """The clones on the server."""
    return databases(dsn, f"{project.environment['CLONEDB_PREFIX']}_c_")


def test_killed_while_pooling(
    pooling: Project, start: Start, admin_dsn: str, tmp_path: Path
) -> None:
    """kill -9 with a clone in use and one made ahead: the next run drops both."""
    run = start(pooling, *PYTEST, HANG=str(tmp_path / "hangs"))
    run.wait_for(tmp_path / "hangs")
    assert (
        len(clones(pooling, admin_dsn)) == 2
    )  # one is left to come, so that one is made ahead and no more
    run.kill()
    run.outcome()
    assert len(clones(pooling, admin_dsn)) == 2
    assert "5 passed" in pooling.run(*PYTEST).demand().out
    demand_nothing_left(pooling, admin_dsn)


@pytest.mark.campaign("kills")
@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=VARIANT)])
def test_interrupted_while_pooling(
    pooling: Project, start: Start, admin_dsn: str, tmp_path: Path, workers: str
) -> None:
    """Ctrl-C: the run drops what is in use, what was made ahead, and what was not dropped yet."""
    run = start(pooling, *PYTEST, "-n", workers, HANG=str(tmp_path / "hangs"))
    run.wait_for(tmp_path / "hangs")
    run.interrupt()
    outcome = run.outcome(20).demand(2)
    assert "KeyboardInterrupt" in outcome.text
    demand_nothing_left(pooling, admin_dsn)


@pytest.mark.campaign("kills")
def test_the_server_restarted_while_pooling(
    alone: Project, sandbox: Sandbox, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is gone the test gets the error that it would have got without a pool; after it, a clone at once."""
    monkeypatch.setattr(connector, "_RESTART", 0.5)
    lease = sandbox.lease()
    with psycopg.connect(
        by_socket(lease)
    ) as connection:  # a role of its own: that of the lease gets a new password
        connection.execute("create role pooling superuser login password 'SECRET'")
    url = DatabaseURL(
        driver="psycopg", user="pooling", password="SECRET", host="127.0.0.1", port=lease.port
    )
    settings: clonedb.Settings = {
        "url": url.render(),
        "prefix": prefix,
        "state_dir": str(sandbox.config.state_dir),
    }
    dsn = url.replace(driver=None, database="postgres").render()
    with clonedb.template(alone.directory, **settings) as template:
        pool = Pool(template.server, template.record)
        used = [pool.take(ahead=1) for _ in range(2)]
        wait_until(lambda: len(databases(dsn, f"{prefix}_c_")) == 3)
        running = sandbox.running()
        with psycopg.connect(dsn) as connection:
            backends = [
                pid for (pid,) in connection.execute("select pid from pg_stat_activity")
            ]
        os.kill(running.pid, signal.SIGKILL)
        # a backend answers on until it notices that its postmaster is gone
        wait_until(lambda: not any(map(is_alive, [running.pid, *backends])))
        pool.drop(used.pop())
        begin, processor = time.monotonic(), time.process_time()
        while time.monotonic() - begin < 1:
            with pytest.raises(CloneDBError, match=r"cannot connect|went away"):
                pool.take(ahead=1)
            time.sleep(0.2)
        assert time.process_time() - processor < 0.5  # the thread does not try all the time
        lease.close()
        with sandbox.lease() as again:
            assert again.port == url.port
            used += [pool.take(ahead=1) for _ in range(3)]
            assert len({one(clone, "select current_database()") for clone in used}) == 4
            for clone in used:
                pool.drop(clone)
            pool.close()
            assert databases(dsn, f"{prefix}_c_") == []


@pytest.mark.campaign("kills")
def test_no_more_connections_while_pooling(
    alone: Project, sandbox: Sandbox, prefix: str
) -> None:
    """The thread gets none: clones are made on the spot, and used ones dropped when there is room for it again."""
    with sandbox.lease() as lease:
        url = DatabaseURL(
            driver="psycopg",
            user=lease.user,
            password=lease.password,
            host="127.0.0.1",
            port=lease.port,
        )
        settings: clonedb.Settings = {
            "url": url.render(),
            "prefix": prefix,
            "state_dir": str(sandbox.config.state_dir),
        }
        with (
            clonedb.template(alone.directory, **settings) as template,
            contextlib.ExitStack() as crowd,
        ):
            dsn = url.replace(driver=None, database="postgres").render()
            pool = Pool(template.server, template.record)

            def there() -> set[str]:
                found = template.server.run(sql.databases, prefix)
                return {database.name for database in found} - {template.name}

            used = [pool.take(ahead=1)]
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    crowd.enter_context(psycopg.connect(dsn))
            used += [pool.take(ahead=1) for _ in range(3)]
            dropped = used.pop()
            pool.drop(dropped)
            time.sleep(0.3)
            assert there() == {dropped.name, *(clone.name for clone in used)}
            crowd.close()
            wait_until(
                lambda: dropped.name not in there() and len(there()) == 4
            )  # and one is made ahead
            used.append(pool.take(ahead=1))
            assert one(used[-1], "select count(*) from item") == (1,)
            for clone in used:
                pool.drop(clone)
            pool.close()
            assert there() == set()


@pytest.mark.campaign("kills")
def test_a_full_disk_while_pooling(
    small_disk: Callable[[str], Path], items: Project, variables: None, postgres_bin: str | None
) -> None:
    """Who asks for a clone gets the server's error, as without a pool; with room again, a clone."""
    disk = small_disk("300m")
    settings: clonedb.Settings = {
        "state_dir": str(disk / "state"),
        "data": "disk",
        "idle_timeout": 0.5,
        "postgres_bin": postgres_bin,
    }
    try:
        with clonedb.template(items.directory, **settings) as template:
            pool = Pool(template.server, template.record)
            used = [pool.take(ahead=1) for _ in range(2)]
            prefix = template.server.config.prefix
            wait_until(lambda: len(template.server.run(sql.databases, prefix)) == 4)
            with (disk / "filler").open("wb") as filler:
                while (
                    shutil.disk_usage(disk).free > 4 << 20
                ):  # with none at all the server could write no WAL
                    filler.write(bytes(1 << 20))
                    filler.flush()
            used.append(pool.take(ahead=1))  # which was made ahead
            with pytest.raises(
                ServerError,
                match=r"could not make clone .*No space left|no room in memory for clone",
            ):
                pool.take(ahead=1)
            (disk / "filler").unlink()
            used += [pool.take(ahead=1) for _ in range(3)]
            assert {one(clone, "select count(*) from item") for clone in used} == {(1,)}
            for clone in used:
                pool.drop(clone)
            pool.close()
            names = template.server.run(sql.databases, prefix)
            assert [database.name for database in names] == [template.name]
    finally:
        leases.stop(Config(rootdir=items.directory).replace("the test", **settings))


@pytest.mark.campaign("kills")
@pytest.mark.parametrize(
    "isolation", ["clone", pytest.param("auto", marks=VARIANT), "truncate"]
)
def test_fewer_clones_than_workers(items: Project, admin_dsn: str, isolation: str) -> None:
    """Three workers with room for one clone: each goes on in its turn, and there are never two."""
    items.write("test_it.py", CROWD)
    items.environment |= {"CLONEDB_ISOLATION": isolation, "CLONEDB_MAX_CLONES": "1"}
    assert "12 passed" in items.run(*PYTEST, "-n", "3").demand().out
    assert set((items.directory / "found").read_text().split()) == {"1"}
    demand_nothing_left(items, admin_dsn)


@pytest.mark.parametrize("isolation", ["auto", "clone", "truncate", "readonly", "migrate"])
def test_what_is_kept_takes_no_room_from_tests(items: Project, isolation: str) -> None:
    """With room for one clone, the test after a failed one has its own."""
    items.write(
        "test_it.py", "def test_one(clonedb): assert 0\n\ndef test_two(clonedb): pass\n"
    )
    items.environment |= {
        "CLONEDB_ISOLATION": isolation,
        "CLONEDB_MAX_CLONES": "1",
        "CLONEDB_LOCK_TIMEOUT": "5",
    }
    try:
        assert "1 failed, 1 passed" in items.run(*PYTEST).demand(1).out
    finally:
        items.clonedb("drop", "--all").demand()


@pytest.mark.campaign("kills")
def test_two_runs_at_the_cap(items: Project, start: Start, admin_dsn: str) -> None:
    """What they have together keeps to it; the one that waits says what for."""
    items.write("test_it.py", CROWD)
    items.environment |= {"CLONEDB_ISOLATION": "clone", "CLONEDB_MAX_CLONES": "2"}
    runs = [start(items, *PYTEST, "-n", "2") for _ in range(2)]
    for run in runs:
        assert "12 passed" in run.outcome().demand().out
    assert max(map(int, (items.directory / "found").read_text().split())) == 2
    demand_nothing_left(items, admin_dsn)


@pytest.mark.campaign("kills")
def test_a_test_that_wants_more_than_there_may_be(items: Project, admin_dsn: str) -> None:
    """It has one and asks for a second: an error that says what to raise, and the others go on."""
    items.write(
        "test_it.py",
        """
        import pytest

        def test_two(clonedb, clonedb_factory):
            clonedb_factory()

        def test_one(clonedb):
            pass
        """,
    )
    outcome = items.run(*PYTEST, CLONEDB_MAX_CLONES="1", CLONEDB_KEEP="none").demand(1)
    assert (
        "all who have one wait for another; raise max_clones above what the workers' tests hold"
        in outcome.out
    )
    assert "waiting for room for a clone" not in outcome.err
    assert "1 failed, 1 passed" in outcome.out
    demand_nothing_left(items, admin_dsn)
