"""Builds under fire: many at once, killed, failing, slow, forced; the template is built once and nothing is left."""

from __future__ import annotations

import fcntl
import os
import re
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests.embedded.sandbox import Sandbox, wait_until
from tests.faults.conftest import Start
from tests.faults.processes import COUNT, HANG, HANG_IN_SQL, count, demand_nothing_left
from tests.projects import CLONEDB, PYTEST, Project, databases

AT_ONCE = """
import fcntl, sys
import clonedb.api, filelock, psycopg
with open("ready", "a") as ready:
    ready.write(".")
with open("gate") as gate:
    fcntl.flock(gate, fcntl.LOCK_SH)
with clonedb.template() as template:
    print(template.name)
"""

CLONE_IN_A_LOOP = """
import clonedb, os
made = 0
with clonedb.template() as template:
    while not os.path.exists("enough"):
        with template.clone() as db, db.connect() as connection:
            assert connection.execute("select count(*) from item").fetchone() == (1,)
        made += 1
        open("cloning", "w").close()
print(made)
"""

FOUR_TESTS = """
import psycopg
import pytest

@pytest.mark.parametrize("number", range(4))
def test_item(clonedb_connection, number):
    assert clonedb_connection.execute("select count(*) from item").fetchone() == (1,)
"""


@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=pytest.mark.campaign("kills")) for number in (6, 64)]
)
def test_many_processes_at_once_on_an_empty_server(
    alone: Project, sandbox: Sandbox, start: Start, number: int
) -> None:
    """One of them starts the server, one builds, and all get the same template."""
    counter = alone.directory / "count"
    alone.revision("three", COUNT)
    ready = alone.write("ready", "")
    with alone.write("gate", "").open() as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        programs = [
            start(alone, sys.executable, "-c", AT_ONCE, COUNT=str(counter))
            for _ in range(number)
        ]
        wait_until(lambda: ready.stat().st_size == number, 60)
    names = {program.outcome().demand().out for program in programs}
    assert len(names) == 1
    assert count(counter) == 1
    assert sandbox.place.log.read_text().count("keeper: port ") == 1


@pytest.mark.parametrize(
    "body",
    [HANG, pytest.param(HANG_IN_SQL, marks=pytest.mark.campaign("kills"))],
    ids=["python", "sql"],
)
def test_a_builder_killed_in_a_migration(
    project: Project, start: Start, admin_dsn: str, tmp_path: Path, body: str
) -> None:
    """kill -9: its interpreter and its session go with it, the next takes over at once and clears up."""
    project.items()
    project.revision("three", body)
    builder = start(project, *CLONEDB, "build", HANG=str(tmp_path / "hangs"))
    builder.wait_for(tmp_path / "hangs")
    assert len(databases(admin_dsn, project.environment["CLONEDB_PREFIX"])) == 1
    builder.kill()
    begin = time.monotonic()
    assert "built in" in project.clonedb("build").demand().out
    assert time.monotonic() - begin < 20  # far below the time the migration would have slept
    demand_nothing_left(project, admin_dsn)
    assert len(databases(admin_dsn, project.environment["CLONEDB_PREFIX"])) == 1


def test_a_builder_killed_while_others_wait(
    project: Project, start: Start, admin_dsn: str, counter: Path, tmp_path: Path
) -> None:
    """Of those who waited for it one takes over."""
    project.items()
    project.revision("three", HANG)
    project.revision("four", COUNT)
    builder = start(project, *CLONEDB, "build", HANG=str(tmp_path / "hangs"))
    builder.wait_for(tmp_path / "hangs")
    waiting = [start(project, *CLONEDB, "build") for _ in range(3)]
    time.sleep(1.5)
    assert all(program.process.poll() is None for program in waiting)
    builder.kill()
    outcomes = [program.outcome(20).demand() for program in waiting]
    assert sum("built in" in outcome.out for outcome in outcomes) == 1
    assert count(counter) == 1
    demand_nothing_left(project, admin_dsn)


def test_no_lock_file_is_left(items: Project, state_dir: Path, prefix: str) -> None:
    """Neither of a build nor of one that failed; what that leaves for its run goes after a day."""
    locks = state_dir / "locks"
    items.clonedb("build").demand()
    assert not list(locks.glob(f"{prefix}_t_*"))
    items.revision("three", 'op.execute("select 1 / 0")')
    items.clonedb("build").demand(1)
    (failed,) = locks.glob(f"{prefix}_t_*")
    assert failed.suffix == ".failed"
    os.utime(failed, (0, 0))
    items.revision("four", "pass")
    items.clonedb("build").demand(1)
    assert not failed.exists()


def test_a_builder_beyond_lock_timeout_on_this_machine(
    project: Project, start: Start, admin_dsn: str, tmp_path: Path
) -> None:
    """The error names the process and says since when it builds."""
    project.items()
    project.revision("three", HANG)
    builder = start(project, *CLONEDB, "build", HANG=str(tmp_path / "hangs"))
    builder.wait_for(tmp_path / "hangs")
    outcome = project.clonedb("build", CLONEDB_LOCK_TIMEOUT="0.5").demand(1)
    assert re.search(
        rf"is still being built by pid {builder.process.pid} since \d+ s \(`kill \d+` ends it\), after lock_timeout = 0.5 s; end",
        outcome.err,
    )
    assert "Traceback" not in outcome.err
    builder.interrupt()
    builder.outcome()
    demand_nothing_left(project, admin_dsn)


@pytest.mark.campaign("kills")
def test_a_builder_beyond_lock_timeout_on_another_machine(
    project: Project, start: Start, admin_dsn: str, server_url: str, tmp_path: Path
) -> None:
    """With nothing in common but the server, its advisory lock tells the same."""
    project.items()
    project.revision("three", HANG)
    here, there = tmp_path / "here", tmp_path / "there"
    builder = start(
        project,
        *CLONEDB,
        "build",
        HANG=str(tmp_path / "hangs"),
        CLONEDB_URL=server_url,
        CLONEDB_STATE_DIR=str(here),
    )
    builder.wait_for(tmp_path / "hangs")
    outcome = project.clonedb(
        "build",
        CLONEDB_LOCK_TIMEOUT="1.5",
        CLONEDB_URL=server_url,
        CLONEDB_STATE_DIR=str(there),
    ).demand(1)
    who = (
        rf"clonedb build on \S+, pid {builder.process.pid} \(server process \d+, from 127.0.0.1, connected since \d+ s"
        r"(?:, at revision 3 of 3 \(three\))?\)"
    )
    assert re.search(rf"is being built by {who}; waiting", outcome.err)
    assert re.search(
        rf"is still being built by {who}, after lock_timeout = 1.5 s; end", outcome.err
    )
    builder.interrupt()
    builder.outcome()
    demand_nothing_left(project, admin_dsn)


def test_a_failed_migration_runs_once_for_all_workers(
    project: Project, admin_dsn: str, counter: Path
) -> None:
    """Under -n 4 one worker shows the error in full, the others in a line."""
    project.items()
    project.revision("three", COUNT + 'op.execute("select 1 / 0")')
    project.write("test_items.py", FOUR_TESTS)
    outcome = project.run(*PYTEST, "-n", "4").demand(1)
    assert count(counter) == 1
    assert "4 errors" in outcome.out
    assert outcome.text.count("Traceback (most recent call last)") == 1
    assert outcome.text.count("statement: select 1 / 0") == 1
    lines = re.findall(
        r"^BuildError: template .* could not be built in this run: (.*)$",
        outcome.out,
        re.MULTILINE,
    )
    assert len(lines) == 3
    for line in lines:
        assert re.fullmatch(
            r"revision 'three' .* failed: DivisionByZero: division by zero \(pid \d+ shows it in full\)",
            line,
        )
    demand_nothing_left(project, admin_dsn)
    assert not databases(admin_dsn, project.environment["CLONEDB_PREFIX"])


@pytest.mark.campaign("kills")
def test_the_run_after_a_failed_one_tries_again(project: Project, counter: Path) -> None:
    """A failure is remembered for its own run only."""
    project.items()
    project.revision("three", COUNT + 'if "BAD" in os.environ:\n    op.execute("select 1 / 0")')
    project.write("test_items.py", FOUR_TESTS)
    project.run(*PYTEST, BAD="1").demand(1)
    project.run(*PYTEST).demand()
    assert count(counter) == 2


@pytest.mark.campaign("kills")
def test_rebuild_happens_once_for_a_run(
    project: Project, admin_dsn: str, counter: Path
) -> None:
    """`--clonedb-rebuild` with -n 2 builds the template anew, once."""
    project.items()
    project.revision("three", COUNT)
    project.write("test_items.py", FOUR_TESTS)
    project.clonedb("build").demand()
    project.run(*PYTEST, "-n", "2", "--clonedb-rebuild").demand()
    assert count(counter) == 2
    demand_nothing_left(project, admin_dsn)
    assert len(databases(admin_dsn, project.environment["CLONEDB_PREFIX"])) == 1


@pytest.mark.campaign("kills")
def test_a_rebuild_disturbs_nobody_who_clones(
    items: Project, start: Start, admin_dsn: str
) -> None:
    """`clonedb build --force` while others clone: each clone comes of the old template or of the new one."""
    items.clonedb("build").demand()
    cloning = [start(items, sys.executable, "-c", CLONE_IN_A_LOOP) for _ in range(2)]
    for program in cloning:
        program.wait_for(items.directory / "cloning")
    for _ in range(3):
        assert "built in" in items.clonedb("build", "--force").demand().out
    items.write("enough", "")
    for program in cloning:
        assert int(program.outcome().demand().out) > 4
    demand_nothing_left(items, admin_dsn)
    assert len(databases(admin_dsn, items.environment["CLONEDB_PREFIX"])) == 1


def test_who_has_read_a_role_and_goes_on_is_no_obstacle(items: Project, admin_dsn: str) -> None:
    """Nothing that a build does locks what all databases share: it would wait, and with it each new connection."""
    with psycopg.connect(admin_dsn) as reader:
        reader.execute(
            "select count(*) from pg_authid, pg_database, pg_auth_members, pg_db_role_setting"
        )
        reader.execute("set lock_timeout = '1s'")
        items.clonedb("build").demand()
        reader.execute("select count(*) from pg_shdepend, pg_tablespace")
