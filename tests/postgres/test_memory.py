"""Where the embedded server's data are: in memory when there is ample room, on disk when told so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clonedb.config import Config
from clonedb.postgres import binaries
from clonedb.postgres.memory import memory_base
from clonedb.postgres.servers import reset
from clonedb.postgres.state import Place
from tests.postgres.sandbox import Sandbox

SHM = Path("/dev/shm")
needs_shm = pytest.mark.skipif(not os.access(SHM, os.W_OK), reason="this system has no /dev/shm to write to")


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
    assert memory_base(Config(rootdir=Path("/")).replace("test", data="disk"), Path("/state")) is None


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
    from clonedb.postgres import embedded
    from clonedb.postgres.servers import servers

    with embedded.lease(in_memory, binaries.choose(in_memory, ())) as lease:
        assert lease.data_dir.is_relative_to(SHM)
        assert [one.state for one in servers(in_memory) if one.directory.is_relative_to(SHM)] == ["running"]
    place = Place.of(in_memory, lease.binaries)
    reset(in_memory)
    assert not place.directory.exists()
