"""Statements that write to catalogs, and leave nothing that a fresh clone would not have, or nothing but rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import psycopg
import pytest

from clonedb.clones.clone import Clone, create
from clonedb.postgres.server import Server
from clonedb.rewind import rewinder as module
from clonedb.rewind.rewinder import Outcome, Pristine, Rewinder
from clonedb.templates.ensure import TemplateRecord
from tests.rewind.shapes import contents
from tests.rewind.test_shapes import write

NOTHING_LEFT = {
    "created and dropped": "create table new (id serial primary key, t text); insert into new values (1); drop table new",
    "created and dropped in a transaction": "begin; create table new (id int); drop table new; commit",
    "rolled back": "begin; alter table plain add column more int; create index on plain (n); rollback",
    "truncate rolled back": "begin; truncate plain restart identity cascade; insert into plain values (1); rollback",
    "drop rolled back": 'begin; drop schema "Odd ""schema" cascade; rollback',
    "temporary table": "create temporary table t (id serial primary key, t text); insert into t values (1); analyze t",
    "temporary table of a transaction": "begin; create temporary table t on commit drop as select * from big; commit",
    "temporary sequence": "create temporary sequence t; select nextval('t')",
    "function": "create function f() returns int language sql as 'select 1'; drop function f()",
    "type": "create type color as enum ('red'); drop type color",
    "analyze": "analyze",
    "analyze one": "analyze plain",
    "vacuum": "vacuum",
    "vacuum with freezing": "vacuum (freeze, analyze) big",
    "reindex": "reindex table plain",
    "trigger disabled and enabled": "alter table triggered disable trigger all, enable trigger all",
    "catalog by hand": "update pg_class set reltuples = reltuples where relname = 'plain'",
}

ROWS_ONLY = {
    "truncate": "truncate keyless",
    "truncate with all": "truncate plain, keyless, identities, dropped restart identity",
    "truncate and restart": "truncate plain restart identity; insert into plain (name) values ('first')",
    "truncate by a key": "truncate hens, eggs cascade; insert into eggs values (7, null)",
    "truncate a parent": "truncate parts, parent",
    "truncate and rows": "insert into keyless values (9, 'x'); truncate keyless; insert into keyless values (9, 'y')",
    "truncate twice": "begin; truncate keyless; insert into keyless values (1, 'z'); truncate keyless; commit",
    "truncate after rows": "delete from plain where id < 5; truncate plain",
    "truncate of types": "truncate types",
    "restarted sequence": "alter sequence used restart",
    "restarted sequence with": "alter sequence used restart with 40; select nextval('used')",
    "vacuum full": "vacuum full plain",
    "temporary table and rows": "create temporary table t as select * from plain; delete from plain; insert into plain select * from t where id > 3",
    "large object": "select lo_from_bytea(0, 'x'), lo_create(77); comment on large object 77 is 'x'; select lo_unlink(77)",
}


@pytest.mark.parametrize("name", NOTHING_LEFT)
def test_a_statement_that_leaves_nothing(
    name: str, clone: Clone, rewinder: Rewinder, fresh: dict[str, list[str]]
) -> None:
    """The clone is handed on, and once more after rows were written along with it."""
    write(clone, NOTHING_LEFT[name])
    assert rewinder.rewind() == Outcome("untouched")
    write(clone, "delete from plain where id = 3; insert into keyless values (5, 'x')")
    write(clone, NOTHING_LEFT[name])
    assert rewinder.rewind() == Outcome("rewound")
    assert contents(clone) == fresh


@pytest.mark.parametrize("name", ROWS_ONLY)
def test_a_statement_that_leaves_rows(
    name: str, clone: Clone, rewinder: Rewinder, fresh: dict[str, list[str]]
) -> None:
    """They are put back, and what the tests after it write to the same tables is undone as ever."""
    for statements in (
        ROWS_ONLY[name],
        "delete from plain where id = 3; delete from keyless",
        ROWS_ONLY[name],
    ):
        write(clone, statements)
        assert rewinder.rewind() == Outcome("rewound")
        assert contents(clone) == fresh
    write(clone, "select * from plain; select * from keyless")
    assert rewinder.rewind() == Outcome("untouched")


def test_an_index_serves_a_table_that_was_truncated(clone: Clone, rewinder: Rewinder) -> None:
    """The rows that were put back are found by it, and are kept unique by it."""
    write(clone, "truncate plain")
    assert rewinder.rewind() == Outcome("rewound")
    with psycopg.connect(clone.dsn, autocommit=True) as connection:
        connection.execute("set enable_seqscan = off")
        assert connection.execute("select id from plain where name = 'plain 7'").fetchall() == [
            (7,)
        ]
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("insert into plain (id, name) values (100, 'plain 7')")


def test_a_temporary_table_of_a_kept_session(clone: Clone, rewinder: Rewinder) -> None:
    """It is there until the session is reset, and the clone cannot be handed on before that."""
    with psycopg.connect(clone.dsn, autocommit=True) as kept:
        kept.execute("create temporary table t (id int)")
        kept.execute("discard temporary")
        assert rewinder.rewind([kept.info.backend_pid]) == Outcome("untouched")
        kept.execute("create temporary table t (id int)")
        assert rewinder.rewind([kept.info.backend_pid]) == Outcome(
            "refused", "a catalog was written (DDL)"
        )


def test_many_of_them_retire_a_clone(
    clone: Clone, rewinder: Rewinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each leaves dead rows in the catalogs."""
    monkeypatch.setattr(module, "_MOST_DDL", 2)
    for expected in (Outcome("untouched"), Outcome("untouched"), Outcome("refused", "bloat")):
        write(clone, "create temporary table t (id int)")
        assert rewinder.rewind() == expected


OBJECTS = "select lo_from_bytea(4242, 'of the template'), lo_from_bytea(4243, repeat('y', 9000)::bytea), lo_create(4244)"
OBJECT_CONTENTS = "select oid, lo_get(oid), lomacl from pg_largeobject_metadata order by oid"


@pytest.mark.parametrize(
    "statement",
    [
        "select lo_put(4242, 2, 'X')",
        "select lo_put(4243, 5000, 'X')",
        "select lo_put(4244, 0, 'X'), lo_from_bytea(0, 'new')",
        "begin; select lo_truncate(lo_open(4243, 131072), 10); commit",
        "begin; select lo_unlink(4242); rollback; select lo_create(1)",
    ],
)
def test_large_objects_are_put_back(
    make: Callable[[str], TemplateRecord], shared: Server, statement: str
) -> None:
    """Those of the template are as they were, and others are gone."""
    template = make(OBJECTS)
    with (
        contextlib.closing(Pristine(shared, template)) as pristine,
        create(shared, template) as clone,
    ):
        with psycopg.connect(clone.dsn) as connection:
            expected = connection.execute(OBJECT_CONTENTS).fetchall()
        rewinder = Rewinder(clone, pristine)
        for _ in range(2):
            write(clone, statement)
            assert rewinder.rewind() == Outcome("rewound")
            with psycopg.connect(clone.dsn) as connection:
                assert connection.execute(OBJECT_CONTENTS).fetchall() == expected
        rewinder.close()


@pytest.mark.parametrize(
    "statement", ["select lo_unlink(4242)", "grant select on large object 4242 to public"]
)
def test_a_large_object_with_other_rights_is_refused(
    make: Callable[[str], TemplateRecord], shared: Server, statement: str
) -> None:
    """Owner and privileges are not made again."""
    template = make(OBJECTS)
    with (
        contextlib.closing(Pristine(shared, template)) as pristine,
        create(shared, template) as clone,
    ):
        rewinder = Rewinder(clone, pristine)
        write(clone, statement)
        expected = "a large object of the template was unlinked, or has other privileges"
        assert rewinder.rewind() == Outcome("refused", expected)
