"""Whatever shape a table has: after the undoing, a clone holds what a fresh one holds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import psycopg
import pytest

from clonedb.clones.clone import Clone, create
from clonedb.postgres.server import Server
from clonedb.rewind.rewinder import Outcome, Pristine, Rewinder
from clonedb.templates.ensure import TemplateRecord
from tests.rewind.shapes import contents

WRITING = {
    "insert": "insert into plain (name) values ('new'), ('newer')",
    "update": "update plain set name = name || '!' where id < 5",
    "update of all rows": "update plain set n = n + 1",
    "update of the key": "update plain set id = id + 100",
    "delete": "delete from plain where id in (1, 20)",
    "delete of all rows": "delete from plain",
    "insert, update and delete of one row": "insert into plain values (99); update plain set n = 1 where id = 99;"
    " delete from plain where id = 99",
    "upsert": "insert into plain (id, name) values (1, 'a'), (77, 'b') on conflict (id) do update set name = 'c'",
    "upsert of nothing new": "insert into plain (name) values ('plain 1') on conflict do nothing",
    "merge": "merge into plain p using (values (1), (2), (88)) v(id) on p.id = v.id when matched and v.id = 1 then delete"
    " when matched then update set name = 'merged' when not matched then insert values (v.id)",
    "rows swapped": "update plain set name = null where id = 1; update plain set name = 'plain 1' where id = 2",
    "savepoints": "begin; insert into plain (name) values ('a'); savepoint s; delete from plain; rollback to s;"
    " update plain set n = 0 where id = 3; commit",
    "rolled back": "begin; update plain set n = 0; insert into keyless values (1); rollback",
    "no key": "delete from keyless where ctid = (select min(ctid) from keyless); insert into keyless values (1, 'x')",
    "duplicates": "insert into keyless select * from keyless",
    "identity": "update identities set name = 'c' where id = 1; insert into identities (name) values ('d');"
    " delete from identities where id = 2",
    "generated": "update generated set id = id + 10; insert into generated (id) values (1)",
    "dropped columns": "delete from dropped",
    "odd names": """update "Odd ""schema"."Odd 'table %s" set c = 'x'; select nextval('"Odd ""schema"."Odd ''sequence"')""",
    "inheritance": "update parent set name = 'x'; delete from child where id = 2; insert into parent values (9)",
    "child only": "delete from only child",
    "partitions": "update parts set region = 'south' where id = 2; delete from parts where id = 3;"
    " insert into parts values (50, 'east')",
    "cycle of foreign keys": "begin; delete from hens; insert into eggs values (3, null); commit",
    "cascade": "delete from hens where id = 2",
    "deferred unique": "begin; update ordered set position = 6 - position; commit",
    "exclusion": "delete from bookings; insert into bookings values (1, '(,)')",
    "row-level security": "update secrets set owner = 'x'; delete from secrets where id = 2",
    "rules": "update ruled set name = 'x'; insert into ruled values (3, 'c'); delete from ruled",
    "triggers": "update triggered set id = id + 5; delete from triggered; insert into triggered values (9)",
    "types": "update types set d = 6, ms = null, j = '[]' where id = 1; delete from types where id = 2",
    "long values": "update types set big = repeat(md5(random()::text), 5000)",
    "large table": "update big set name = 'x' where id in (1, 777, 19999); delete from big where id % 4000 = 5;"
    " insert into big values (0, 'zero', 0)",
    "many blocks of a large table": "delete from big where id % 997 = 3; update big set n = 0 where id % 1009 = 4",
    "sequences": "select nextval('used'), nextval('cycling'), nextval('descending'), nextval('cached')",
    "cycled sequence": "select nextval('cycling') from generate_series(1, 4)",
    "setval": "select setval('used', 1000), setval('descending', -7, false)",
    "shared sequence": "insert into sharing_a default values; insert into sharing_b default values",
    "copy": "copy plain (name) from program 'echo a; echo b'",
    "without triggers": "set session_replication_role = replica; delete from hens; update triggered set changed = now()",
    "asynchronous": "set synchronous_commit = off; insert into plain (name) values ('x')",
    "cursor": "begin; declare c cursor for select * from plain for update; fetch 3 from c;"
    " update plain set n = 1 where current of c; commit",
    "copied rows": "insert into big select id + 100000, name, n from big where id < 3000",
}


def write(clone: Clone, statements: str) -> None:
    """Run statements as a test would, on a connection of its own, which is closed."""
    with psycopg.connect(clone.dsn, autocommit=True) as connection:
        connection.execute(statements.encode())


@pytest.mark.parametrize("name", WRITING)
def test_what_was_written_is_undone(
    name: str, clone: Clone, rewinder: Rewinder, fresh: dict[str, list[str]]
) -> None:
    """Twice: the second time, the rows that were put back are elsewhere. A third time with nothing written."""
    for _ in range(2):
        write(clone, WRITING[name])
        assert rewinder.rewind() == Outcome("rewound")
        assert contents(clone) == fresh
    assert rewinder.rewind() == Outcome("untouched")


def test_one_clone_after_many_tests(
    clone: Clone, rewinder: Rewinder, fresh: dict[str, list[str]]
) -> None:
    """Rows that were moved by one undoing are found by the next, whatever it was for."""
    for _ in range(3):
        for statements in WRITING.values():
            write(clone, statements)
            assert rewinder.rewind() == Outcome("rewound")
    assert contents(clone) == fresh


def test_numbers_go_on_as_in_a_fresh_clone(clone: Clone, rewinder: Rewinder) -> None:
    """The next value of each sequence is the first one again, and taking it is seen again."""
    for _ in range(2):
        with psycopg.connect(clone.dsn) as connection:
            row = connection.execute(
                "select nextval('used'), nextval('cycling'), nextval('descending'), nextval('cached')"
            ).fetchone()
            assert row == (3, 1, 100, 1)
        assert rewinder.rewind() == Outcome("rewound")


def test_an_open_transaction_is_ended_and_undone(
    clone: Clone, rewinder: Rewinder, fresh: dict[str, list[str]]
) -> None:
    """A leaked session with uncommitted work and a lock on a table stands in nobody's way."""
    leaked = psycopg.connect(clone.dsn)
    leaked.execute("update plain set n = 0; lock table plain in access exclusive mode")
    assert rewinder.rewind() == Outcome("rewound")
    assert contents(clone) == fresh
    with pytest.raises(psycopg.OperationalError):
        leaked.execute("select 1")


def test_idle_sessions_are_kept(
    clone: Clone, rewinder: Rewinder, fresh: dict[str, list[str]]
) -> None:
    """The sessions named stay, all others end, and one of those named that is in a transaction ends, too."""
    with (
        psycopg.connect(clone.dsn, autocommit=True) as kept,
        psycopg.connect(clone.dsn, autocommit=True) as other,
    ):
        keep = [kept.info.backend_pid]
        for _ in range(3):
            kept.execute("insert into plain (name) values ('kept')")
            assert rewinder.rewind(keep) == Outcome("rewound")
            assert kept.execute("select count(*) from plain").fetchone() == (20,)
        with pytest.raises(psycopg.OperationalError):
            other.execute("select 1")
        kept.execute("begin")
        kept.execute("insert into plain (name) values ('unfinished')")
        assert rewinder.rewind(keep) == Outcome("rewound")
        with pytest.raises(psycopg.OperationalError):
            kept.execute("select 1")
        assert contents(clone) == fresh


def test_virtual_columns(make: Callable[[str], TemplateRecord], shared: Server) -> None:
    """A generated column that is not stored (PostgreSQL 18) is no column to put back."""
    if shared.info.major < 18:
        pytest.skip("the server knows none")
    template = make(
        "create table t (id int, twice int generated always as (id * 2) virtual, name text, primary key (id));"
        " insert into t (id, name) values (1, 'a'), (2, 'b')"
    )
    with (
        contextlib.closing(Pristine(shared, template)) as pristine,
        create(shared, template) as clone,
    ):
        before, rewinder = contents(clone), Rewinder(clone, pristine)
        for _ in range(2):
            write(clone, "delete from t where id = 1; update t set name = 'c'")
            assert rewinder.rewind() == Outcome("rewound")
            assert contents(clone) == before
        rewinder.close()
