"""Databases that DROP DATABASE refuses to drop: what a test left in them is cleared away first."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import pq
from psycopg.sql import SQL, Identifier

from clonedb.clones.gc import Leftover, collect, drop_one, inventory
from clonedb.errors import ServerError
from clonedb.names import clone_name
from clonedb.postgres import obstacles, sql
from clonedb.postgres.background import drop_at_once
from clonedb.postgres.server import Server
from clonedb.postgres.servers import open_server
from clonedb.settings.config import Config
from tests.rewind.ordinary import ordinary_server

SUBSCRIBE = "create subscription news connection 'host=/nowhere dbname=x' publication p with (connect = false)"


@pytest.fixture(scope="module")
def url(postgres_bin: str | None) -> Iterator[str]:
    """A server with prepared transactions and logical replication."""
    with ordinary_server(
        postgres_bin, "max_prepared_transactions=4", "wal_level=logical", "fsync=off"
    ) as found:
        yield found


@pytest.fixture(scope="module")
def server(config: Config, url: str) -> Iterator[Server]:
    """The server in use."""
    with contextlib.closing(open_server(config.replace("the test", url=url))) as opened:
        yield opened


@pytest.fixture
def make(server: Server) -> Iterator[Callable[[], str]]:
    """A function that makes a database with a table, such as a process left that is dead."""
    names = []

    def create() -> str:
        name = clone_name(
            server.config.prefix,
            "0" * 12,
            f"aaaaaaa{secrets.token_hex(2)[:3]}".replace("0", "z"),
            1,
        )
        server.run(sql.create_database, name)
        names.append(name)
        with server.connect(name) as connection:
            connection.execute("create table item (id int)")
        return name

    yield create
    for name in names:
        server.run(sql.drop_database, name)


def there(server: Server, name: str) -> bool:
    """Look whether a database is there."""
    return server.run(sql.find_database, name) is not None


def prepare(server: Server, name: str) -> None:
    """Leave a prepared transaction, whose name has to be quoted."""
    with server.connect(name) as connection:
        connection.execute(
            "begin; insert into item values (1); prepare transaction 'it''s mine'"
        )


def drop(server: Server, name: str) -> None:
    """Drop a database as clones are dropped."""
    server.run(sql.drop_database, name)


def test_prepared_transactions_are_rolled_back(server: Server, make: Callable[[], str]) -> None:
    """Those of the database alone: another database's stays."""
    name, other = make(), make()
    prepare(server, name)
    with server.connect(other) as connection:
        connection.execute("begin; insert into item values (1); prepare transaction 'theirs'")
    drop(server, name)
    assert not there(server, name)
    left = server.run(
        lambda connection: connection.execute("select gid from pg_prepared_xacts").fetchall()
    )
    assert left == [("theirs",)]


def test_subscriptions_are_dropped(server: Server, make: Callable[[], str]) -> None:
    """Their publisher, which does not answer, is not asked; an enabled one is disabled first."""
    name = make()
    with server.connect(name) as connection:
        connection.execute(SUBSCRIBE)
        connection.execute("alter subscription news enable")
    drop(server, name)
    assert not there(server, name)


def test_logical_slots_go_with_the_database(server: Server, make: Callable[[], str]) -> None:
    """One that is read at the moment, too: its reader is no client's ordinary session."""
    name = make()
    with server.connect(name) as connection:
        connection.execute("select pg_create_logical_replication_slot('feed', 'pgoutput')")
        connection.execute("create publication everything for all tables")
    with contextlib.closing(server.connect(name, replication="database")) as reader:
        start = b"START_REPLICATION SLOT feed LOGICAL 0/0 (proto_version '1', publication_names 'everything')"
        started = reader.pgconn.exec_(start)
        assert started.status == pq.ExecStatus.COPY_BOTH, started.error_message
        drop(server, name)
    assert not there(server, name)


@pytest.mark.parametrize("closing", ["allow_connections false", "connection limit 0"])
def test_a_database_that_its_test_closed(
    server: Server, make: Callable[[], str], closing: str
) -> None:
    """It is opened again for what has to be done in it."""
    name = make()
    prepare(server, name)
    server.run(
        lambda connection: connection.execute(
            SQL(f"alter database {{}} {closing}").format(Identifier(name))
        )
    )
    drop(server, name)
    assert not there(server, name)


def test_a_read_only_database_of_another_role(server: Server, make: Callable[[], str]) -> None:
    """Settings that a test gave to the database do not act on the session that clears it."""
    name = make()
    with server.connect(name) as connection:
        connection.execute(SUBSCRIBE)
    prepare(server, name)
    with server.connect("postgres") as connection:
        connection.execute("drop role if exists nobody_special")
        connection.execute("create role nobody_special")
        for setting in (
            "default_transaction_read_only = on",
            "role = nobody_special",
            "search_path = nowhere",
        ):
            connection.execute(
                SQL(f"alter database {{}} set {setting}").format(Identifier(name))
            )
        drop(server, name)
        connection.execute("drop role nobody_special")
    assert not there(server, name)


def test_several_dropped_at_once(server: Server, make: Callable[[], str]) -> None:
    """As a pool drops them where each drop waits for a checkpoint."""
    names = [make(), make()]
    prepare(server, names[0])
    drop_at_once(server, names)
    assert [name for name in names if there(server, name)] == []


def test_gc_clears_what_a_dead_process_left(server: Server, make: Callable[[], str]) -> None:
    """`clonedb list` promises it, and it is done."""
    name = make()
    prepare(server, name)
    assert [item.about for item in inventory(server)] == [
        "its owner is gone: clonedb gc drops it"
    ]
    assert [leftover.name for leftover in collect(server)] == [name]
    assert inventory(server) == []


def test_what_cannot_be_dropped_is_said_with_the_reason(
    config: Config, server: Server, url: str, make: Callable[[], str]
) -> None:
    """By gc, by list and by drop: here a database that belongs to another role."""
    name = make()
    with server.connect("postgres") as connection:
        connection.execute("create role modest login createdb")
    try:
        with contextlib.closing(
            open_server(config.replace("t", url=url.replace("postgres@", "modest@")))
        ) as modest:
            (item,) = inventory(modest)
            assert (
                item.about
                == "its owner is gone, and clonedb gc cannot drop it: it belongs to role postgres"
            )
            refused: list[Leftover] = []
            assert collect(modest, refused=refused.append) == []
            assert refused == [Leftover(name, f"must be owner of database {name}")]
            with pytest.raises(
                ServerError,
                match=f"database '{name}' cannot be dropped: must be owner of database",
            ):
                drop_one(modest, name)
    finally:
        with server.connect("postgres") as connection:
            connection.execute("drop role modest")
    assert there(server, name)


def test_a_renamed_database_is_found_by_its_number(
    server: Server, make: Callable[[], str]
) -> None:
    """And what was made under its name meanwhile goes with it."""
    name = make()
    oid = server.run(sql.database_oid, name)
    server.run(sql.rename_database, name, "anything")
    server.run(sql.create_database, name)
    server.run(sql.drop_database, name, oid=oid)
    assert not there(server, name)
    assert not there(server, "anything")


def test_a_database_whose_drop_was_interrupted(
    server: Server, make: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL refuses to alter it, and one that another process drops at the same moment is not there."""
    name = make()
    server.rows(
        "update pg_database set datconnlimit = -2 where datname = %s returning 1", [name]
    )
    drop(server, name)
    assert not there(server, name)
    find = obstacles.find

    def find_and_lose(*arguments: Any) -> list[obstacles.Found]:
        found = find(*arguments)
        with server.connect("postgres") as other:
            other.execute(SQL("drop database {}").format(Identifier(name)))
        return found

    server.run(sql.create_database, name)
    monkeypatch.setattr(obstacles, "find", find_and_lose)
    drop(server, name)
    monkeypatch.undo()


def test_the_session_that_clears_goes_the_way_of_the_first(
    server: Server, make: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables that lead a test's own programs elsewhere lead nothing of clonedb's."""
    name = make()
    prepare(server, name)
    monkeypatch.setenv("PGHOST", "nowhere.invalid")
    monkeypatch.setenv("PGPORT", "1")
    drop(server, name)
    assert not there(server, name)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dbname="postgres").close()
