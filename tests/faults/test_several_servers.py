"""One of several embedded servers under a test run's feet: killed while the workers of the others go on."""

from __future__ import annotations

import os
import re
import signal

import pytest

from clonedb.embedded.places import ServerDirectory
from tests.embedded.sandbox import Sandbox, is_alive, wait_until
from tests.faults.conftest import Start
from tests.faults.processes import demand_nothing_left
from tests.projects import PYTEST, Project

TESTS = """
import os, pathlib, pytest, time

@pytest.mark.parametrize("number", range(8))
def test_item(clonedb, number):
    with clonedb.connect() as connection:
        connection.execute("insert into item (name) values ('x')")
    if number == 2 and "PAUSE" in os.environ:
        worker = os.environ["PYTEST_XDIST_WORKER"]
        pathlib.Path(f"paused-{worker}").touch()
        while not os.path.exists("go"):
            time.sleep(0.01)
"""


@pytest.mark.campaign("kills")
def test_the_second_server_killed_in_a_run(
    alone: Project, sandbox: Sandbox, start: Start
) -> None:
    """kill -9 while a test is idle: its worker's tests fail with an error that says so, as with one server.

    Those of the first server's worker pass, nothing hangs, and the next run works on both.
    """
    alone.write("test_items.py", TESTS)
    alone.settings(servers=2)
    # both are looked at in the end
    alone.environment["CLONEDB_IDLE_TIMEOUT"] = "30"
    arguments = (*PYTEST, "-n", "2", "--dist", "each")
    run = start(alone, *arguments, PAUSE="1")
    for worker in ("gw0", "gw1"):
        run.wait_for(alone.directory / f"paused-{worker}", 60)
    found = {place.number: place.running() for place in ServerDirectory.all(sandbox.config)}
    first, second = found[1], found[2]
    assert first is not None
    assert second is not None
    os.kill(second.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(second.pid))
    alone.write("go", "")
    outcome = run.outcome().demand(1)
    # gw1's first three pass; the database of the third can be given back only in the moment
    # before the server's sessions notice
    assert re.search(r"11 passed, [56] errors", outcome.out), outcome.text
    failed = re.findall(r"^\[(gw\d)\] linux", outcome.out, re.MULTILINE)
    assert set(failed) == {"gw1"}
    assert "of embedded server 2 (PostgreSQL" in outcome.out
    assert "ended; run again, and it is started anew. Its log" in " ".join(outcome.out.split())
    assert "Traceback" not in outcome.text
    assert is_alive(first.pid)

    again = start(alone, *arguments).outcome().demand()
    assert "16 passed" in again.out
    assert " reused on embedded server 1 " in again.out
    assert " reused on embedded server 2 " in again.out
    for place in ServerDirectory.all(sandbox.config):
        running = place.running()
        assert running is not None
        socket = f"host={running.socket_dir} port={running.port} user=postgres dbname=postgres"
        demand_nothing_left(alone, socket)
