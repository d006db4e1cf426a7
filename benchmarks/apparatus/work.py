"""What tests do with the database that they are given: write, read, change the schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["create", "read", "write"]


def write(session: Session) -> None:
    """Three rows into two tables."""
    from sqlalchemy import text

    one, _ = session.execute(
        text("insert into table_000 (title) values ('one'), ('two') returning id")
    ).scalars()
    session.execute(
        text("insert into table_001 (title, parent_id) values ('three', :one)"), {"one": one}
    )


def read(session: Session) -> None:
    """Two questions to two tables."""
    from sqlalchemy import text

    session.execute(text("select * from table_000 where id = 7")).all()
    session.execute(
        text("select count(*) from table_001 t join table_000 u on u.id = t.parent_id")
    ).all()


def create(session: Session) -> None:
    """A new table, with a row in it."""
    from sqlalchemy import text

    session.execute(text("create table mine (id int primary key, title text)"))
    session.execute(text("insert into mine values (1, 'one')"))
