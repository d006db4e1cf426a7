"""No false alarms: a test that only reads is told from one that wrote, whatever the server writes by itself."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

import psycopg
import pytest

from clonedb.clones.clone import Clone, create
from clonedb.postgres import sql
from clonedb.postgres.server import Server
from clonedb.postgres.servers import open_server
from clonedb.rewind.rewinder import Outcome, Pristine, Rewinder, why_not
from clonedb.settings.config import Config
from clonedb.templates.ensure import TemplateRecord
from tests.embedded.sandbox import wait_until
from tests.projects import one
from tests.rewind.ordinary import ordinary_server
from tests.rewind.shapes import SCHEMA, contents, make_template
from tests.rewind.test_shapes import WRITING, write

READING = (
    "select * from plain",
    "select count(*) from big where n < 5000",
    "select * from plain p join big b on p.id = b.id order by b.name limit 5",
    "begin; select * from plain for update; select * from big where id = 3 for share; commit",
    "begin; select * from plain for key share; rollback",
    "begin; lock table plain in access exclusive mode; commit",
    "begin isolation level serializable; select count(*) from types; commit",
    "begin; savepoint a; select 1; rollback to a; commit",
    "explain (analyze) select * from big",
    "declare c cursor with hold for select * from big; fetch 3 from c",
    "listen a; notify a, 'b'; notify b",
    "select pg_advisory_lock(1), pg_try_advisory_lock(2), txid_current()",
    "set work_mem = '5MB'; set search_path = pg_catalog; set role pg_monitor",
    "prepare p as select * from plain where id = $1; execute p(1)",
    "copy plain to program 'cat > /dev/null'",
    "select * from information_schema.columns; select * from pg_stats",
    "select last_value from used; select pg_sequence_last_value('used')",
    "select pg_relation_size('big'), pg_total_relation_size('types')",
    "update plain set n = 1 where false; delete from big where id < 0; insert into plain select 1 where false",
    "select lower(big), length(big) from types",
    "checkpoint",
    "select * from parts; select * from parent; select * from secrets; select * from ruled",
    "do $$ begin perform 1 / 0; exception when division_by_zero then null; end $$",
    "select pg_logical_emit_message(true, 'a', 'b'), pg_current_xact_id()",
)


@pytest.fixture(scope="module")
def ordinary(postgres_bin: str | None, config: Config) -> Iterator[Server]:
    """A server as packages ship it, but for autovacuum's haste, and WAL that outlives the checkpoints asked for here."""
    haste = (
        "autovacuum_naptime=1s",
        "autovacuum_vacuum_threshold=5",
        "autovacuum_analyze_threshold=5",
    )
    with ordinary_server(postgres_bin, *haste, "wal_keep_size=64MB") as url:
        server = open_server(config.replace("the test", url=url, prefix="ordinary"))
        assert why_not(server) is None
        yield server
        server.close()


@pytest.fixture(scope="module")
def ordinary_template(ordinary: Server) -> TemplateRecord:
    """The template of every shape, on it."""
    return make_template(ordinary, SCHEMA, secrets.token_hex(32))


def test_reading_leaves_a_clone_untouched(clone: Clone, rewinder: Rewinder) -> None:
    """All kinds of statements that change no contents, in one clone and one after the other."""
    for statements in READING:
        write(clone, statements)
        assert rewinder.rewind() == Outcome("untouched"), statements


def test_reading_writes_wal_on_an_ordinary_server(
    ordinary: Server, ordinary_template: TemplateRecord
) -> None:
    """With checksums a hint bit writes a page, after a checkpoint each of them again."""
    with contextlib.closing(Pristine(ordinary, ordinary_template)) as pristine:
        for _ in range(2):
            with create(ordinary, ordinary_template) as clone:
                rewinder = Rewinder(clone, pristine)
                for statements in READING:
                    write(clone, statements)
                    assert rewinder.rewind() == Outcome("untouched"), statements
                rewinder.close()


@pytest.mark.campaign("long")
def test_writing_and_then_reading_on_an_ordinary_server(
    ordinary: Server, ordinary_template: TemplateRecord
) -> None:
    """What was undone leaves hint bits to set and dead rows to prune: none of that is a change."""
    with (
        contextlib.closing(Pristine(ordinary, ordinary_template)) as pristine,
        create(ordinary, ordinary_template) as clone,
    ):
        fresh, rewinder = contents(clone), Rewinder(clone, pristine)
        for statements in WRITING.values():
            write(clone, statements)
            assert rewinder.rewind() == Outcome("rewound"), statements
            write(clone, "checkpoint")
            assert contents(clone) == fresh, statements
            assert rewinder.rewind() == Outcome("untouched"), statements
        rewinder.close()


def test_autovacuum_is_no_test(ordinary: Server, ordinary_template: TemplateRecord) -> None:
    """It writes statistics, which are no contents, and moves no row; a clone lives on."""
    with (
        contextlib.closing(Pristine(ordinary, ordinary_template)) as pristine,
        create(ordinary, ordinary_template) as clone,
    ):
        fresh, rewinder = contents(clone), Rewinder(clone, pristine)
        question = "select count(*) from pg_stat_user_tables where autoanalyze_count > 0 and autovacuum_count > 0"
        for _ in range(2):
            write(
                clone,
                "update big set n = n + 1 where id % 1000 = 3; update plain set n = n + 1",
            )
            assert rewinder.rewind() == Outcome("rewound")
            wait_until(lambda: one(clone, question) != (0,), 30)
            assert rewinder.rewind() == Outcome("untouched")
        assert contents(clone) == fresh
        rewinder.close()


def test_what_happens_in_other_databases(
    shared: Server, template: TemplateRecord, clone: Clone, rewinder: Rewinder, admin_dsn: str
) -> None:
    """Writing, tables, clones, settings and roles elsewhere are none of this clone's business."""
    role = f"role_{secrets.token_hex(4)}"
    with create(shared, template) as other:
        write(
            other,
            WRITING["large table"] + "; create table new (id int); insert into new values (1)",
        )
        write(other, "vacuum")
        write(other, f"alter database {other.name} set work_mem = '5MB'")
        write(other, f"create role {role}; drop role {role}")
        with psycopg.connect(admin_dsn, autocommit=True) as connection:
            name = other.name + "_copy"
            connection.execute(
                f"create database {name} template {template.name} strategy wal_log".encode()
            )
            connection.execute(f"drop database {name}".encode())
    assert rewinder.rewind() == Outcome("untouched")


def test_a_position_in_the_middle_of_traffic(
    shared: Server, template: TemplateRecord, pristine: Pristine, fresh: dict[str, list[str]]
) -> None:
    """Two clones written to and rewound by turns: each window is its own clone's."""
    with create(shared, template) as one, create(shared, template) as two:
        first, second = Rewinder(one, pristine), Rewinder(two, pristine)
        for number in range(20):
            write(one, f"insert into plain values ({number} + 100)")
            write(two, f"delete from plain where id = {number} + 1")
            if number % 3 == 0:
                write(two, "delete from big where id % 100 = 7")
            assert first.rewind() == Outcome("rewound")
            assert second.rewind() == Outcome("rewound")
            assert first.rewind() == Outcome("untouched")
        assert contents(one) == contents(two) == fresh
        first.close()
        second.close()


def test_the_reference_is_dropped(shared: Server, template: TemplateRecord) -> None:
    """The clone from which rows are read is made when one is missing, and gone after close()."""

    def databases() -> int:
        return len(shared.run(sql.databases, shared.config.prefix))

    with create(shared, template) as clone:
        before = databases()
        pristine = Pristine(shared, template)
        rewinder = Rewinder(clone, pristine)
        write(clone, "insert into plain values (100)")
        assert rewinder.rewind() == Outcome("rewound")
        assert databases() == before
        write(clone, "delete from plain")
        assert rewinder.rewind() == Outcome("rewound")
        assert databases() == before + 1
        rewinder.close()
        pristine.close()
        assert databases() == before
