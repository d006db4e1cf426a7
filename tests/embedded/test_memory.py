"""Where the embedded server's data are: in memory when there is ample room, on disk when told so; and what is room."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clonedb.embedded import binaries
from clonedb.embedded.memory import about, memory_at, memory_base, settings_in_memory
from clonedb.embedded.places import ServerDirectory
from clonedb.embedded.servers import reset
from clonedb.settings.config import Config
from tests.embedded.sandbox import Sandbox
from tests.mounts import tmpfs

SHM = Path("/dev/shm")
needs_shm = pytest.mark.skipif(
    not os.access(SHM, os.W_OK), reason="this system has no /dev/shm to write to"
)


@pytest.fixture
def in_memory(empty: Sandbox) -> Iterator[Config]:
    config = empty.config.replace("test", data="memory")
    yield config
    reset(config)
    base = memory_base(config, Path(str(config.state_dir)))
    assert base is not None
    (base / "servers").rmdir()
    base.rmdir()


def test_disk_is_disk() -> None:
    """`data = "disk"` never goes to memory."""
    assert (
        memory_base(Config(rootdir=Path("/")).replace("test", data="disk"), Path("/state"))
        is None
    )


@needs_shm
def test_a_state_directory_that_was_named_holds_the_data_too() -> None:
    """`auto` follows `state_dir`: who names a place wants the data there."""
    config = Config(rootdir=Path("/")).replace("test", state_dir="/state")
    assert memory_base(config, Path("/state")) is None
    assert memory_base(config.replace("test", data="memory"), Path("/state")) is not None


@needs_shm
def test_two_users_and_two_state_directories_never_meet() -> None:
    """The directory is named by the user and the state directory it stands in for."""
    config = Config(rootdir=Path("/")).replace("test", data="memory")
    one, other = memory_base(config, Path("/one")), memory_base(config, Path("/other"))
    assert one != other
    assert str(os.geteuid()) in str(one)


@needs_shm
def test_a_server_in_memory_is_listed_and_deleted(in_memory: Config) -> None:
    """initdb, a lease, and `reset` work there as on disk; nothing is left of it."""
    from clonedb.embedded import leases
    from clonedb.embedded.servers import servers

    with leases.lease(in_memory, binaries.choose(in_memory, ())) as lease:
        assert lease.data_dir.is_relative_to(SHM)
        assert [
            one.state for one in servers(in_memory) if one.directory.is_relative_to(SHM)
        ] == ["running"]
    place = ServerDirectory.of(in_memory, lease.binaries)
    reset(in_memory)
    assert not place.directory.exists()


GB = 1024**3
Machine = Callable[..., Path]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A function that makes a root directory of a machine or container, as far as it tells of its memory."""

    def make(total: int, available: int, **files: str) -> Path:
        root = tmp_path / "root"
        meminfo = f"MemTotal: {total // 1024} kB\nMemFree: 1 kB\nMemAvailable: {available // 1024} kB\nBuffers: 2 kB\n"
        named = {name.replace("__", "/"): text for name, text in files.items()}
        for name, text in {"proc/meminfo": meminfo, **named}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
        mounts = root / "proc/self/mountinfo"
        mounts.parent.mkdir(parents=True, exist_ok=True)
        if not mounts.is_symlink():
            mounts.symlink_to("/proc/self/mountinfo")
        return root

    return make


OF_16 = (16 * GB, 12 * GB)
VERSION_2 = {"proc__self__cgroup": "0::/of/tests\n"}
VERSION_1 = {"proc__self__cgroup": "5:cpu:/x\n4:memory:/docker/4f\n0::/\n"}
STAT = "anon 5\ninactive_file 1073741824\ntotal_inactive_file 1073741824\n"
CONTAINERS = {
    "no container": ({}, 8.0, True),
    "its own root": (
        {"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__memory.max": f"{6 * GB}\n"},
        3.0,
        True,
    ),
    "the parent's limit": (
        {
            **VERSION_2,
            "sys__fs__cgroup__of__memory.max": f"{GB}\n",
            "sys__fs__cgroup__of__tests__memory.max": f"{4 * GB}\n",
        },
        0.5,
        False,
    ),
    "no limit": ({**VERSION_2, "sys__fs__cgroup__of__tests__memory.max": "max\n"}, 8.0, True),
    "version 1": (
        {**VERSION_1, "sys__fs__cgroup__memory__memory.limit_in_bytes": f"{3 * GB}\n"},
        1.5,
        False,
    ),
    "nearly used up": (
        {
            **VERSION_2,
            "sys__fs__cgroup__of__memory.max": f"{8 * GB}\n",
            "sys__fs__cgroup__of__memory.current": f"{7 * GB}\n",
        },
        4.0,
        False,
    ),
    "used by the cache": (
        {
            **VERSION_2,
            "sys__fs__cgroup__of__memory.max": f"{8 * GB}\n",
            "sys__fs__cgroup__of__memory.current": f"{5 * GB - 4096}\n",
            "sys__fs__cgroup__of__memory.stat": STAT,
        },
        4.0,
        True,
    ),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_share_is_of_what_the_container_may_have(
    machine: Machine, tmp_path: Path, name: str
) -> None:
    """Half of the machine's memory, or of the least limit of a control group; `auto` wants 2 GB of that, and 4 to spare."""
    files, limit, wanted = CONTAINERS[name]
    root = machine(*OF_16, **files)
    config = Config(rootdir=Path("/"))
    with tmpfs("12g") as there:
        found = memory_at(there, root=root)
        assert found is not None
        assert found.limit == limit * GB
        assert found.left == found.limit * 7 // 8 - found.used
        assert (
            memory_base(config, tmp_path / "state", shm=there, root=root) is not None
        ) == wanted


def test_a_small_file_system_is_the_limit(machine: Machine, tmp_path: Path) -> None:
    """Docker gives a container a /dev/shm of 64 MB: `auto` keeps away from it."""
    with tmpfs("64m") as there:
        found = memory_at(there, root=machine(*OF_16))
        assert found is not None
        assert found.limit == 64 * 1024**2
        (there / "file").write_bytes(bytes(60 * 1024**2))
        found = memory_at(there)
        assert found is not None
        assert found.used >= 60 * 1024**2
        assert found.left < 0
        assert memory_base(Config(rootdir=Path("/")), tmp_path, shm=there) is None


def test_a_server_on_the_disk_is_not_left_for_memory(machine: Machine, tmp_path: Path) -> None:
    """Whoever comes while it is up joins it, though there is room by now; and what is in memory stays there."""
    config, state, root = Config(rootdir=Path("/")), tmp_path / "state", machine(*OF_16)
    (state / "servers/one").mkdir(parents=True)
    with tmpfs("12g") as there:
        (state / "servers/one/ready").touch()
        assert memory_base(config, state, shm=there, root=root) is None
        (state / "servers/one/ready").unlink()
        base = memory_base(config, state, shm=there, root=root)
        assert base is not None
        base.mkdir()
        assert memory_base(config, state, shm=there, root=machine(2 * GB, GB)) == base


def test_a_server_for_which_there_is_no_room(empty: Sandbox) -> None:
    """Said before initdb begins, with what to set; nothing is left but its empty directory."""
    from clonedb.embedded import leases
    from clonedb.errors import ServerError

    with tmpfs("50m") as there:
        config = empty.config.replace("test", state_dir=str(there / "state"))
        message = r"no room in memory for a server in '.*': files there take \d MB of the 50 MB they may, and a new one takes"
        with pytest.raises(ServerError, match=message):
            leases.lease(config, binaries.choose(config, ()))
        assert list(there.glob("state/servers/*/data*")) == []


def test_a_disk_is_no_memory(tmp_path: Path) -> None:
    """Nothing is limited there, and the server keeps its settings."""
    if memory_at(tmp_path) is not None:
        pytest.skip("temporary files are in memory here")
    assert about(tmp_path / "not" / "there") == "data on disk"
    assert settings_in_memory(tmp_path) == {}


@needs_shm
def test_a_server_in_memory_has_less_room_for_wal(in_memory: Config) -> None:
    """An eighth of the share, which no clone may take."""
    from clonedb.postgres.servers import open_server

    server = open_server(in_memory)
    try:
        found = memory_at(SHM)
        assert found is not None
        wanted = max(128, min(found.limit // 8 // 1024**2, 8192))
        query = "select setting::int from pg_settings where name = 'max_wal_size'"
        assert server.run(lambda connection: connection.execute(query).fetchone()) == (wanted,)
        assert about(SHM / "not there") == f"data in memory (at most {found.limit / GB:.1f} GB)"
    finally:
        server.close()
