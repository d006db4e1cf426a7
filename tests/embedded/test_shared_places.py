"""What another account puts where clonedb keeps files: it is not opened, not emptied, not waited for, and no order."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from clonedb.cli import main
from clonedb.embedded import cluster, leases, places, start
from clonedb.embedded.machine import host
from clonedb.embedded.memory import memory_base
from clonedb.embedded.servers import reset, servers, stop
from clonedb.errors import ServerError
from clonedb.postgres import connector
from clonedb.postgres.servers import open_server
from clonedb.private_files import PrivateDirectory
from clonedb.settings.config import Config
from tests.embedded.sandbox import ROOT, Sandbox, is_alive, query, wait_until

NOBODY = 65534
SHM = Path("/dev/shm")
needs_root = pytest.mark.skipif(not ROOT, reason="only root can be another account")

# Run as the other account: a place as clonedb would make it, with a lock that is held until the input ends.
PLANT = """
import fcntl, json, os, sys
kind, base, file, pid, host = sys.argv[1:]
os.umask(0)
if kind == "FIFO":
    os.mkfifo(base)
elif kind == "link":
    os.symlink(os.path.dirname(file), base)
else:
    place = f"{base}/servers/embedded-postgres-18"
    os.makedirs(place)
    os.symlink(file, f"{place}/start")
    os.mkfifo(f"{place}/ready")
    lock = os.open(f"{place}/keeper", os.O_RDWR | os.O_CREAT, 0o666)
    os.write(lock, json.dumps({"pid": int(pid), "host": host}).encode())
    fcntl.flock(lock, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def as_nobody(program: str, *arguments: str) -> Iterator[None]:
    """Run a program as another account; it has printed a line when the context begins, and is killed at its end."""
    process = subprocess.Popen(
        ["/usr/bin/python3", "-I", "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def ours() -> Iterator[Path]:
    """A directory that is this account's alone."""
    with tempfile.TemporaryDirectory(prefix="clonedb-ours-") as directory:
        Path(directory, "kept").write_text("ours")
        yield Path(directory)


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of this account, which nobody may end."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def automatic(ours: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A configuration with `data = "auto"`, whose state directory is not there yet."""
    monkeypatch.setattr(places, "default_state_dir", lambda: ours / "state")
    return Config(rootdir=Path("/"))


@pytest.fixture
def plant(
    automatic: Config, ours: Path, bystander: subprocess.Popen[bytes]
) -> Iterator[Callable[[str], Path]]:
    """A function by which another account takes the name of the directory in memory first."""
    base = SHM / f"clonedb-{os.geteuid()}-{zlib.crc32(os.fsencode(ours / 'state')):08x}"
    with contextlib.ExitStack() as stack:

        def taken(kind: str) -> Path:
            stack.enter_context(
                as_nobody(
                    PLANT, kind, str(base), str(ours / "kept"), str(bystander.pid), host()
                )
            )
            return base

        yield taken
    subprocess.run(["rm", "-rf", base], check=True)


@needs_root
@pytest.mark.skipif(
    not os.access(SHM, os.W_OK), reason="this system has no /dev/shm to write to"
)
@pytest.mark.parametrize("kind", ["directory", "link", "FIFO"])
def test_a_strangers_place_in_memory(
    plant: Callable[[str], Path],
    automatic: Config,
    ours: Path,
    bystander: subprocess.Popen[bytes],
    kind: str,
) -> None:
    """`auto` takes the disk and says why; status, stop and reset leave alone what is there, and `memory` refuses it."""
    base = plant(kind)
    assert servers(automatic) == []
    assert stop(automatic) == []
    assert reset(automatic) == []
    shown = CliRunner().invoke(main, ["-C", str(ours), "server", "status"])
    assert shown.exit_code == 0
    assert shown.output.startswith(
        f"no data in memory: will not keep files in {str(base)!r}: it "
    )
    assert bystander.poll() is None
    assert (ours / "kept").read_text() == "ours"
    assert memory_base(automatic, ours / "state") is None
    problem = {
        "directory": f"it belongs to uid {NOBODY}",
        "link": "it is a symbolic link",
        "FIFO": "it is a FIFO",
    }[kind]
    assert places.data_about(automatic).endswith(
        f" (will not keep files in {str(base)!r}: {problem})"
    )
    with pytest.raises(ServerError, match=f"{base}.*{problem}; set state_dir"):
        servers(automatic.replace("test", data="memory"))
    assert base.lstat().st_uid == NOBODY


@needs_root
def test_the_first_lease_says_why_it_is_on_the_disk(
    plant: Callable[[str], Path], automatic: Config, empty: Sandbox, ours: Path
) -> None:
    """A line as for everything else that takes time, so that nobody wonders about slow clones."""
    plant("directory")
    ours.chmod(0o711)
    lines: list[str] = []
    with leases.lease(automatic, empty.binaries, progress=lines.append) as lease:
        assert lease.data_dir.is_relative_to(ours)
        assert lines[0].startswith(places.not_in_memory(automatic))
    reset(automatic)


@needs_root
def test_a_name_that_a_stopped_server_left(sandbox: Sandbox, ours: Path) -> None:
    """After a clean stop the name of its socket's directory is free for anybody: a link there is not followed."""
    sandbox.lease().close()
    leases.stop(sandbox.config)
    (ours / ".s.PGSQL.5432").touch()
    name = Path(sandbox.place.read("socket"))
    wait_until(lambda: not name.exists())
    subprocess.run(["ln", "-s", ours, name], user=NOBODY, group=NOBODY, check=True)
    try:
        with sandbox.lease() as lease:
            assert query(lease, "select 1") == 1
        assert sorted(path.name for path in ours.iterdir()) == [".s.PGSQL.5432", "kept"]
    finally:
        name.unlink()


@needs_root
def test_the_servers_account_does_not_lead_root(
    sandbox: Sandbox, bystander: subprocess.Popen[bytes]
) -> None:
    """Root's server runs as another account, which owns the data: a FIFO there hangs nobody, a pid there is no order."""
    with sandbox.lease():
        running = sandbox.running()
        process = sandbox.place.data / "postmaster.pid"
        process.unlink()
        os.mkfifo(process)
        wait_until(lambda: not is_alive(running.keeper), 20)
    process.unlink(missing_ok=True)
    process.write_text(f"{bystander.pid}\n")
    with sandbox.lease() as lease:
        assert query(lease, "select 1") == 1
    assert bystander.poll() is None


def problems(directory: Path) -> dict[str, Callable[[], object]]:
    """Ways to put something else in the place of a file `name`."""
    return {
        "a symbolic link": lambda: (directory / "name").symlink_to(directory / "kept"),
        "a FIFO": lambda: os.mkfifo(directory / "name"),
        "a socket": lambda: socket.socket(socket.AF_UNIX).bind(str(directory / "name")),
        "a directory": (directory / "name").mkdir,
        "others may write to it": lambda: os.chmod(  # noqa: PTH101
            os.open(directory / "name", os.O_CREAT), 0o666
        ),
    }


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("problem", problems(Path()))
def test_only_regular_files_of_ours_are_opened(ours: Path, problem: str) -> None:
    """Whatever is asked: to read, to empty, to lock; nothing waits, and nothing is changed."""
    problems(ours)[problem]()
    files = PrivateDirectory(ours)
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_CREAT):
        with pytest.raises(ServerError, match=f"will not open '{ours / 'name'}': .*{problem}"):
            files.open("name", flags)
    with pytest.raises(ServerError):
        files.is_held("name")
    assert (ours / "kept").read_text() == "ours"
    if problem != "a directory":
        files.write("name", "new")
        assert files.read("name") == "new"
        assert (ours / "kept").read_text() == "ours"


def test_every_directory_on_the_way_is_looked_at(ours: Path) -> None:
    """A link between the base and the file leads nowhere, and so does a directory that others may write to."""
    (ours / "elsewhere").mkdir()
    (ours / "elsewhere" / "file").write_text("theirs")
    (ours / "way").symlink_to(ours / "elsewhere")
    files = PrivateDirectory(ours) / "way"
    with pytest.raises(ServerError, match="it is a symbolic link"):
        files.read("file")
    (ours / "way").unlink()
    files.make()
    files.write("file", "ours")
    assert files.read("file") == "ours"
    assert stat.S_IMODE((ours / "way").stat().st_mode) == 0o700
    (ours / "way").chmod(0o770)
    with pytest.raises(ServerError, match=r"others may write to it \(mode 0770\)"):
        files.read("file")


def test_what_is_not_there(ours: Path) -> None:
    """No error where nothing is an answer."""
    files = PrivateDirectory(ours) / "not" / "there"
    assert files.names() == []
    assert files.read("file") == ""
    assert files.stat("file") is None
    assert files.problem() == ""
    assert not files.is_held("file")
    files.unlink("file")
    files.remove_tree("tree")
    assert not files.path.exists()


# Run as the other account: connections that say nothing, until the input ends.
FLOOD = """
import socket, sys, time
sockets = []
for _ in range(150):
    sockets.append(socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=20))
    time.sleep(0.001)  # one that finds the queue full is tried again by the kernel after a second
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.campaign("long")
@needs_root
def test_a_strangers_sockets(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that prove nothing are ended after some seconds and waited for; an error says whose they are."""
    few = {"authentication_timeout": "2s", "max_connections": "50"}
    monkeypatch.setattr(start, "settings", lambda *given: {**cluster.settings(*given), **few})
    said: list[str] = []
    with contextlib.closing(open_server(sandbox.config, progress=said.append)) as server:
        assert server.lease is not None
        with as_nobody(FLOOD, str(server.lease.port)):
            with monkeypatch.context() as patch:
                patch.setattr(connector, "_CROWDED", 0.0)
                with pytest.raises(ServerError, match=rf"by account: uid {NOBODY} \d+"):
                    server.connect("postgres")
            with contextlib.closing(open_server(sandbox.config, progress=said.append)) as other:
                assert other.info == server.info
    assert said == [f"{server.about} has no connection left; waiting (for 10 s at most)"]


# Run as the other account: listens on a socket as a server does, until the input ends.
LISTEN = """
import os, socket, sys
os.umask(0)
os.mkdir(os.path.dirname(sys.argv[1]))
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print(flush=True)
sys.stdin.read()
"""


@needs_root
def test_a_strangers_socket_in_the_place_of_a_stopped_servers(sandbox: Sandbox) -> None:
    """Its name was there for all to see: who listens there now is told nothing, neither a password nor a statement."""
    with contextlib.closing(open_server(sandbox.config)) as server:
        assert server.lease is not None
        path = server.lease.socket_dir / f".s.PGSQL.{server.lease.port}"
        leases.stop(sandbox.config)
        wait_until(lambda: not path.parent.exists())
        try:
            with (
                as_nobody(LISTEN, str(path)),
                pytest.raises(ServerError, match=r"requirepeer.*nobody"),
            ):
                server.connect("postgres")
        finally:
            subprocess.run(["rm", "-rf", path.parent], check=True)
