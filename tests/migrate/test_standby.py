"""How a fork server begins and ends, and that nothing that happens to it stands in anybody's way."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clonedb.errors import ServerError
from clonedb.migrate import standby
from clonedb.migrate.alembic import AlembicMigrator
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL
from tests.migrate.conftest import PATIENCE, REPORT, Look, Report, gone, started, until
from tests.projects import Project

PROGRAM = """
import os, sys
from pathlib import Path
from clonedb.settings.config import Config
from clonedb.errors import ServerError
from clonedb.migrate.alembic import AlembicMigrator
from clonedb.project.find import find_project
from clonedb.url import DatabaseURL

config = Config(rootdir=Path.cwd()).replace("test", state_dir=sys.argv[2], standby=60.0)
AlembicMigrator(config, find_project(config)).upgrade(DatabaseURL.parse(sys.argv[1]))
"""


@pytest.fixture
def endless(apart: Config, project: Project, url: DatabaseURL) -> list[str]:
    """A program that begins a migration which never ends."""
    project.revision("one", "import sys\n" + REPORT + "\ntime.sleep(600)", "pass")
    program = project.write("program.py", PROGRAM)
    return [sys.executable, str(program), url.render(), str(apart.state_dir)]


def read(path: Path) -> bytes:
    """A file of a process that may end meanwhile."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_killed_fork_server_is_replaced(apart: Config, look: Look, server: int, project: Project) -> None:
    """Who migrates goes on, the next gets a fresh interpreter, and the one after that a fork of the new server."""
    project.revision("two", f"os.path.exists('/proc/{server}') and os.kill({server}, 9); time.sleep(0.5)")
    assert look()["forked"]
    assert gone(server)
    (left,) = Path(str(apart.state_dir), "standby").glob("*.socket")
    before = left.stat().st_mtime_ns
    assert look()["parent"] == os.getpid()
    assert until(lambda: left.stat().st_mtime_ns != before)
    (new,) = standby.waiting(apart)
    assert new.pid != server
    assert look()["parent"] == new.pid


def test_a_fork_server_that_hangs_is_not_waited_for(server: int, look: Look) -> None:
    """After two seconds a fresh interpreter is started."""
    os.kill(server, signal.SIGSTOP)
    try:
        assert look()["parent"] == os.getpid()
    finally:
        os.kill(server, signal.SIGCONT)
    assert look()["parent"] == server


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_fork_ends_with_whoever_asked(
    server: int, endless: list[str], project: Project, report: Report, number: signal.Signals
) -> None:
    """In the middle of a migration; the fork server does not end."""
    with subprocess.Popen(endless, cwd=project.directory, stderr=subprocess.DEVNULL) as process:
        try:
            assert until(lambda: bool(Path(os.environ["REPORT"]).read_text()))
            found = report()
            assert found["parent"] == server
            process.send_signal(number)
            assert gone(found["pid"])
            process.wait(timeout=PATIENCE)
        finally:
            process.kill()
    assert Path(f"/proc/{server}").exists()


def test_several_at_once(
    server: int, forking: AlembicMigrator, url: DatabaseURL, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each who asks has an interpreter of their own, and none of them is left."""
    before = len([*Path("/proc/self/fd").iterdir()])
    sessions = [forking.session(url) for _ in range(8)]
    threads = [threading.Thread(target=session.start) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    children = Path(f"/proc/{server}/task/{server}/children")
    assert len(children.read_text().split()) == 8
    for session in sessions:
        session.close()
    assert until(lambda: children.read_text() == "")
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_two_starters_at_once_make_one(apart: Config) -> None:
    """The second finds the lock taken, and ends."""
    begin = [threading.Thread(target=standby.begin, args=(apart, dict(os.environ))) for _ in range(3)]
    for thread in begin:
        thread.start()
    for thread in begin:
        thread.join()
    pid = started(apart)
    named = str(apart.state_dir).encode()
    commands = [path for path in Path("/proc").glob("[0-9]*/cmdline") if named in read(path)]
    assert [path.parent.name for path in commands] == [str(pid)]


def test_it_ends_when_nobody_asks(apart: Config) -> None:
    """After the seconds that `standby` gives it, and leaves nothing."""
    apart = apart.replace("the test", standby=0.3)
    standby.begin(apart, os.environ)
    assert until(lambda: bool([*Path(apart.state_dir or "").glob("standby/*")]))
    assert until(lambda: not [*Path(apart.state_dir or "").glob("standby/*")])
    assert standby.waiting(apart) == []


def test_it_ends_when_its_directory_is_deleted(apart: Config, server: int) -> None:
    """Whoever deletes the state directory has nothing else to think of."""
    shutil.rmtree(str(apart.state_dir))
    assert gone(server)


def test_an_interpreter_at_work_outlives_the_end_of_the_fork_server(
    apart: Config, server: int, forking: AlembicMigrator, url: DatabaseURL
) -> None:
    """`clonedb server stop` disturbs no migration."""
    with forking.session(url) as session:
        session.upgrade()
        assert [one.pid for one in standby.stop(apart)] == [server]
        assert gone(server)
        assert session.downgrade().heads == ()


@pytest.mark.parametrize("reason", ["standby", "CI"])
def test_none_is_started_where_it_would_be_of_no_use(
    apart: Config, look: Look, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """Where the setting is 0, and on machines that are thrown away."""
    if reason == "CI":
        monkeypatch.setenv("CI", "true")
    assert look(standby=0.0 if reason == "standby" else 60.0)["parent"] == os.getpid()
    assert not Path(str(apart.state_dir), "standby").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_nobody_else_can_use_it(apart: Config, server: int) -> None:
    """The directory keeps others out; where it does not, the fork server does, and we do not trust theirs."""
    directory = Path(str(apart.state_dir), "standby")
    (path,) = directory.glob("*.socket")

    def as_nobody() -> str:
        program = (
            "import os, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534);"
            "s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1]); print(s.recv(1))"
        )
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert "PermissionError" in as_nobody()
    Path(str(apart.state_dir)).chmod(0o711)
    directory.chmod(0o711)
    path.chmod(0o777)
    assert as_nobody() == "b''\n"


@pytest.mark.parametrize("mode", [0o770, 0o777])
def test_a_directory_that_others_can_write_to_is_not_used(apart: Config, look: Look, server: int, mode: int) -> None:
    """They could put a socket of their own there, or a pid; so nobody there is ended either."""
    directory = Path(str(apart.state_dir), "standby")
    directory.chmod(mode)
    assert look()["parent"] == os.getpid()
    with pytest.raises(ServerError, match="others may write to it"):
        standby.stop(apart)
    directory.chmod(0o700)


def test_a_socket_that_nobody_answers_is_no_obstacle(apart: Config, look: Look, server: int) -> None:
    """Somebody who listens and hangs up at once, as a fork server does that ends at that moment."""
    (path,) = Path(str(apart.state_dir), "standby").glob("*.socket")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        hang_up = threading.Thread(target=lambda: socket.socket.close(other.accept()[0]), daemon=True)
        hang_up.start()
        assert look()["parent"] == os.getpid()
    assert gone(server)
