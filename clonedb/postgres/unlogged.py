"""Unlogged relations, which PostgreSQL empties when it recovers from a crash: which of them have contents."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clonedb.errors import ServerError

if TYPE_CHECKING:
    from psycopg import Connection

    from clonedb.postgres.server import Server

__all__ = ["emptied", "filled", "require_filled"]


def filled(connection: Connection[Any]) -> list[list[str]]:
    """A database's unlogged tables that have pages, and its unlogged sequences that were used: schema and name."""
    # persistence u is unlogged, kind r a table, S a sequence (unlogged ones came with 15)
    rows = connection.execute(
        """
        select n.nspname, c.relname
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relpersistence = 'u'
              and (c.relkind = 'r' and pg_relation_size(c.oid) > 0
                   or c.relkind = 'S' and pg_sequence_last_value(c.oid) is not null)
        order by 1, 2
        """
    )
    return [[schema, name] for schema, name in rows]


def emptied(connection: Connection[Any], known: Sequence[Sequence[str]]) -> str | None:
    """The first of some unlogged relations that has no contents any more, as `schema.name`; None if all have."""
    left = filled(connection)
    return next((".".join(one) for one in known if [*one] not in left), None)


def require_filled(
    server: Server, database: str, known: Sequence[Sequence[str]], *, template: str
) -> None:
    """Raises ServerError when a clone lacks rows: the server has crashed since its template was opened."""
    with contextlib.closing(server.connect(database)) as connection:
        lost = emptied(connection, known)
    if lost is not None:
        raise ServerError(
            f"template {template!r} has lost the rows of its unlogged relation {lost!r}, as {server.about} crashed"
            " in the meantime; run again to rebuild it"
        )
