"""What is dropped and what is not: orphans, unfinished and old templates, kept clones, and everybody else's databases."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

import clonedb
from clonedb.clones.clone import create_empty
from clonedb.clones.gc import collect, drop_one, enforce_retention, inventory, keep
from clonedb.errors import ServerError
from clonedb.names import clone_name, parse, unfinished_name
from clonedb.postgres import locks, sql
from clonedb.postgres.server import Server
from clonedb.postgres.servers import open_server
from clonedb.settings.config import Config
from clonedb.templates.metadata import Kept
from tests.embedded.sandbox import wait_until
from tests.projects import Project, databases

OWNER = """
import clonedb, sys, time
template = clonedb.template()
print(template.clone().name, template.clone().name, flush=True)
time.sleep(60)
"""

OID = "select oid from pg_database where datname = %s"


@pytest.fixture
def server(config: Config, prefix: str) -> Iterator[Server]:
    """The run's server, where the test has names of its own."""
    opened = open_server(config.replace("the test", prefix=prefix))
    yield opened
    opened.close()


@pytest.fixture
def left(admin_dsn: str, prefix: str) -> Callable[[], list[str]]:
    """The databases under the test's prefix."""
    return lambda: databases(admin_dsn, prefix)


@pytest.fixture
def create(admin_dsn: str) -> Iterator[Callable[[str], str]]:
    """A function that creates a database as anybody would; those that are left are dropped."""
    names = []
    with psycopg.connect(admin_dsn, autocommit=True) as connection:

        def make(name: str) -> str:
            connection.execute(
                SQL("create database {} strategy file_copy").format(Identifier(name))
            )
            names.append(name)
            return name

        yield make
        for name in names:
            connection.execute(SQL("drop database if exists {}").format(Identifier(name)))


@contextlib.contextmanager
def owner(project: Project) -> Iterator[list[str]]:
    """A process with two clones, killed in the end."""
    process: subprocess.Popen[str] = project.popen(sys.executable, "-c", OWNER)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()
    finally:
        process.kill()
        process.communicate()


def until_noticed(server: Server, names: list[str]) -> None:
    """Wait until PostgreSQL has noticed that the owner is gone."""
    deadline = time.monotonic() + 10
    while {leftover.name for leftover in collect(server, dry_run=True)} < set(names):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_orphans_are_dropped_and_nothing_else(
    items: Project,
    server: Server,
    left: Callable[[], list[str]],
    create: Callable[[str], str],
    prefix: str,
) -> None:
    """A killed process's clones go; a living one's stay, and so do the template and what only looks like ours."""
    strangers = [
        create(f"{prefix}_c_abcdef_abcdefghij_1_000000"),
        create(f"{prefix}_t_production"),
        create(prefix),
    ]
    strangers.append(create(f"{prefix}x_c_abcdef"))
    with owner(items) as lives:
        with owner(items) as orphans:
            assert collect(server) == []
        until_noticed(server, orphans)
        assert sorted(leftover.name for leftover in collect(server, dry_run=True)) == sorted(
            orphans
        )
        assert {*orphans, *lives} < set(left())
        dropped = collect(server)
        assert sorted(leftover.name for leftover in dropped) == sorted(orphans)
        assert {leftover.why for leftover in dropped} == {"its owner is gone"}
        (template,) = set(left()) - {*lives, *strangers}
        assert sorted(left()) == sorted([template, *lives, *strangers])
        collect(server, everything=True)
        assert sorted(left()) == sorted([template, *lives, *strangers])
    until_noticed(server, lives)
    assert {leftover.name for leftover in collect(server, everything=True)} == {
        template,
        *lives,
    }
    assert sorted(left()) == sorted(strangers)


@pytest.mark.parametrize("lost", ["another maintenance database", "its session"])
def test_a_living_owner_keeps_what_it_has(
    items: Project,
    server: Server,
    left: Callable[[], list[str]],
    create: Callable[[str], str],
    lost: str,
) -> None:
    """Locks are a database's: they count in any. A session that was ended is no dead process."""
    if lost == "another maintenance database":
        items.environment["CLONEDB_MAINTENANCE_DATABASE"] = create(
            f"other{server.config.prefix}"
        )
    with owner(items) as lives:
        (template,) = set(left()) - set(lives)
        if lost == "its session":
            name = parse(server.config.prefix, lives[0])
            assert name
            assert name.owner
            (pid,) = server.run(locks.holders, [locks.owner_key(name.owner or "")])
            server.run(
                lambda connection: connection.execute("select pg_terminate_backend(%s)", [pid])
            )
            wait_until(lambda: not server.run(locks.holder, locks.use_key(template)))
        assert collect(server, everything=True) == []
        assert {item.about for item in inventory(server) if item.kind == "clone"} == {
            "its owner lives"
        }
        for each in (*lives, template):
            with pytest.raises(ServerError, match=f"database '{each}' is in use by "):
                drop_one(server, each)
        assert sorted(left()) == sorted([template, *lives])
    until_noticed(server, lives)
    assert {leftover.name for leftover in collect(server, everything=True)} == {
        template,
        *lives,
    }


def test_a_lost_session_on_another_host(
    server: Server, server_url: str, tmp_path: Path, left: Callable[[], list[str]]
) -> None:
    """Where no file lock is seen, client sessions keep a database, and the owner's next statement takes its lock again."""
    clone = create_empty(server, server.config)
    elsewhere = server.config.replace("another host", url=server_url, state_dir=str(tmp_path))
    with contextlib.closing(open_server(elsewhere)) as other:
        refused: list[str] = []
        with clone.connect() as client:
            pid = server.run(sql.own_pid)
            client.execute("select pg_terminate_backend(%s, 5000)", [pid])
            assert collect(other, refused=lambda leftover: refused.append(leftover.why)) == []
            assert (
                f"database '{clone.name}' is open in pid {client.info.backend_pid} "
                in refused[0]
            )
            assert client.execute("select 1").fetchone() == (1,)
        assert server.run(sql.own_pid) != pid
        assert collect(other, refused=lambda leftover: refused.append(leftover.why)) == []
        assert len(refused) == 1
        assert left() == [clone.name]
    clone.drop()


def test_a_lock_counts_in_every_database(server: Server, prefix: str) -> None:
    """Of those who take it in several databases one has it, or all who share it."""
    key = locks.owner_key(prefix)
    with contextlib.ExitStack() as stack:
        here, there = (
            stack.enter_context(contextlib.closing(server.connect(n)))
            for n in ("postgres", "template1")
        )
        assert locks.try_lock(there, key, shared=True)
        assert not locks.try_lock(here, key)
        assert locks.try_lock(here, key, shared=True)
        assert not locks.try_lock(there, key)
        for connection in (here, there):
            locks.release(connection, key, shared=True)
        assert locks.try_lock(here, key)
        assert not locks.try_lock(there, key, shared=True)
        assert locks.holders(there, [key]) == {here.info.backend_pid}


def test_an_unfinished_template_goes_with_its_builder(
    server: Server, left: Callable[[], list[str]], create: Callable[[str], str], prefix: str
) -> None:
    """The name alone tells whose it is, from the instant it exists: no comment is needed."""
    mine = create(unfinished_name(prefix, "0" * 64, server.owner, 1))
    dead = create(unfinished_name(prefix, "0" * 64, "aaaaaaaaaa", 1))
    clone = create(clone_name(prefix, "0" * 64, "bbbbbbbbbb", 1))
    kinds = {item.name: (item.kind, item.about) for item in inventory(server)}
    assert kinds[mine] == ("unfinished template", "its owner lives")
    assert kinds[dead] == ("unfinished template", "its owner is gone: clonedb gc drops it")
    assert kinds[clone] == ("clone", "its owner is gone: clonedb gc drops it")
    assert {leftover.name for leftover in collect(server)} == {dead, clone}
    assert left() == [mine]


def test_a_database_that_is_being_dropped_is_no_item(server: Server, prefix: str) -> None:
    """Its directory goes before its name does; PostgreSQL says NULL of its size then."""
    name = clone_name(prefix, "0" * 12, "a" * 10, 1)
    strategy = (
        "file_copy" if server.info.major >= 15 else None
    )  # nothing of it waits in memory to be written
    server.run(sql.create_database, name, strategy=strategy)
    row = server.run(lambda connection: connection.execute(OID, [name]).fetchone())
    assert row
    assert server.lease
    directory = server.lease.data_dir / "base" / str(row[0])
    assert [item.name for item in inventory(server)] == [name]
    directory.rename(directory.with_name("away"))
    try:
        assert inventory(server) == []
    finally:
        directory.with_name("away").rename(directory)
        server.run(sql.drop_database, name)


def test_only_the_templates_used_last_are_kept(
    items: Project, config: Config, server: Server, prefix: str
) -> None:
    """keep_templates counts by project and by last use; one in use stays whatever its age."""
    settings = {
        name: getattr(config, name) for name in ("state_dir", "postgres_bin", "idle_timeout")
    }
    opened = []
    for number in range(3):
        template = clonedb.template(
            items.directory,
            **settings,
            prefix=prefix,
            salt=f"{config.salt}{number}",
            keep_templates=9,
        )
        opened.append(template)
    names = [template.name for template in opened]
    small = server.config.replace("the test", keep_templates=1)
    with contextlib.closing(open_server(small)) as other:
        assert collect(other) == []
        for template in opened:
            template.close()
        deadline = time.monotonic() + 10
        gone: list[str] = []
        while len(gone) < 2 and time.monotonic() < deadline:
            gone += [leftover.name for leftover in collect(other)]
        assert sorted(gone) == sorted(names[:2])
        assert {item.name for item in inventory(other)} == {names[2]}


def test_one_process_at_a_time_collects(
    server: Server, create: Callable[[str], str], prefix: str
) -> None:
    """The workers of a run begin all at once; the others leave it to the first. A look needs no turn."""
    orphan = create(clone_name(prefix, "0" * 64, "cccccccccc", 1))
    with contextlib.closing(server.connect("postgres")) as other:
        assert locks.try_lock(other, locks.collector_key(prefix))
        assert collect(server) == []
        assert [leftover.name for leftover in collect(server, dry_run=True)] == [orphan]
        locks.release(other, locks.collector_key(prefix))
    assert [leftover.name for leftover in collect(server)] == [orphan]


def test_a_collection_ends_in_time(
    server: Server, create: Callable[[str], str], prefix: str
) -> None:
    """What it could not do in `seconds` is left to the next."""
    for number in range(2):
        create(clone_name(prefix, "0" * 64, "dddddddddd", number))
    assert collect(server, seconds=-1) == []
    assert len(collect(server)) == 2


def test_sessions_on_an_orphan_are_ended(
    server: Server, create: Callable[[str], str], prefix: str
) -> None:
    """A program that outlived its test keeps no database."""
    orphan = create(clone_name(prefix, "0" * 64, "eeeeeeeeee", 1))
    with contextlib.closing(server.connect(orphan)) as program:
        assert [leftover.name for leftover in collect(server)] == [orphan]
        with pytest.raises(psycopg.OperationalError):
            program.execute("select 1")


def test_drop_one(items: Project, server: Server, left: Callable[[], list[str]]) -> None:
    """A named database goes unless its owner or somebody who clones it lives, who is named."""
    with owner(items) as lives:
        with pytest.raises(
            ServerError, match=rf"database '{lives[0]}' is in use by clonedb on .*, pid \d+"
        ):
            drop_one(server, lives[0])
        (template,) = set(left()) - set(lives)
        with pytest.raises(
            ServerError, match=rf"database '{template}' is in use by clonedb on .*, pid \d+"
        ):
            drop_one(server, template)
        assert sorted(left()) == sorted([template, *lives])
    until_noticed(server, lives)
    for name in (*lives, template):
        drop_one(server, name)
    assert left() == []


def test_a_run_keeps_its_first_failures_and_older_runs_give_way(
    items: Project, config: Config, prefix: str, server: Server
) -> None:
    """keep_count for each project; what was made by hand and other projects' do not count."""
    settings = {
        name: getattr(config, name)
        for name in ("state_dir", "postgres_bin", "salt", "idle_timeout")
    }

    def kept(project: str, run: str, when: float, test: str | None = "a test") -> Kept:
        return Kept(project=project, run=run, when=when, test=test)

    with clonedb.template(items.directory, **settings, prefix=prefix, keep_count=2) as template:
        by_hand, other = template.clone(), template.clone()
        by_hand.keep(kept("items", "0", 0.0, None))
        assert keep(other, kept("another", "0", 0.0))
        old = [template.clone() for _ in range(3)]
        assert [keep(clone, kept("items", "1", when)) for when, clone in enumerate(old, 1)] == [
            True,
            True,
            False,
        ]
        assert [clone.kept for clone in old] == [True, True, False]
    with clonedb.template(items.directory, **settings, prefix=prefix, keep_count=2) as template:
        deadline = time.monotonic() + 10
        while old[2].name in {
            item.name for item in inventory(server)
        }:  # an orphan: their owner's lock is free
            assert time.monotonic() < deadline
            collect(server)
        assert not enforce_retention(template.server, "items", "1")
        newer = [template.clone() for _ in range(3)]
        assert keep(newer[0], kept("items", "2", 9.0))
        found = {item.name for item in inventory(server) if item.kind == "kept clone"}
        assert found == {by_hand.name, other.name, old[1].name, newer[0].name}
        assert keep(newer[1], kept("items", "2", 10.0))
        assert not keep(newer[2], kept("items", "2", 11.0))
        assert keep(newer[2], kept("items", "2", 11.0), limited=False)
        found = {item.name for item in inventory(server) if item.kind == "kept clone"}
        assert found == {by_hand.name, other.name, *(clone.name for clone in newer)}
        about = {item.about for item in inventory(server) if item.kind == "kept clone"}
        assert about == {"items, made by hand", "another, a test", "items, a test"}
