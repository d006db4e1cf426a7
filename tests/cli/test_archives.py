"""`clonedb export` and `clonedb import`: a template goes to a file and comes back, or nothing happens."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.projects import CLONEDB, Project, databases

_numbers = itertools.count()

SCHEMA = """
op.execute("create role archived_owner nologin") if not op.get_bind().exec_driver_sql("select 1 from pg_roles where rolname = 'archived_owner'").first() else None
op.execute("create schema shop")
op.execute("create table shop.part (id int primary key, note text, made int generated always as (id * 2) stored)")
op.execute("insert into shop.part values (1, E'a\\\\tb\\\\\\\\.'), (2, null), (3, E'\\\\\\\\.\\\\n\\\\\\\\.')")
op.execute("create index noted on shop.part (lower(note))")
op.execute("create sequence shop.number start 5")
op.execute("select nextval('shop.number'), nextval('shop.number')")
op.execute("create materialized view shop.notes as select note from shop.part")
op.execute("create function shop.f() returns text language sql as $$ select 'COPY x FROM stdin;' $$")
op.execute("comment on table shop.part is 'parts'")
op.execute("alter table shop.part owner to archived_owner; grant select on shop.notes to archived_owner")
op.execute("select lo_from_bytea(4711, 'large')")
op.execute("drop schema if exists unused")
op.get_bind().exec_driver_sql("do $$ begin execute 'alter database ' || current_database() || ' set timezone to ''Asia/Tokyo'''; end $$")
"""


@pytest.fixture
def prefix(shared_prefix: str) -> str:
    """A prefix of the test's own: each begins without a template."""
    return f"{shared_prefix}_a{next(_numbers)}"


@pytest.fixture
def rich(items: Project) -> Project:
    """A project whose template has something of everything that a dump must carry."""
    items.revision("three", SCHEMA)
    return items


LOOK = """
import clonedb, json
with clonedb.template(frozen=True) as template, template.clone() as db, db.connect() as connection:
    found = {}
    for query in (
        "select array_agg(t order by id) from (select * from shop.part) t",
        "select nextval('shop.number')",
        "select nextval('item_id_seq')",
        "select array_agg(indexdef order by 1) from pg_indexes where schemaname in ('shop', 'public')",
        "select array_agg(note order by note) from shop.notes",
        "select shop.f()",
        "select obj_description('shop.part'::regclass)",
        "select tableowner from pg_tables where tablename = 'part'",
        "select has_table_privilege('archived_owner', 'shop.notes', 'select')",
        "select lo_get(4711)::text",
        "select current_setting('timezone')",
        "select version_num from alembic_version",
    ):
        found[query] = repr(connection.execute(query).fetchall())
    print(json.dumps(found))
"""


def test_there_and_back(rich: Project, cli: Command, admin_dsn: str, prefix: str) -> None:
    """Rows, sequences, indexes, owners, privileges, comments, settings, large objects: a clone is what it was."""
    built = rich.clonedb("export", "template.clonedb").demand()
    (name,) = databases(admin_dsn, prefix)
    file = rich.directory / "template.clonedb"
    assert re.fullmatch(
        rf"{file}: template {name}, \S+ [kM]B, sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n",
        built.out,
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = rich.run(sys.executable, "-c", LOOK).demand().out
    assert cli("import", str(file)).out == f"{name}: already there, at three\n"
    cli("drop", name)
    restored = cli("import", str(file))
    assert re.fullmatch(rf"{name}: restored in \d+\.\d s, at three\n", restored.out)
    assert rich.run(sys.executable, "-c", LOOK).demand().out == before
    assert databases(admin_dsn, prefix) == [name]
    assert cli("build").out.startswith(f"{name}: already there")
    rich.revision("four", 'op.execute("drop table shop.part cascade")')
    assert (
        "of 4 revisions" not in cli("build").err
    )  # a setting of the database makes it no layer
    assert sorted(path.name for path in rich.directory.iterdir() if "clonedb" in path.name) == [
        file.name
    ]


def test_a_restored_template_is_a_layer(items: Project, cli: Command) -> None:
    """What comes after it costs what comes after it."""
    cli("export", "template.clonedb")
    cli("drop", "--all")
    cli("import", "template.clonedb")
    items.revision("three", 'op.execute("create table more (id int)")')
    assert ": 1 of 3 revisions" in cli("build").err


def test_another_project_as_it_is(
    items: Project, cli: Command, admin_dsn: str, prefix: str
) -> None:
    """Refused, with what differs; nothing is left."""
    cli("export", "template.clonedb")
    cli("drop", "--all")
    items.revision("three", "pass")
    items.revision("two", "pass", down="one")
    refused = cli("import", "template.clonedb", code=1)
    assert (
        "holds another template than the one of this project as it is: revision " in refused.err
    )
    assert "revision 'migrations/versions/three.py' added" in refused.err
    assert "revision 'migrations/versions/two.py' changed" in refused.err
    assert databases(admin_dsn, prefix) == []


def test_an_archive_that_cannot_be_written(
    items: Project, cli: Command, admin_dsn: str, prefix: str
) -> None:
    """No directory, or a full disk: one message, no file, no clone."""
    assert "there is no directory" in cli("export", "nowhere/template.clonedb", code=1).err
    cli("build")
    (name,) = databases(admin_dsn, prefix)
    if Path("/proc/self").exists():
        assert "cannot be written: " in cli("export", "/proc/self/template.clonedb", code=1).err
    assert databases(admin_dsn, prefix) == [name]


def test_without_pg_dump(items: Project, cli: Command, tmp_path: Path) -> None:
    """The message says what to install."""
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    (bin_directory / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.1'\n")
    (bin_directory / "pg_dump").chmod(0o755)
    program = (
        "import os, re, clonedb.embedded.binaries as b\n"
        "b.Binaries.program = lambda self, name: None\n"
        "from clonedb.cli import main\nmain(['export', 'x.clonedb'])\n"
    )
    outcome = items.run(sys.executable, "-c", program, PATH=str(bin_directory))
    assert outcome.code == 1
    assert re.search(
        r"there is no pg_dump of PostgreSQL \d+ here, .*; install it \(.*postgresql-client-\d+\)",
        outcome.err,
    )
    assert not (items.directory / "x.clonedb").exists()


@pytest.mark.campaign("kills")
@pytest.mark.parametrize("command", ["export", "import"])
def test_killed_at_any_time(
    items: Project, cli: Command, admin_dsn: str, prefix: str, command: str
) -> None:
    """kill -9 in the middle: no partial file, and no database after the next start."""
    items.revision(
        "three",
        "op.execute(\"create table big as select n, repeat('x', 200) from generate_series(1, 60000) n\")",
    )
    cli("export", "good.clonedb")
    if command == "import":
        cli("drop", "--all")
    file = "bad.clonedb" if command == "export" else "good.clonedb"
    begin = time.monotonic()
    items.clonedb(command, "timed.clonedb" if command == "export" else file).demand()
    whole = time.monotonic() - begin
    for part in (0.4, 0.6, 0.8, 0.9):
        if command == "import":
            cli("drop", "--all")
        process = items.popen(*CLONEDB, command, file)
        time.sleep(whole * part)
        process.kill()
        process.communicate()
        left = {path.name for path in items.directory.iterdir() if "clonedb" in path.name}
        assert left <= {"good.clonedb", "timed.clonedb", "bad.clonedb"}
        assert not list(items.directory.glob(".bad*"))
        (items.directory / "bad.clonedb").unlink(missing_ok=True)
    deadline = time.monotonic() + 15
    cli("gc")
    while any("_t_" not in name for name in databases(admin_dsn, prefix)):
        assert time.monotonic() < deadline
        cli("gc")
    cli("import", "good.clonedb")


@pytest.mark.campaign("long")
def test_export_while_it_is_built(items: Project, cli: Command, tmp_path: Path) -> None:
    """It waits for the build, and says for whom."""
    items.revision(
        "three",
        "if not os.path.exists(os.environ.get('GO', '/')): open(os.environ['HERE'], 'w').close()\nwhile not os.path.exists(os.environ.get('GO', '/')): time.sleep(0.05)",
    )
    items.environment |= {"GO": str(tmp_path / "go"), "HERE": str(tmp_path / "here")}
    building = items.popen(*CLONEDB, "build")
    deadline = time.monotonic() + 30
    while not (tmp_path / "here").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    exporting = items.popen(*CLONEDB, "export", "template.clonedb")
    assert exporting.stderr is not None
    assert any(
        f"is being built by pid {building.pid}" in line for line in exporting.stderr
    )  # it waits, and says so
    assert exporting.poll() is None
    (tmp_path / "go").touch()
    out, _ = exporting.communicate(timeout=60)
    assert "template.clonedb: template " in out
    assert building.communicate(timeout=60)
    cli("import", "template.clonedb")


def test_interrupted(items: Project, cli: Command, admin_dsn: str, prefix: str) -> None:
    """Ctrl-C: exit code 130, no file, and no clone left."""
    items.revision(
        "three",
        "op.execute(\"create table big as select n, repeat('x', 200) from generate_series(1, 90000) n\")",
    )
    cli("build")
    process = subprocess.Popen(
        [*CLONEDB, "export", "template.clonedb"],
        cwd=items.directory,
        env=items.environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while len(databases(admin_dsn, prefix)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, 2)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not (items.directory / "template.clonedb").exists()
    assert len(databases(admin_dsn, prefix)) == 1
