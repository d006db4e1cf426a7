"""What goes wrong while a clone is brought back costs that clone, and nothing else."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clonedb.clones.clone import create
from clonedb.embedded import leases
from clonedb.errors import ServerError
from clonedb.postgres.servers import open_server
from clonedb.rewind.rewinder import Outcome, Pristine, Rewinder, why_not
from clonedb.rewind.undo_session import UndoSession
from clonedb.settings.config import Config
from clonedb.templates.ensure import find
from tests.embedded.sandbox import is_alive, make_sandbox, wait_until
from tests.faults.processes import demand_nothing_left
from tests.projects import Project
from tests.rewind.shapes import contents, make_template
from tests.rewind.test_shapes import write

WIDE = (
    "create table t (id int, wide text);"
    " insert into t select g, repeat(md5(g::text), 20) from generate_series(1, 9000) g"
)

CONFTEST = """
import os, signal
import pytest
from clonedb.rewind.undo_session import UndoSession

really, dying = UndoSession.send, []

def send(self, parts):
    if dying and not os.path.exists("died"):
        open("died", "w").close()
        really(self, [part for part in parts if part != "commit"])
        os.kill(os.getpid(), signal.SIGKILL)
    return really(self, parts)

UndoSession.send = send

@pytest.fixture
def dies():
    dying.append(True)
"""

TESTS = """
import psycopg, pytest

@pytest.mark.parametrize("number", range(12))
def test_it(clonedb, number, request):
    with psycopg.connect(clonedb.dsn, autocommit=True) as connection:
        assert connection.execute("select count(*) from item").fetchone() == (1,)
        connection.execute("delete from item")
    with open("databases", "a") as file:
        print(clonedb.name, "dies" if number == 4 else "lives", file=file)
    if number == 4:
        request.getfixturevalue("dies")
"""


def test_a_full_disk(small_disk: Callable[[str], Path], postgres_bin: str | None) -> None:
    """The rows cannot be put back: the clone is refused, and with room again the next one is rewound."""
    disk = small_disk("300m")
    settings: dict[str, Any] = {
        "state_dir": str(disk / "state"),
        "data": "disk",
        "idle_timeout": 0.5,
        "postgres_bin": postgres_bin,
    }
    config = Config(rootdir=Path("/")).replace("the test", **settings)
    try:
        with contextlib.closing(open_server(config)) as server:
            assert why_not(server) is None
            template = make_template(server, WIDE, secrets.token_hex(32))
            with contextlib.closing(Pristine(server, template)) as pristine:
                with (
                    create(server, template) as clone,
                    contextlib.closing(Rewinder(clone, pristine)) as rewinder,
                ):
                    write(clone, "delete from t where id = 1")
                    assert rewinder.rewind() == Outcome("rewound")
                    write(clone, "delete from t where id > 1")
                    write(
                        clone, "select pg_switch_wal()"
                    )  # a whole file of WAL: without one the server would stop
                    write(
                        clone,
                        "set synchronous_commit = on; select pg_logical_emit_message(true, 'a', 'b')",
                    )
                    with (disk / "filler").open("wb") as filler:
                        while shutil.disk_usage(disk).free > 2 << 20:  # 6 MB are to be put back
                            filler.write(bytes(1 << 20))
                            filler.flush()
                    assert rewinder.rewind() == Outcome(
                        "refused", "the server refused it (SQLSTATE 53100)"
                    )
                    (disk / "filler").unlink()
                with (
                    create(server, template) as clone,
                    contextlib.closing(Rewinder(clone, pristine)) as rewinder,
                ):
                    fresh = contents(clone)
                    write(clone, "delete from t")
                    assert rewinder.rewind() == Outcome("rewound")
                    assert contents(clone) == fresh
    finally:
        leases.stop(config)


def test_a_server_killed_in_the_middle(
    postgres_bin: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clone is refused for good; after the server has recovered, the next one is rewound as ever."""
    sandbox = make_sandbox(postgres_bin)
    really = UndoSession.send
    with contextlib.closing(sandbox):
        with contextlib.closing(open_server(sandbox.config)) as server:
            assert why_not(server) is None
            template = make_template(server, WIDE, secrets.token_hex(32))
            server.run(lambda connection: connection.execute("checkpoint"))
            running = sandbox.running()
            clone = create(server, template)
            pristine = Pristine(server, template)
            rewinder = Rewinder(clone, pristine)
            write(clone, "delete from t where id < 100")

            def kill(self: UndoSession, parts: list[str]) -> object:
                found = really(self, [part for part in parts if part != "commit"])
                os.kill(running.pid, signal.SIGKILL)
                wait_until(lambda: not is_alive(running.pid))
                return found if "commit" not in parts else really(self, parts)

            monkeypatch.setattr(UndoSession, "send", kill)
            assert rewinder.rewind().kind == "refused"
            monkeypatch.undo()
            assert rewinder.rewind().kind == "refused"
            with contextlib.suppress(ServerError):  # its clone cannot be dropped now
                pristine.close()
        with contextlib.closing(open_server(sandbox.config)) as server:
            found = find(server, template.name)
            assert found is not None
            with (
                contextlib.closing(Pristine(server, found)) as pristine,
                create(server, found) as clone,
            ):
                fresh, rewinder = contents(clone), Rewinder(clone, pristine)
                write(clone, "delete from t where id < 100")
                assert rewinder.rewind() == Outcome("rewound")
                assert contents(clone) == fresh
                rewinder.close()


CRASHING_CONFTEST = """
import os, signal, time
victims = []

def pytest_runtest_logfinish():
    while victims:
        victim = victims.pop()  # a name holds it: freed, it would end by itself
        os.kill(victim.info.backend_pid, signal.SIGKILL)  # as the kernel does when memory is short
        time.sleep(1)
"""

CRASHING_TESTS = """
import psycopg, pytest
from conftest import victims

@pytest.mark.parametrize("number", range(6))
def test_it(clonedb, clonedb_connection, number):
    assert clonedb_connection.execute("select count(*) from item").fetchone() == (1,)
    clonedb_connection.execute("delete from item; insert into item (name) select 'n' from generate_series(10, 20) g")
    clonedb_connection.commit()
    if number % 2:
        victims.append(clonedb.clone.server.connect("postgres"))
"""


@pytest.mark.campaign("long")
def test_a_server_that_crashed_between_two_tests(
    items: Project, postgres_bin: str | None
) -> None:
    """What was undone and is lost is not handed on: each test sees the template, on a connection that works."""
    sandbox = make_sandbox(postgres_bin)
    with contextlib.closing(sandbox):
        items.write("conftest.py", CRASHING_CONFTEST)
        items.write("test_it.py", CRASHING_TESTS)
        outcome = items.pytest(
            "--clonedb-isolation=auto",
            "-W",
            "ignore",
            CLONEDB_STATE_DIR=str(sandbox.config.state_dir),
        )
        assert "6 passed" in outcome.out, outcome.text


@pytest.mark.campaign("kills")
def test_a_worker_killed_in_the_middle(items: Project, admin_dsn: str) -> None:
    """The clone of an xdist worker that died while rewinding is given to nobody; the run goes on and leaves none."""
    items.write("conftest.py", CONFTEST)
    items.write("test_it.py", TESTS)
    outcome = items.pytest("-n", "2", "--clonedb-isolation=auto")
    assert "11 passed" in outcome.out or "12 passed" in outcome.out, outcome.text
    assert "crashed while running 'test_it.py::test_it[4]'" in outcome.out
    demand_nothing_left(items, admin_dsn)
    lines = [line.split() for line in (items.directory / "databases").read_text().splitlines()]
    (position,) = (number for number, (_, fate) in enumerate(lines) if fate == "dies")
    assert lines[position][0] not in {name for name, _ in lines[position + 1 :]}
