"""Archives under fire: damaged anywhere, no room, killed, interrupted, wanted twice; what is left, and what is said."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from clonedb.archive.file import read_archive
from clonedb.errors import BuildError
from tests.faults.conftest import Start
from tests.faults.processes import demand_nothing_left
from tests.mounts import tmpfs
from tests.projects import CLONEDB, Project, databases

SLOW = """
for number in range(40):
    op.execute(f"create table t{number} (x int primary key check (pg_sleep(0.04)::text is not null))")
    op.execute(f"insert into t{number} values (1)")
"""
LARGE = "op.execute('create table large as select sha512(n::text::bytea) from generate_series(1, 20000) n')"


@pytest.fixture
def archive(items: Project) -> Path:
    """An archive of forty tables, each of which takes a moment to fill; the template is dropped."""
    items.revision("three", SLOW)
    items.clonedb("export", "template.clonedb").demand()
    items.clonedb("drop", "--all").demand()
    return items.directory / "template.clonedb"


def test_damaged_anywhere(items: Project, tmp_path: Path) -> None:
    """Cut off anywhere, or with any byte changed, it is refused, or read as it was: a few bits of gzip's say nothing of the contents."""
    items.clonedb("export", "template.clonedb").demand()
    data = (items.directory / "template.clonedb").read_bytes()
    whole = _read(items.directory / "template.clonedb")
    bad = tmp_path / "bad.clonedb"
    refusal = r"'.*/bad.clonedb' (is damaged, or )?(is )?no archive of clonedb's"
    refused = 0
    for place in range(0, len(data), max(1, len(data) // 150)):
        bad.write_bytes(data[:place])
        with pytest.raises(BuildError, match=refusal):
            _read(bad)
        bad.write_bytes(data[:place] + bytes([data[place] ^ 0x21]) + data[place + 1 :])
        try:
            assert _read(bad) == whole
        except BuildError as error:
            assert re.search(refusal, str(error))  # noqa: PT017 - either is right
            refused += 1
    assert refused > 130
    assert _read(items.directory / "template.clonedb") == whole


def _read(path: Path) -> tuple[object, bytes]:
    with read_archive(path, lambda _: None) as (header, contents):
        return header, contents.read()


def test_a_directory(items: Project) -> None:
    """It is no file to read or to write."""
    for command in ("import", "export"):
        outcome = items.clonedb(command, ".").demand(2)
        assert "is a directory" in outcome.err


@pytest.mark.campaign("kills")
def test_no_room_for_the_archive(items: Project, admin_dsn: str, prefix: str) -> None:
    """On a full disk nothing is left, and what was there stays; so it is when there is no room for what is in it."""
    items.revision("three", LARGE)
    items.clonedb("build").demand()
    with tmpfs("400k") as small:
        (small / "template.clonedb").write_text("what was there")
        outcome = items.clonedb("export", str(small / "template.clonedb")).demand(1)
        assert (
            f"'{small}/template.clonedb' cannot be written: No space left on device"
            in outcome.err
        )
        assert [path.name for path in small.iterdir()] == ["template.clonedb"]
        assert (small / "template.clonedb").read_text() == "what was there"
    for size in ("400k", "4M"):  # no room for the dump, or for what is made of it
        with tmpfs(size) as small:
            outcome = items.clonedb("export", "template.clonedb", TMPDIR=str(small)).demand(1)
            assert "No space left on device" in outcome.err
            assert "Traceback" not in outcome.err
            assert not (items.directory / "template.clonedb").exists()
    items.clonedb("export", "template.clonedb").demand()
    items.clonedb("drop", "--all").demand()
    with tmpfs("400k") as small:
        outcome = items.clonedb("import", "template.clonedb", TMPDIR=str(small)).demand(1)
        assert "template.clonedb' cannot be read: No space left on device" in outcome.err
    assert databases(admin_dsn, prefix) == []
    demand_nothing_left(items, admin_dsn)


@pytest.mark.campaign("kills")
def test_interrupted_while_it_is_restored(
    items: Project, archive: Path, start: Start, admin_dsn: str
) -> None:
    """Ctrl-C while tables are filled: exit code 130 at once, and nothing is left."""
    program = start(items, *CLONEDB, "import", str(archive))
    _wait_until_filled(admin_dsn, items)
    program.interrupt()
    outcome = program.outcome(20).demand(130)
    assert "Traceback" not in outcome.err
    assert databases(admin_dsn, items.environment["CLONEDB_PREFIX"]) == []
    demand_nothing_left(items, admin_dsn)
    assert "restored in" in items.clonedb("import", str(archive)).demand().out


@pytest.mark.campaign("kills")
def test_killed_while_it_is_restored(
    items: Project, archive: Path, start: Start, admin_dsn: str
) -> None:
    """kill -9 while tables are filled: the next start leaves nothing of it."""
    program = start(items, *CLONEDB, "import", str(archive))
    _wait_until_filled(admin_dsn, items)
    program.kill()
    program.outcome(20)
    assert "restored in" in items.clonedb("import", str(archive)).demand().out
    deadline = time.monotonic() + 15
    while len(databases(admin_dsn, items.environment["CLONEDB_PREFIX"])) > 1:
        assert time.monotonic() < deadline
        items.clonedb("gc").demand()
    demand_nothing_left(items, admin_dsn)


def _wait_until_filled(dsn: str, project: Project) -> None:
    """Wait until tables are being filled: rows of the first may take as long as those of all."""
    deadline = time.monotonic() + 30
    with psycopg.connect(dsn, autocommit=True) as connection:
        query = """
            select count(*) from pg_stat_activity
            where starts_with(datname, %s) and query like '%%INSERT INTO%%' and state = 'active'
        """
        while connection.execute(query, [project.environment["CLONEDB_PREFIX"]]).fetchone() == (
            0,
        ):
            assert time.monotonic() < deadline
            time.sleep(0.005)


@pytest.mark.campaign("kills")
def test_restored_by_two_at_once(
    items: Project, archive: Path, start: Start, admin_dsn: str
) -> None:
    """One restores it, the other waits and finds it."""
    programs = [start(items, *CLONEDB, "import", str(archive)) for _ in range(2)]
    said = sorted(
        program.outcome().demand().out.partition(": ")[2].split(",")[0] for program in programs
    )
    assert said[0] == "already there"
    assert said[1].startswith("restored in ")
    demand_nothing_left(items, admin_dsn)


@pytest.mark.campaign("kills")
def test_what_the_server_refuses(items: Project, archive: Path, admin_dsn: str) -> None:
    """One of many things at once: the first error is the one that is shown, and nothing is left."""
    _forge(
        archive,
        lambda contents: contents.replace(
            b"CREATE TABLE public.t17 (", b"CREATE TABLX public.t17 ("
        ),
    )
    outcome = items.clonedb("import", "--trust", str(archive)).demand(1)
    assert "cannot be restored on embedded server (PostgreSQL " in outcome.err
    assert 'syntax error at or near "TABLX"' in outcome.err
    assert databases(admin_dsn, items.environment["CLONEDB_PREFIX"]) == []
    demand_nothing_left(items, admin_dsn)


def _forge(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change what is in an archive, and its digest with it."""
    with tarfile.open(path) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    contents = change(found["contents.sql"])
    assert contents != found["contents.sql"]
    header = {
        **json.loads(found["clonedb.json"]),
        "contents": hashlib.sha256(contents).hexdigest(),
    }
    with contextlib.closing(tarfile.open(path, "w:gz")) as tar:
        for name, content in {
            "clonedb.json": json.dumps(header).encode(),
            "contents.sql": contents,
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
