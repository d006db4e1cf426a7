"""A clone compared with a new one: equal where it was brought back, and each difference named where it was not."""

from __future__ import annotations

import pytest

from clonedb.clones.clone import Clone
from clonedb.postgres.server import Server
from clonedb.rewind.rewinder import Rewinder
from clonedb.rewind.verify import verify
from clonedb.templates.ensure import TemplateRecord


def _write(clone: Clone, statement: str) -> None:
    with clone.connect(autocommit=True) as connection:
        connection.execute(statement.encode())


def test_a_rewound_clone_equals_a_new_one(
    shared: Server, template: TemplateRecord, clone: Clone, rewinder: Rewinder
) -> None:
    """Also after rows were written, and though statistics and places on disk are others."""
    _write(clone, "update plain set n = n + 1; insert into plain (n) values (7)")
    assert rewinder.rewind().kind == "rewound"
    assert verify(shared, template, clone) == []


def test_the_clone_can_be_rewound_after_it_was_compared(
    shared: Server, template: TemplateRecord, clone: Clone, rewinder: Rewinder
) -> None:
    """Comparing writes nothing and leaves no session behind."""
    assert verify(shared, template, clone) == []
    assert rewinder.rewind().kind == "untouched"


def test_rows_that_differ_are_shown(
    shared: Server, template: TemplateRecord, clone: Clone
) -> None:
    """A row more and a row less, with the table's name."""
    _write(clone, "insert into plain (id, n) values (1234, 77)")
    differences = verify(shared, template, clone)
    assert "table public.plain: 0 rows are missing, 1 are none of the template's" in differences
    assert any(line.startswith("  + (1234,") for line in differences)


def test_a_row_that_is_there_twice_is_shown(
    shared: Server, template: TemplateRecord, clone: Clone
) -> None:
    """Though no value is new."""
    _write(clone, "insert into keyless values (1, 'x')")
    differences = verify(shared, template, clone)
    assert differences == [
        "table public.keyless: 0 rows are missing, 1 are none of the template's",
        "  + (1,x)",
    ]


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("select nextval('used')", "sequence public.used: 1 rows are missing, 1 are"),
        (
            "create function more() returns int language sql as 'select 1'",
            "catalog pg_proc: 0 rows are missing, 1 are",
        ),
        ("create table more (a int)", "table public.more is none of the template's"),
        ("drop table plain cascade", "table public.plain is gone"),
        (
            "select lo_from_bytea(0, 'large')",
            "catalog pg_largeobject: 0 rows are missing, 1 are",
        ),
    ],
)
def test_what_is_no_row_of_a_table_is_named(
    shared: Server, template: TemplateRecord, clone: Clone, statement: str, told: str
) -> None:
    """Sequences, the catalogs, tables that came or went, large objects."""
    _write(clone, statement)
    assert any(line.startswith(told) for line in verify(shared, template, clone))


def test_a_setting_of_the_database_is_told(
    shared: Server, template: TemplateRecord, clone: Clone
) -> None:
    """It stands outside of the database."""
    shared.run(
        lambda connection: connection.execute(
            f"alter database {clone.name} set work_mem = '5MB'".encode()
        )
    )
    assert verify(shared, template, clone) == [
        "the settings or privileges of the database itself differ"
    ]
