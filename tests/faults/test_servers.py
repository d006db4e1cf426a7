"""The server under a run's feet: killed, its files removed, its sessions ended, the template dropped or in use."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import clonedb
from clonedb.clones import clone
from clonedb.errors import ServerError, TemplateInUseError
from clonedb.postgres import locks
from tests.embedded.sandbox import Sandbox, is_alive, wait_until
from tests.faults.conftest import Start
from tests.faults.processes import demand_nothing_left
from tests.projects import PYTEST, Project

TWO_TESTS = """
import os, time, pytest

@pytest.mark.parametrize("number", [1, 2])
def test_item(clonedb_connection, number):
    assert clonedb_connection.execute("select count(*) from item").fetchone() == (1,)
    if number == 1 and "PAUSE" in os.environ:
        open("paused", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
"""


@pytest.fixture
def tested(alone: Project) -> Project:
    """The project with a server of its own, after its first run."""
    alone.write("test_items.py", TWO_TESTS)
    assert "built in" in alone.run(*PYTEST).demand().out
    return alone


@pytest.fixture
def template(items: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[clonedb.Template]:
    """The project's template, opened in this process."""
    for name, value in items.environment.items():
        if name.startswith("CLONEDB_"):
            monkeypatch.setenv(name, value)
    with clonedb.template(items.directory) as opened:
        yield opened


@pytest.mark.parametrize(
    "victim",
    [
        "postgres",
        *(
            pytest.param(victim, marks=pytest.mark.campaign("kills"))
            for victim in ("keeper", "both")
        ),
    ],
)
def test_the_server_killed_between_runs(tested: Project, sandbox: Sandbox, victim: str) -> None:
    """kill -9 while nobody uses it: the next run starts it again, and the template is still there."""
    running = sandbox.running()
    pids = {
        "postgres": [running.pid],
        "keeper": [running.keeper],
        "both": [running.keeper, running.pid],
    }[victim]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    outcome = tested.run(*PYTEST).demand()
    assert "2 passed" in outcome.out
    assert "reused" in outcome.out
    assert not is_alive(running.pid)


@pytest.mark.campaign("kills")
@pytest.mark.parametrize("victim", ["postgres", "keeper"])
def test_the_server_killed_in_a_run(
    tested: Project, sandbox: Sandbox, start: Start, victim: str
) -> None:
    """kill -9 while a test is idle: that run ends with an error that says so, the next one works."""
    run = start(tested, *PYTEST, PAUSE="1")
    run.wait_for(tested.directory / "paused")
    running = sandbox.running()
    os.kill(running.pid if victim == "postgres" else running.keeper, signal.SIGKILL)
    wait_until(lambda: not is_alive(running.pid))
    tested.write("go", "")
    outcome = run.outcome(30).demand(1)
    assert "ServerError: " in outcome.out
    assert "ended; run again, and it is started anew. Its log" in " ".join(outcome.out.split())
    assert (
        "stopping: postgres ended" in outcome.out or "immediate shutdown" in outcome.out
    )  # the log's words
    assert "password" not in outcome.out
    assert "Traceback" not in outcome.text
    assert "2 passed" in tested.run(*PYTEST).demand().out
    demand_nothing_left(tested, sandbox_dsn(sandbox))


@pytest.mark.campaign("kills")
def test_the_state_directory_removed_between_runs(tested: Project, sandbox: Sandbox) -> None:
    """The next run starts a new server and builds the template there; the old server goes."""
    running = sandbox.running()
    remove_state(sandbox)
    outcome = tested.run(*PYTEST).demand()
    assert "2 passed" in outcome.out
    assert "built in" in outcome.out
    wait_until(lambda: not is_alive(running.pid))


@pytest.mark.campaign("kills")
def test_the_state_directory_removed_in_a_run(
    tested: Project, sandbox: Sandbox, start: Start
) -> None:
    """That run ends with an error that says so, the next one works."""
    run = start(tested, *PYTEST, PAUSE="1")
    run.wait_for(tested.directory / "paused")
    running = sandbox.running()
    remove_state(sandbox)
    wait_until(lambda: not is_alive(running.pid))
    tested.write("go", "")
    outcome = run.outcome(30).demand(1)
    assert "ServerError: " in outcome.out
    assert "Traceback" not in outcome.text
    assert "2 passed" in tested.run(*PYTEST).demand().out
    demand_nothing_left(tested, sandbox_dsn(sandbox))


@pytest.mark.campaign("kills")
def test_the_maintenance_session_ended_in_a_run(
    template: clonedb.Template, admin_dsn: str
) -> None:
    """pg_terminate_backend: the next clone is made on a new session, which holds the owner's lock at once again."""
    server = template.server
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        for _ in range(20):
            with template.clone() as db:
                pid = server.run(lambda connection: connection.info.backend_pid)
                admin.execute("select pg_terminate_backend(%s)", [pid])
                held = server.run(locks.held_keys)
                assert {locks.owner_key(server.owner), locks.use_key(template.name)} <= held
                with db.connect() as connection:
                    assert connection.execute("select count(*) from item").fetchone() == (1,)


def test_every_session_ended_in_a_run(items: Project, admin_dsn: str) -> None:
    """Whoever ends all sessions between two tests does not fail the run; nothing is left."""
    items.write(
        "test_items.py",
        """
        import os, psycopg, pytest

        @pytest.mark.parametrize("number", range(3))
        def test_item(clonedb_connection, number):
            assert clonedb_connection.execute("select count(*) from item").fetchone() == (1,)
            clonedb_connection.close()
            with psycopg.connect(os.environ["ADMIN"], autocommit=True) as admin:
                ended = admin.execute(
                    "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name like %s",
                    [f"%pid {os.getpid()}"],
                ).fetchone()
            assert ended[0] >= 1  # the pool has a session of its own
        """,
    )
    assert (
        "3 passed"
        in items.run(*PYTEST, "--clonedb-isolation=clone", ADMIN=admin_dsn).demand().out
    )
    demand_nothing_left(items, admin_dsn)


def test_every_session_that_rewinds_ended_in_a_run(items: Project, admin_dsn: str) -> None:
    """A clone that cannot be watched any more is not handed on; the tests go on with another, and nothing is left."""
    items.write(
        "test_items.py",
        """
        import gc, os, psycopg, pytest

        @pytest.mark.parametrize("number", range(4))
        def test_item(clonedb, number):
            with clonedb.connect() as connection:
                assert connection.execute("select count(*) from item").fetchone() == (1,)
                connection.execute("insert into item (name) values ('more')")
            with psycopg.connect(os.environ["ADMIN"], autocommit=True) as admin:
                # those of this process only: other tests use the server, too
                objects = [one for one in gc.get_objects() if isinstance(one, psycopg.Connection) and one is not admin]
                own = [one.info.backend_pid for one in objects if not one.closed]
                query = "select count(pg_terminate_backend(pid)) from pg_stat_activity where pid = any(%s) or datname = %s"
                assert admin.execute(query, [own, clonedb.name]).fetchone()[0] > 0
        """,
    )
    outcome = items.run(*PYTEST, "--clonedb-report", ADMIN=admin_dsn).demand()
    assert "4 passed" in outcome.out
    assert "not rewound" in outcome.out
    demand_nothing_left(items, admin_dsn)


def test_the_template_dropped_by_hand_in_a_run(items: Project, admin_dsn: str) -> None:
    """The error says what happened and what to do; the next run builds it again."""
    items.write(
        "test_items.py",
        """
        import os, psycopg

        def test_before(clonedb):
            with psycopg.connect(os.environ["ADMIN"], autocommit=True) as admin:
                admin.execute(f'alter database "{clonedb.clone.template.name}" is_template false')
                admin.execute(f'drop database "{clonedb.clone.template.name}"')

        def test_after(clonedb):
            pass
        """,
    )
    outcome = items.run(*PYTEST, "--clonedb-isolation=clone", ADMIN=admin_dsn).demand(1)
    assert "1 passed, 1 error" in outcome.out
    assert "is gone from embedded server" in outcome.out
    assert "somebody dropped it; run again to rebuild it" in outcome.out
    assert "Traceback" not in outcome.text
    items.write("test_items.py", "def test_after(clonedb): pass")
    assert "built in" in items.run(*PYTEST).demand().out
    demand_nothing_left(items, admin_dsn)


@pytest.mark.campaign("kills")
def test_a_session_on_the_template(
    template: clonedb.Template, admin_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody is connected to it nothing can be cloned; the error says who, and cloning works when he is gone."""
    monkeypatch.setattr(
        clone, "_PATIENCE", 1.0
    )  # 10 s, and PostgreSQL itself waits 5 s each time
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(f'alter database "{template.name}" allow_connections true'.encode())
    dsn = admin_dsn.replace("dbname=postgres", f"dbname={template.name} application_name=nosy")
    with psycopg.connect(dsn) as nosy:
        pid = nosy.info.backend_pid
        with pytest.raises(
            TemplateInUseError,
            match=rf"{template.name}.* sessions: pid {pid} \(nosy\) of postgres; end",
        ):
            template.clone()
    with template.clone() as db, db.connect() as connection:
        assert connection.execute("select count(*) from item").fetchone() == (1,)


def test_a_server_that_went_away_for_good(
    alone: Project, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that keeps a template open gets a ServerError for each clone, within connect_timeout."""
    for name, value in alone.environment.items():
        if name.startswith("CLONEDB_"):
            monkeypatch.setenv(name, value)
    with clonedb.template(alone.directory) as template:
        running = sandbox.running()
        os.kill(running.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(running.keeper))
        for _ in range(2):
            with pytest.raises(
                ServerError, match="cannot connect to database 'postgres' of embedded server"
            ):
                template.clone()


def sandbox_dsn(sandbox: Sandbox) -> str:
    """The maintenance database of the server in the sandbox."""
    running = sandbox.running()
    return f"host={running.socket_dir} port={running.port} user=postgres dbname=postgres"


def remove_state(sandbox: Sandbox) -> None:
    """What a cleaner of caches does; postgres may write meanwhile."""
    directory = Path(sandbox.config.state_dir or "")
    while directory.exists():
        shutil.rmtree(directory, ignore_errors=True)
