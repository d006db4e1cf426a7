"""What cannot be undone with certainty is refused, with a reason, and stays refused."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

import psycopg
import pytest

from clonedb.clones.clone import Clone, create
from clonedb.postgres import sql
from clonedb.postgres.server import Server
from clonedb.rewind import facts, rewinder as module, undo
from clonedb.rewind.rewinder import Outcome, Pristine, Rewinder
from clonedb.templates.ensure import TemplateRecord
from tests.embedded.sandbox import wait_until
from tests.rewind.shapes import contents, make_template
from tests.rewind.test_shapes import write

CATALOG = "a catalog was written (DDL)"
DATABASE = "the database itself was altered"

WRITING = {
    "create table": ("create table new (id int)", CATALOG),
    "unlogged table": ("create unlogged table u as select 1", CATALOG),
    "made unlogged": ("alter table keyless set unlogged", CATALOG),
    "renamed table": ("alter table plain rename to simple", CATALOG),
    "dropped column": ("alter table plain drop column n", CATALOG),
    "disabled trigger": ("alter table triggered disable trigger all", CATALOG),
    "rows and a trigger": (
        "alter table triggered disable trigger all; delete from triggered",
        CATALOG,
    ),
    "detached partition": ("alter table parts detach partition parts_north", CATALOG),
    "altered increment": ("alter sequence used increment 5", CATALOG),
    "index": ("create index on plain (n)", CATALOG),
    "dropped index": ("drop index big_n_idx", CATALOG),
    "trigger made and dropped": (
        "create trigger t before insert on keyless for each row execute function note(); drop trigger t on keyless",
        CATALOG,
    ),
    "index made concurrently": ("create index concurrently on plain (n)", CATALOG),
    "comment": ("comment on table plain is 'x'", CATALOG),
    "grant": ("grant select on plain to public", CATALOG),
    "function": (
        "create or replace function f() returns int language sql as 'select 1'",
        CATALOG,
    ),
    "schema": ("create schema more", CATALOG),
    "extension": ("drop extension btree_gist cascade", CATALOG),
    "enum value": ("alter type mood add value 'new'", CATALOG),
    "materialized view": (
        "refresh materialized view seen",
        "a materialized view was refreshed",
    ),
    "cluster": ("cluster plain using plain_pkey", CATALOG),
    "always firing trigger": (
        "insert into watched values (1)",
        "a table with triggers or rules that always fire was written",
    ),
    "no columns": ("insert into unseen default values", "a table without columns was written"),
    "setting of the database": ("alter database {name} set work_mem = '5MB'", DATABASE),
    "setting of a role there": (
        "alter role current_user in database {name} set work_mem = '5MB'",
        DATABASE,
    ),
    "connection limit": ("alter database {name} connection limit 7", DATABASE),
    "grant on the database": ("revoke connect on database {name} from public", DATABASE),
    "comment on the database": ("comment on database {name} is 'x'", DATABASE),
    "rows and a setting": (
        "insert into plain values (100); alter database {name} set work_mem = '5MB'",
        DATABASE,
    ),
}


@pytest.mark.parametrize("name", WRITING)
def test_it_is_refused(name: str, clone: Clone, rewinder: Rewinder) -> None:
    """At once, and again when asked again."""
    statements, reason = WRITING[name]
    write(clone, statements.format(name=clone.name))
    assert rewinder.rewind() == Outcome("refused", reason)
    assert rewinder.rewind() == Outcome("refused", reason)


def test_a_refused_clone_has_no_session(
    shared: Server, clone: Clone, rewinder: Rewinder
) -> None:
    """It can be dropped at once."""
    write(clone, "insert into plain values (100)")
    assert rewinder.rewind() == Outcome("rewound")
    write(clone, "create table new (id int)")
    assert rewinder.rewind().kind == "refused"
    wait_until(lambda: not shared.run(sql.backend_pids, clone.name))


def test_too_much_was_written(
    clone: Clone, rewinder: Rewinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading much WAL costs more than a new clone."""
    monkeypatch.setattr(rewinder, "_most_wal", 1000)
    write(clone, "update plain set n = n + 1")
    assert rewinder.rewind() == Outcome("refused", "too much WAL was written")


@pytest.mark.parametrize("limit", ["_MOST_BLOCKS", "_MOST_SEEN", "_MOST_ROWS"])
def test_too_many_rows_were_changed(
    limit: str, clone: Clone, rewinder: Rewinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Putting back many rows costs more than a new clone."""
    monkeypatch.setattr(undo, limit, 3)
    write(clone, "delete from big where id % 1000 = 3")
    assert rewinder.rewind() == Outcome("refused", "too much was written")


def test_no_room_for_a_clone_to_read_from(
    shared: Server, template: TemplateRecord, clone: Clone
) -> None:
    """Rows that a test took cannot be put back then; those that it made can be taken away."""
    with contextlib.closing(Pristine(shared, template, lambda: None)) as pristine:
        rewinder = Rewinder(clone, pristine)
        write(clone, "insert into plain values (100)")
        assert rewinder.rewind() == Outcome("rewound")
        write(clone, "delete from plain where id = 1")
        assert rewinder.rewind() == Outcome(
            "refused", "there was no room for a clone to read rows from (max_clones)"
        )


def test_bloat(clone: Clone, rewinder: Rewinder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that has become much larger than in the template is not handed on."""
    monkeypatch.setattr(facts, "_PAGES", 2)
    write(
        clone, "insert into keyless select g, repeat('x', 500) from generate_series(1, 200) g"
    )
    assert rewinder.rewind() == Outcome("refused", "bloat")


def test_a_clone_retires(
    clone: Clone, rewinder: Rewinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After many rewinds, each of which leaves dead rows, a new clone is due."""
    monkeypatch.setattr(module, "_MOST_REWINDS", 2)
    for expected in (Outcome("rewound"), Outcome("rewound"), Outcome("refused", "bloat")):
        write(clone, "insert into plain values (100)")
        assert rewinder.rewind() == expected


def test_a_constraint_in_the_way(make: Callable[[str], TemplateRecord], shared: Server) -> None:
    """Rows that the template's own constraint would not let in again cannot be put back."""
    template = make(
        "create table t (n int); insert into t values (-1); alter table t add check (n > 0) not valid"
    )
    with (
        contextlib.closing(Pristine(shared, template)) as pristine,
        create(shared, template) as clone,
    ):
        rewinder = Rewinder(clone, pristine)
        write(clone, "delete from t")
        assert rewinder.rewind() == Outcome("refused", "the server refused it (SQLSTATE 23514)")


def test_a_session_that_stays(
    clone: Clone, rewinder: Rewinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not end within a second is not waited for any longer."""
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    with contextlib.suppress(psycopg.Error), psycopg.connect(clone.dsn) as connection:
        pid = connection.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            assert rewinder.rewind() == Outcome("refused", "a session would not end")
        finally:
            os.kill(pid, signal.SIGCONT)


def test_the_witness_ended(
    clone: Clone, pristine: Pristine, rewinder: Rewinder, shared: Server
) -> None:
    """Without the session that made the mark, nobody knows whether the server lost WAL; the next clone gets another."""
    write(clone, "insert into plain values (100)")
    pid = pristine.witness()._connection.info.backend_pid
    shared.run(lambda connection: connection.execute("select pg_terminate_backend(%s)", [pid]))
    assert rewinder.rewind().kind == "refused"
    with create(shared, pristine.template) as other:
        again = Rewinder(other, pristine)
        write(other, "insert into plain values (100)")
        assert again.rewind() == Outcome("rewound")
        again.close()


def test_a_template_built_anew(
    shared: Server, make: Callable[[str], TemplateRecord], prefix: str
) -> None:
    """A clone of another template by the same name is told from the clones of the first."""
    schema = "create table t (n int); insert into t values (1)"
    template = make(schema)
    with contextlib.closing(Pristine(shared, template)) as pristine:
        with create(shared, template) as clone:
            first = Rewinder(clone, pristine)
            write(clone, "insert into t values (2)")
            assert first.rewind() == Outcome("rewound")
            first.close()
        shared.run(sql.unseal, template.name)
        shared.run(sql.drop_database, template.name)
        anew = make_template(shared, schema, template.metadata.fingerprint)
        assert anew.name == template.name
        with create(shared, anew) as clone:
            rewinder = Rewinder(clone, pristine)
            write(clone, "delete from t")
            assert rewinder.rewind().kind == "refused"


def test_unlogged_relations(make: Callable[[str], TemplateRecord], shared: Server) -> None:
    """No WAL tells of them, so they are looked at: reading is no alarm, and writing is undone."""
    template = make(
        "create unlogged table u (id serial primary key, name text); insert into u (name) values ('a'), ('b');"
        " create unlogged table none (id int)"
    )
    with (
        contextlib.closing(Pristine(shared, template)) as pristine,
        create(shared, template) as clone,
    ):
        fresh, rewinder = contents(clone), Rewinder(clone, pristine)
        for statements in (
            "insert into u (name) values ('c')",
            "delete from u where id = 1",
            "update u set name = 'x'",
            "insert into none values (1)",
            "select nextval('u_id_seq')",
            "update u set name = 'y' where id = 2; delete from u where id = 1; insert into u (name) values ('c')",
        ):
            write(clone, "select * from u for update")
            assert rewinder.rewind() == Outcome("untouched")
            write(clone, statements)
            assert rewinder.rewind() == Outcome("rewound")
            assert contents(clone) == fresh
        rewinder.close()
