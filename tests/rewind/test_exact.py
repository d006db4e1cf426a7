"""Contents are the template's to the last byte, whatever happens to rows, and under whatever settings they were made."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from clonedb.clones.clone import Clone, create
from clonedb.postgres import message
from clonedb.postgres.server import Server
from clonedb.rewind.rewinder import Outcome, Pristine, Rewinder
from clonedb.templates.ensure import TemplateRecord
from tests.rewind.shapes import contents
from tests.rewind.test_shapes import write

Watched = tuple[Clone, Rewinder]


@pytest.fixture
def watched(
    make: Callable[[str], TemplateRecord], shared: Server
) -> Iterator[Callable[[str], Watched]]:
    """A function that makes a clone of a template of some schema, and watches it."""
    with contextlib.ExitStack() as stack:

        def watch(schema: str) -> Watched:
            template = make(schema)
            pristine = stack.enter_context(contextlib.closing(Pristine(shared, template)))
            clone = stack.enter_context(create(shared, template))
            return clone, stack.enter_context(contextlib.closing(Rewinder(clone, pristine)))

        yield watch


def test_rows_that_come_home(watched: Callable[[str], Watched]) -> None:
    """VACUUM frees the places that rows had, and rows that are put back take each other's, or their own again."""
    clone, rewinder = watched(
        "create table line (a int, b text); insert into line select g, 'x' from generate_series(1, 20) g"
    )
    fresh = contents(clone)
    for number in range(60):
        for statement in (
            "update line set b = b || 'x'"
            if number % 4 == 0
            else f"update line set b = 'y' where a = {number % 20}",
            f"delete from line where a % 3 = {number % 3}",
            "vacuum line" if number % 3 == 0 else "select 1",
        ):
            write(clone, statement)
        assert rewinder.rewind() == Outcome("rewound")
        if number % 5 == 0:
            write(clone, "vacuum line")
        assert contents(clone) == fresh


def test_unlogged_rows_behind_the_end(watched: Callable[[str], Watched]) -> None:
    """Rows that were put back into new blocks are missed, too, when VACUUM has cut those off."""
    clone, rewinder = watched(
        "create unlogged table cache (a int, b text); insert into cache select g, repeat('x', 200) from generate_series(1, 100) g"
    )
    fresh = contents(clone)
    for statement in (
        "update cache set b = b || 'y'",
        "delete from cache",
        "update cache set a = -a",
    ):
        for _ in range(2):
            write(clone, statement)
            write(clone, "vacuum cache")
            assert rewinder.rewind() == Outcome("rewound")
            assert contents(clone) == fresh


def test_an_index_that_remembers_dead_rows(
    watched: Callable[[str], Watched], shared: Server
) -> None:
    """hnsw finds its neighbours through dead entries: a clone where it was written is not handed on."""
    if not shared.run(
        lambda c: c.execute(
            "select 1 from pg_available_extensions where name = 'vector'"
        ).fetchone()
    ):
        pytest.skip("the server has no extension vector")
    clone, rewinder = watched(
        "create extension vector; create table chunk (id serial primary key, at vector(2), n int);"
        " insert into chunk (at, n) select array[g, 1]::vector, g from generate_series(1, 50) g;"
        " create index on chunk using hnsw (at vector_l2_ops); create table other (n int)"
    )
    write(
        clone,
        "insert into other values (1); select * from chunk order by at <-> '[1,2]' limit 3",
    )
    assert rewinder.rewind() == Outcome("rewound")
    write(clone, "insert into chunk (at) values ('[1,2]')")
    assert rewinder.rewind() == Outcome("refused", "an index of the kind 'hnsw' was written")


def test_a_function_that_was_replaced(watched: Callable[[str], Watched]) -> None:
    """A generated column that would be computed as something else today is no row of the template's."""
    clone, rewinder = watched(
        "create function norm(t text) returns text language sql immutable as 'select upper(t)';"
        " create table tag (id int, name text, key text generated always as (norm(name)) stored);"
        " insert into tag (id, name) values (1, 'a'), (2, '1');"
        " create or replace function norm(t text) returns text language sql immutable as 'select lower(t)'"
    )
    fresh = contents(clone)
    write(clone, "delete from tag where id = 2; insert into tag (id, name) values (3, 'b')")
    assert rewinder.rewind() == Outcome("rewound")
    assert contents(clone) == fresh
    write(clone, "delete from tag where id = 1")
    assert rewinder.rewind() == Outcome("refused", "a row cannot be computed again as it was")


def test_an_index_by_a_function_of_the_project(watched: Callable[[str], Watched]) -> None:
    """What such an index holds cannot be compared; rows that a test inserted leave it as it was."""
    clone, rewinder = watched(
        "create function day_of(t timestamptz) returns date language sql immutable as 'select t::date';"
        " create table visit (id int, at timestamptz); create index on visit (day_of(at));"
        " insert into visit select g, '2024-01-01 20:00+00' from generate_series(1, 5) g"
    )
    fresh = contents(clone)
    write(clone, "insert into visit values (9, now())")
    assert rewinder.rewind() == Outcome("rewound")
    assert contents(clone) == fresh
    write(clone, "update visit set id = 7 where id = 1")
    expected = "a row was changed that an index computes by a function of the project's own"
    assert rewinder.rewind() == Outcome("refused", expected)


def test_the_time_zone_of_the_database(
    make: Callable[[str], TemplateRecord], shared: Server
) -> None:
    """A generated column that depends on it is computed in the zone that the tests' sessions have."""
    template = make(
        "set timezone = 'Asia/Tokyo';"
        " create function day_of(t timestamptz) returns date language sql immutable as 'select t::date';"
        " create table visit (id int, at timestamptz, day date generated always as (day_of(at)) stored);"
        " insert into visit (id, at) values (1, '2024-01-01 20:00+00')"
    )
    for zone, expected in (
        ("Asia/Tokyo", Outcome("rewound")),
        ("UTC", Outcome("refused", "a row cannot be computed again as it was")),
    ):
        with (
            create(shared, template) as clone,
            contextlib.closing(Pristine(shared, template)) as pristine,
        ):
            setting = f"alter database \"{clone.name}\" set timezone = '{zone}'"
            shared.run(_execute, setting)
            with contextlib.closing(Rewinder(clone, pristine)) as rewinder:
                write(clone, "update visit set at = at + interval '1 hour'")
                assert rewinder.rewind() == expected


def test_a_text_that_loses_something(watched: Callable[[str], Watched], shared: Server) -> None:
    """An XML declaration is no part of the text of a document, so that the row cannot be put back."""
    with (
        create(shared, watched("select 1")[0].template) as probe,  # type: ignore[arg-type]
        psycopg.connect(probe.dsn) as connection,
    ):
        try:
            connection.execute("select xmlparse(document '<a/>')")
        except psycopg.errors.FeatureNotSupported:
            pytest.skip("the server was built without libxml")
    clone, rewinder = watched(
        "create table doc (id int, body xml); insert into doc values"
        " (1, xmlparse(document '<?xml version=\"1.0\" encoding=\"UTF-8\"?><a/>')), (2, '<b/>')"
    )
    write(clone, "delete from doc where id = 2")
    assert rewinder.rewind() == Outcome("rewound")
    write(clone, "delete from doc where id = 1")
    assert rewinder.rewind() == Outcome(
        "refused", "a row was changed that does not survive being text"
    )


def test_a_setting_that_changes_texts(
    make: Callable[[str], TemplateRecord], shared: Server
) -> None:
    """NULL in an array is no text 'NULL' where the database says so."""
    template = make(
        "create table item (id int, tags text[]); insert into item values (1, array['a', null])"
    )
    with (
        create(shared, template) as clone,
        contextlib.closing(Pristine(shared, template)) as pristine,
    ):
        shared.run(_execute, f'alter database "{clone.name}" set array_nulls = off')
        with contextlib.closing(Rewinder(clone, pristine)) as rewinder:
            write(clone, "update item set id = 2")
            assert rewinder.rewind() == Outcome("rewound")
            with psycopg.connect(clone.dsn) as connection:
                assert connection.execute(
                    "select id, tags, tags[2] is null from item"
                ).fetchall() == [(1, ["a", None], True)]


@pytest.mark.parametrize(
    "constraint",
    [
        "alter table item add check (known(name))",
        "create domain known as text check (known(value)); alter table item alter name type known",
        "create domain known as text check (known(value)); alter table item add names known[]",
        "alter table item add check (nextval('checks') > 0)",
        "alter table item add check (seems_known(name))",
        "alter table item add loud boolean generated always as (seems_known(name)) stored",
    ],
)
def test_constraints_that_write(watched: Callable[[str], Watched], constraint: str) -> None:
    """Rows that they would be asked about again are not put back."""
    clone, rewinder = watched(
        "create table item (id int, name text); create table seen (name text); create sequence checks;"
        " create function known(n text) returns boolean language plpgsql as"
        " $$ begin insert into seen values (n); return true; end $$;"
        " create function seems_known(n text) returns boolean immutable language plpgsql as"
        " $$ begin return known(n); end $$;"
        f" {constraint}; insert into item (id, name) values (1, 'one')"
    )
    fresh = contents(clone)
    write(clone, "insert into item (id, name) values (2, 'two')")
    assert rewinder.rewind() == Outcome("rewound")
    assert contents(clone) == fresh
    write(clone, "update item set id = 3")
    expected = "a row was changed whose constraints call a function that may write"
    assert rewinder.rewind() == Outcome("refused", expected)


@pytest.mark.parametrize("before", ["clonedb_stop", "clonedb_place", "clonedb_read"])
def test_a_stranger_while_the_log_is_read(
    before: str,
    clone: Clone,
    rewinder: Rewinder,
    fresh: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A session that writes and goes after it was asked who is there is noticed, or undone next time at the latest."""
    really, strangers = message.send, list[threading.Thread]()

    def send(connection: Any, statements: Any) -> None:
        if not strangers:
            strangers.append(
                threading.Thread(
                    target=write, args=(clone, "insert into keyless values (9, 'stranger')")
                )
            )
            pause = "do $$ begin perform pg_sleep(0.5); end $$"
            statements = [
                part
                for one in statements
                for part in ((pause, one) if before in one else (one,))
            ]
            threading.Timer(0.1, strangers[0].start).start()
        really(connection, statements)

    monkeypatch.setattr("clonedb.rewind.witness.send", send)
    assert rewinder.rewind().kind in {"rewound", "untouched"}
    strangers[0].join()
    rewinder.rewind()
    assert contents(clone) == fresh


def test_many_blocks_with_few_rows(watched: Callable[[str], Watched]) -> None:
    """What counts is how many rows have to be looked at."""
    clone, rewinder = watched(
        "create table page (id int primary key, body text) with (fillfactor = 20);"
        " alter table page alter body set storage plain;"
        " insert into page select g, repeat('x', 1500) from generate_series(1, 1500) g"
    )
    fresh = contents(clone)
    write(clone, "update page set id = -id")
    assert rewinder.rewind() == Outcome("rewound")
    assert contents(clone) == fresh


def _execute(connection: psycopg.Connection[Any], statement: str) -> None:
    connection.execute(statement.encode())
