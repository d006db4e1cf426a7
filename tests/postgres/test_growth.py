"""What tests write in memory: stopped, with what to set, before the kernel kills a process or PostgreSQL ends all."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import clonedb
from clonedb.clones.clone import Clone
from clonedb.clones.database import Database
from clonedb.embedded import leases
from clonedb.embedded.memory import Memory, is_nearly_full
from clonedb.errors import ServerError
from clonedb.settings.config import Config
from tests.mounts import tmpfs
from tests.projects import Project, one

MB = 1024**2
WRITE = "insert into item (name) select repeat(md5(n::text), 30) from generate_series(1, 2000) n"  # 2 MB
STOPPED = (
    r"the sessions of database '\w+' were ended, which has grown by [\d.]+ MB: files in memory take [\d.]+ MB of the"
    r" 500.0 MB they may; set state_dir \(.*\) to a directory on a disk, which '.*' is not, or run fewer workers"
)


@pytest.fixture
def small(config: Config, variables: None) -> Iterator[Path]:
    """A state directory in a file system in memory of 500 MB."""
    del variables
    with tmpfs("500m") as directory:
        state = directory / "state"
        yield state
        leases.stop(config.replace("the test", state_dir=str(state)))


@pytest.mark.campaign("long")
def test_a_test_that_writes_too_much(items: Project, small: Path) -> None:
    """Its sessions are ended, its error says what to set, the server lives, and another test's database is left alone."""
    items.write(
        "test_it.py",
        f"""
        import time
        import psycopg, pytest

        @pytest.fixture(scope="session")
        def other(clonedb_template):
            with clonedb_template.clone() as clone, clone.connect() as connection:
                yield connection

        def test_that_writes(clonedb_connection, other):
            deadline = time.monotonic() + 60
            with pytest.raises(psycopg.OperationalError, match="terminating connection|server closed the connection"):
                while time.monotonic() < deadline:
                    clonedb_connection.execute({WRITE!r})
                    clonedb_connection.commit()

        def test_after_it(clonedb_connection, other):
            for connection in (clonedb_connection, other):
                assert connection.execute("select count(*) from item").fetchone() == (1,)
        """,
    )
    found = items.pytest("-rA", CLONEDB_STATE_DIR=str(small)).demand(1)
    assert "2 passed, 1 error" in found.out, found.text
    assert "ERROR at teardown of test_that_writes" in found.out
    message = found.out.replace("\n", " ")
    assert "set state_dir (CLONEDB_STATE_DIR) to a directory on a disk" in message
    assert "files in memory take" in found.err


def write_until_refused(clone: Clone | Database) -> None:
    """Write rows until the server ends the session, which it has to do."""
    deadline = time.monotonic() + 60
    with (
        contextlib.suppress(psycopg.OperationalError),
        clone.connect(autocommit=True) as connection,
    ):
        while time.monotonic() < deadline:
            connection.execute(WRITE)
    assert time.monotonic() < deadline


def use(template: clonedb.Template) -> None:
    """Fill a database of the template."""
    with template.database() as clone:
        write_until_refused(clone)


@pytest.mark.campaign("long")
def test_without_pytest(items: Project, small: Path) -> None:
    """The context of a database ends with the error, and the next one is as new."""
    with clonedb.template(items.directory, state_dir=str(small)) as template:
        with pytest.raises(ServerError, match=STOPPED):
            use(template)
        with template.database() as clone:
            assert one(clone, "select count(*) from item") == (1,)


def test_a_machine_without_memory_to_spare(tmp_path: Path) -> None:
    """What counts is also what other programs have left: the kernel asks nobody whose the memory is."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(
        f"MemTotal: {16 * MB} kB\nMemFree: 1 kB\nMemAvailable: {MB} kB\n"
    )
    assert not is_nearly_full(Memory(8 * 1024 * MB, 0), root=tmp_path)
    assert is_nearly_full(Memory(8 * 1024 * MB, 8 * 1024 * MB - 500 * MB), root=tmp_path)
    (tmp_path / "proc/meminfo").write_text(
        f"MemTotal: {16 * MB} kB\nMemFree: 1 kB\nMemAvailable: {MB // 4} kB\n"
    )
    assert is_nearly_full(Memory(8 * 1024 * MB, 0), root=tmp_path)
