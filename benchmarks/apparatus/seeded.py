"""Projects with so many megabytes of seeds, and a test that changes some of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.apparatus.schemas import write_medium_schema

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["SEEDS", "changing", "write_seeded"]

SEEDS = "seeds.sql"
"""The file of a project that `seed` names."""

_EMPTY = 8  # megabytes of a database with nothing in it but the catalogs
_ROWS_A_MEGABYTE = 2200  # of 430 bytes, and 22 in the index

_SQL = """
create table seeds (id bigint generated always as identity primary key, body text not null);
insert into seeds (body) select repeat(md5(n::text), 12) from generate_series(1, {rows}) n;
"""


def write_seeded(project: Path, *, megabytes: int) -> Path:
    """Two tables of 20 rows, and a table of seeds that makes the template as large as is said: the project."""
    write_medium_schema(project, tables=2)
    (project / SEEDS).write_text(_SQL.format(rows=_rows(megabytes)))
    return project


def changing(megabytes: int) -> Callable[[Session], None]:
    """A test that updates a row of the seeds and deletes another, in places all over the table."""
    rows, numbers = _rows(megabytes), count(1)

    def test(session: Session) -> None:
        from sqlalchemy import text

        at = {"one": next(numbers) * 7919 % rows + 1, "two": next(numbers) * 104_729 % rows + 1}
        session.execute(text("update seeds set body = 'new' where id = :one"), at)
        session.execute(text("delete from seeds where id = :two"), at)

    return test


def _rows(megabytes: int) -> int:
    return max(1000, (megabytes - _EMPTY) * _ROWS_A_MEGABYTE)
