"""Ctrl-C and kill -9 of whoever works: one short message or none, and nothing is left after the next start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.campaigns import VARIANT
from tests.embedded.sandbox import wait_until
from tests.faults.conftest import Start
from tests.faults.processes import HANG, HANG_IN_SQL, demand_nothing_left, processes_of
from tests.projects import CLONEDB, PYTEST, Project, databases

TWO_TESTS = """
import os, pathlib, pytest, signal, time

@pytest.mark.parametrize("number", [1, 2])
def test_item(clonedb_connection, number):
    assert clonedb_connection.execute("select count(*) from item").fetchone() == (1,)
    if os.environ.get("SLEEP"):
        pathlib.Path(os.environ["SLEEP"]).with_suffix(f".{number}").touch()
        time.sleep(60)
    if os.environ.get("DIE") and number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def clones(project: Project, dsn: str) -> list[str]:
    """The clones on the server."""
    prefix = project.environment["CLONEDB_PREFIX"]
    return databases(dsn, f"{prefix}_c_")


@pytest.mark.campaign("kills")
@pytest.mark.parametrize("body", [HANG, HANG_IN_SQL], ids=["python", "sql"])
def test_ctrl_c_during_clonedb_build(
    project: Project, start: Start, admin_dsn: str, tmp_path: Path, body: str
) -> None:
    """The command ends with 130 and one line, the unfinished database is gone, and the next build works."""
    project.items()
    project.revision("three", body)
    builder = start(project, *CLONEDB, "build", HANG=str(tmp_path / "hangs"))
    builder.wait_for(tmp_path / "hangs")
    builder.interrupt()
    outcome = builder.outcome(10).demand(130)
    lines = [line for line in outcome.text.splitlines() if line.strip()]
    assert lines[-1] == "clonedb: interrupted; nothing is left behind"
    assert all(line.startswith("clonedb: ") for line in lines)
    demand_nothing_left(project, admin_dsn)
    assert not databases(admin_dsn, project.environment["CLONEDB_PREFIX"])
    assert "built in" in project.clonedb("build").demand().out


@pytest.mark.campaign("kills")
def test_ctrl_c_while_waiting_for_a_builder(
    project: Project, start: Start, admin_dsn: str, tmp_path: Path
) -> None:
    """Who waits may go; who builds is not disturbed."""
    project.items()
    project.revision("three", HANG)
    builder = start(project, *CLONEDB, "build", HANG=str(tmp_path / "hangs"))
    builder.wait_for(tmp_path / "hangs")
    waiting = start(project, *CLONEDB, "build")
    wait_until(lambda: len(processes_of(project)) == 3)
    assert waiting.process.stderr is not None
    assert "is being built by pid" in waiting.process.stderr.readline()
    waiting.interrupt()
    outcome = waiting.outcome(10).demand(130)
    assert outcome.err == "clonedb: interrupted; nothing is left behind\n"
    assert builder.process.poll() is None
    builder.interrupt()
    builder.outcome(10).demand(130)
    demand_nothing_left(project, admin_dsn)


@pytest.mark.parametrize(
    "arguments", [(), pytest.param(("-n", "2"), marks=VARIANT)], ids=["plain", "xdist"]
)
def test_ctrl_c_in_pytest_during_the_build(
    project: Project, start: Start, admin_dsn: str, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """pytest says that it was interrupted, as ever; the unfinished database is gone, and the next run works."""
    project.items()
    project.revision("three", HANG_IN_SQL)
    project.write("test_items.py", TWO_TESTS)
    run = start(project, *PYTEST, *arguments, HANG=str(tmp_path / "hangs"))
    run.wait_for(tmp_path / "hangs")
    run.interrupt()
    outcome = run.outcome(20).demand(2)
    assert "KeyboardInterrupt" in outcome.out
    assert "INTERNALERROR" not in outcome.text
    demand_nothing_left(project, admin_dsn)
    assert not databases(admin_dsn, project.environment["CLONEDB_PREFIX"])
    assert "2 passed" in project.run(*PYTEST, *arguments).demand().out


@pytest.mark.campaign("kills")
@pytest.mark.parametrize(
    "arguments", [(), pytest.param(("-n", "2"), marks=VARIANT)], ids=["plain", "xdist"]
)
def test_ctrl_c_during_a_test(
    items: Project, start: Start, admin_dsn: str, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """The clones of the tests that were running are dropped before pytest ends."""
    items.write("test_items.py", TWO_TESTS)
    run = start(items, *PYTEST, *arguments, SLEEP=str(tmp_path / "sleeps"))
    for number in (1, 2) if arguments else (1,):
        run.wait_for(tmp_path / f"sleeps.{number}")
    assert len(clones(items, admin_dsn)) == (2 if arguments else 1)
    run.interrupt()
    outcome = run.outcome(20).demand(2)
    assert "KeyboardInterrupt" in outcome.out
    assert "INTERNALERROR" not in outcome.text
    assert not clones(items, admin_dsn)
    demand_nothing_left(items, admin_dsn)


@pytest.mark.campaign("kills")
def test_pytest_killed_in_a_test(
    items: Project, start: Start, admin_dsn: str, tmp_path: Path
) -> None:
    """kill -9: its clone is gone after the next run."""
    items.write("test_items.py", TWO_TESTS)
    run = start(items, *PYTEST, SLEEP=str(tmp_path / "sleeps"))
    run.wait_for(tmp_path / "sleeps.1")
    run.kill()
    run.process.wait()
    assert len(clones(items, admin_dsn)) == 1
    items.run(*PYTEST).demand()
    demand_nothing_left(items, admin_dsn)


@pytest.mark.campaign("kills")
def test_a_script_killed_with_a_clone(items: Project, start: Start, admin_dsn: str) -> None:
    """Without pytest too, the next start of any kind collects."""
    script = start(items, *CLONEDB, "run", "--", "sh", "-c", "touch runs; exec sleep 60")
    script.wait_for(items.directory / "runs")
    script.kill_group()
    assert len(clones(items, admin_dsn)) == 1
    assert "already there" in items.clonedb("build").demand().out
    demand_nothing_left(items, admin_dsn)


def test_a_worker_killed_in_a_test(items: Project, admin_dsn: str) -> None:
    """kill -9 of an xdist worker: its clone is gone when the run has ended, and the other tests ran."""
    items.write("test_items.py", TWO_TESTS)
    outcome = items.run(*PYTEST, "-n", "2", DIE="1").demand(1)
    assert "crashed while running 'test_items.py::test_item[1]'" in outcome.out
    assert "1 failed, 1 passed" in outcome.out
    demand_nothing_left(items, admin_dsn)


@pytest.mark.campaign("kills")
def test_a_whole_xdist_run_killed(
    items: Project, start: Start, admin_dsn: str, tmp_path: Path
) -> None:
    """kill -9 of controller and workers: the next run collects what they left."""
    items.write("test_items.py", TWO_TESTS)
    run = start(items, *PYTEST, "-n", "2", SLEEP=str(tmp_path / "sleeps"))
    for number in (1, 2):
        run.wait_for(tmp_path / f"sleeps.{number}")
    run.kill_group()
    wait_until(lambda: not processes_of(items))
    assert len(clones(items, admin_dsn)) == 2
    items.run(*PYTEST).demand()
    demand_nothing_left(items, admin_dsn)


INTERRUPTED = """
import clonedb, contextlib, signal, time

signal.signal(signal.SIGALRM, signal.default_int_handler)
with clonedb.template() as template:
    template.clone().drop()
    for number in range(50):
        with contextlib.suppress(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.0005 * (number + 1))
            with template.clone():
                pass
            time.sleep(0.05)
    with open("left", "w") as file:
        template.server.run(lambda connection: print(*connection.execute(
            "select datname from pg_database where starts_with(datname, %s)",
            [template.server.config.prefix + "_c_"],
        ), file=file))
"""


@pytest.mark.campaign("kills")
def test_interrupts_at_any_time_while_cloning(items: Project) -> None:
    """An interrupt within CREATE DATABASE or DROP DATABASE leaves no clone, though the server may have finished it.

    Only between two steps of the interpreter, before the clone is anybody's, can one be lost until its owner has ended.
    """
    items.run(sys.executable, "-c", INTERRUPTED).demand()
    assert len((items.directory / "left").read_text().split()) <= 1
