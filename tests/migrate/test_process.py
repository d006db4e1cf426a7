"""The interpreter that migrates: one for several requests, and never left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from clonedb.errors import MigrationError
from clonedb.url import DatabaseURL
from tests.migrate.conftest import Ask
from tests.migrators import Migrators
from tests.projects import TIMEOUT, Project

PID = 'op.execute(f"create table if not exists pids (pid int)"); op.execute(f"insert into pids values ({os.getpid()})")'

WAITING = """
import sys, time
from pathlib import Path
from clonedb.settings.config import Config
from clonedb.migrate.alembic import AlembicMigrator
from clonedb.project.find import find_project
from clonedb.url import DatabaseURL

config = Config(rootdir=Path.cwd())
session = AlembicMigrator(config, find_project(config)).session(DatabaseURL.parse(sys.argv[1]))
session.upgrade()
print("up", flush=True)
{then}
"""


def is_there(pid: int) -> bool:
    """Whether a process lives; one that nobody waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pid: int) -> bool:
    """Whether a process ends within some seconds."""
    deadline = time.monotonic() + 20
    while is_there(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_there(pid)


@pytest.mark.usefixtures("started_interpreters")
def test_one_interpreter_serves_several_requests(
    project: Project, migrator: Migrators, url: DatabaseURL, ask: Ask
) -> None:
    """It is started once, and ended when the session is closed."""
    project.revision("one", PID, PID)
    with migrator().session(url) as session:
        session.upgrade()
        session.downgrade()
        session.upgrade()
        pids = {int(str(pid)) for (pid,) in ask("select pid from pids")}
        assert len(pids) == 1
        assert ask("select count(*) from pids") == [(3,)]
        assert is_there(pid := pids.pop())
        assert pid != os.getpid()
    assert not is_there(pid)


@pytest.mark.usefixtures("started_interpreters")
def test_it_is_as_a_child_of_the_caller(
    project: Project,
    migrator: Migrators,
    url: DatabaseURL,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has the caller's environment, sys.path, directory and umask."""
    elsewhere, report = tmp_path / "elsewhere", tmp_path / "report.json"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.syspath_prepend(str(elsewhere))
    monkeypatch.setenv("ODD", "line\nbreak \udcff")
    found = "[os.environ['ODD'], os.getcwd(), os.umask(0), sys.path[0]]"
    project.revision("one", f"import json, sys\njson.dump({found}, open({str(report)!r}, 'w'))")
    before = os.umask(0o037)
    try:
        migrator().upgrade(url)
    finally:
        os.umask(before)
    expected = ["line\nbreak \udcff", str(elsewhere), 0o037, str(elsewhere)]
    assert json.loads(report.read_text()) == expected


@pytest.mark.usefixtures("started_interpreters")
def test_files_and_environment_left_open_do_not_add_up(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """A closed session gives back every descriptor it took."""
    project.revision("one", "pass")
    migrations = migrator()
    migrations.upgrade(url)
    before = len([*Path("/proc/self/fd").iterdir()])
    migrations.downgrade(url)
    migrations.upgrade(url)
    assert len([*Path("/proc/self/fd").iterdir()]) == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
@pytest.mark.parametrize(
    "then", ["time.sleep(600)", "session.downgrade()"], ids=["idle", "at work"]
)
def test_it_dies_with_the_process_that_asked(
    project: Project, url: DatabaseURL, ask: Ask, then: str, number: signal.Signals
) -> None:
    """Its standard input is closed then: it ends at once, in the middle of a migration too."""
    project.revision("one", PID, "op.execute('insert into pids values (0)'); time.sleep(600)")
    project.write("waiting.py", WAITING.format(then=then))
    process = project.popen(sys.executable, "waiting.py", url.render())
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        ((pid,),) = ask("select pid from pids where pid > 0")
        assert is_there(int(str(pid)))
        if then != "time.sleep(600)":
            time.sleep(0.5)
        os.kill(process.pid, number)
        assert gone(int(str(pid)))
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT)


def test_an_abandoned_stairway_ends_its_interpreter(
    project: Project, migrator: Migrators, url: DatabaseURL, ask: Ask
) -> None:
    """Whoever stops listening leaves nothing running."""
    project.revision("one", PID, PID)
    project.revision("two", "pass")
    stairs = migrator().stairway(url)
    next(stairs)
    ((pid,),) = ask("select distinct pid from pids")
    stairs.close()  # type: ignore[attr-defined]
    assert not is_there(int(str(pid)))


def test_an_interpreter_that_ends_by_itself_is_told_of(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """What it printed last is in the message, and the next request has a new one."""
    project.revision(
        "one",
        "print('last words', flush=True); os._exit(3) if os.path.exists('fatal') else None",
    )
    fatal = Path("fatal").absolute()
    assert not fatal.exists()
    path = project.directory / "migrations/versions/one.py"
    flag = project.write("fatal", "")
    path.write_text(path.read_text().replace("'fatal'", repr(str(flag))))
    with migrator().session(url) as session:
        with pytest.raises(
            MigrationError,
            match=r"ended without a word \(exit status 3\); its last output:\nlast words",
        ):
            session.upgrade()
        path.write_text(path.read_text().replace("os._exit(3)", "os.kill(os.getpid(), 9)"))
        with pytest.raises(
            MigrationError,
            match=r"\(killed by SIGKILL, as the kernel does when memory is short\)",
        ):
            session.upgrade()
        flag.unlink()
        assert session.upgrade().heads == ("one",)


def test_output_of_one_request_is_not_shown_with_another(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """An error's last output is that of the step that failed."""
    project.revision(
        "one", "print('of the first', flush=True)", "raise ValueError('of the second')"
    )
    with migrator().session(url) as session:
        session.upgrade()
        with pytest.raises(MigrationError, match="of the second") as caught:
            session.downgrade()
    assert "of the first" not in str(caught.value)


def test_whoever_waits_may_look_why(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """A request that hears nothing for a second asks; what that raises ends it."""
    project.revision("one", "time.sleep(600)")
    migrations = migrator()
    session = migrations.session(url)

    def look() -> None:
        raise LookupError("enough")

    session.waiting = look
    with pytest.raises(LookupError, match="enough"):
        session.upgrade()
    session.close()


def test_an_open_transaction_of_a_failed_run_blocks_nothing(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """The connection of an env.py that does not close it is not kept alive by the error."""
    project.revision(
        "one", "op.execute('create table one (id int)')", "op.execute('drop table never')"
    )
    project.write(
        "migrations/env.py",
        """
        from alembic import context
        from sqlalchemy import create_engine

        connection = create_engine("postgresql+psycopg://nowhere/").connect()
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
        """,
    )
    with migrator().session(url) as session:
        session.upgrade()
        with pytest.raises(MigrationError):
            session.downgrade()
        with psycopg.connect(url.replace(driver=None).render(), autocommit=True) as connection:
            connection.execute("set lock_timeout = '5s'; drop table one, alembic_version")


def test_an_env_py_that_insists_on_a_connection_gets_a_new_one_each_time(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """And the last is closed by then: a transaction left open in it would block the tables."""
    project.revision(
        "one", "op.execute('create table one (id int)')", "op.execute('drop table one')"
    )
    project.write(
        "migrations/env.py",
        """
        from alembic import context

        connection = context.config.attributes["connection"]
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
        connection.exec_driver_sql("select * from pg_class, alembic_version")
        """,
    )
    with migrator().session(url) as session:
        for _ in range(2):
            assert session.upgrade().heads == ("one",)
            assert session.downgrade().heads == ()


def test_a_temporary_alembic_ini_is_not_left(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """For a project configured in pyproject.toml; a killed interpreter has no time to clean up."""
    project.revision("one", "pass")
    (project.directory / "alembic.ini").unlink()
    project.write("pyproject.toml", '[tool.alembic]\nscript_location = "migrations"\n')
    program = "import tempfile; print(tempfile.gettempdir())"
    place = Path(
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    before = set(place.glob("clonedb-*.ini"))
    migrator().upgrade(url)
    assert set(place.glob("clonedb-*.ini")) <= before


def test_what_was_printed_before_a_failure_is_shown(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """Also when the interpreter dies at once, with what Python had not written yet; an error without a text has a cause."""
    raises = "try:\n    {}['length']\nexcept KeyError as error:\n    raise sa.exc.InvalidRequestError from error"
    with migrator().session(url) as session:
        project.revision("one", f'print("the reason")\n{raises}')
        expected = r"(?s)InvalidRequestError: no message, after KeyError: 'length'\n.*last output:\n  the reason$"
        with pytest.raises(MigrationError, match=expected):
            session.upgrade()
        session.close()
        project.revision("one", 'print("the last word")\nos._exit(3)', down=None)
        with pytest.raises(
            MigrationError,
            match=r"ended without a word \(exit status 3\); its last output:\nthe last word$",
        ):
            session.upgrade()


def test_a_plan_loads_nothing_where_the_migrations_run(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """Alembic loads revisions after env.py; those loaded for a plan are loaded elsewhere, and it ends with us."""
    project.write("shop/__init__.py", "count = 0\n")
    project.revision("one", 'op.execute(f"create table loaded_{shop.count} ()")')
    path = project.directory / "migrations/versions/one.py"
    path.write_text("import shop\nshop.count += 1\n" + path.read_text())
    with migrator().session(url) as session:
        assert session.plan("heads") == (("one", path),)
        assert session.plan("heads", with_env_py=True) == (("one", path),)
        assert session.migrate("heads", ()).revisions == ("one",)
    with psycopg.connect(url.replace(driver=None).render()) as connection:
        connection.execute("select from loaded_1")


def test_a_plan_ends_with_the_process_that_asked(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """A revision that hangs while it is loaded is not left behind."""
    pid = project.directory / "pid"
    path = project.revision("one", "pass")
    path.write_text(
        f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    )
    program = WAITING.replace('session.upgrade()\nprint("up", flush=True)\n', "").format(
        then='session.plan("heads")'
    )
    process = project.popen(sys.executable, "-c", program, url.render())
    while not pid.exists() or not pid.read_text():
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert gone(int(pid.read_text()))
