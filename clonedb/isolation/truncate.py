"""`truncate`: the worker's clone; every table is emptied after a test, and the template's rows are put back."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

from clonedb.clone import Clone
from clonedb.errors import PermissionDeniedError
from clonedb.isolation.strategy import Origin, Reusable

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Truncate"]

_TABLES = """
    select n.nspname, c.relname, c.relkind = 'r'
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and c.relpersistence <> 't' and n.nspname <> 'information_schema'
          and n.nspname !~ '^pg_' and (n.nspname, c.relname) not in (
              select coalesce(s, current_schema()), t from unnest(%s::text[], %s::text[]) v(s, t))
    order by 1, 2
"""


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of one table, as COPY writes them: with every column but the generated ones."""

    schema: str
    table: str
    data: bytes


class Truncate(Reusable):
    """TRUNCATE of every table of every user schema in one statement, then the template's rows and sequence values.

    No trigger sees it (session_replication_role = replica). The version table is left alone. The rows are read once per
    process, from the first clone before any test had it, and held in memory.
    """

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin)
        self._rows: list[_Rows] | None = None
        self._sequences: list[tuple[str, int, bool]] = []

    def make(self) -> Clone:
        """A clone; the process's first is also read."""
        clone = super().make()
        if self._rows is None:
            with contextlib.closing(clone.server.connect(clone.name)) as connection:
                self._read(connection)
        return clone

    def reset(self, clone: Clone) -> bool:
        """Put everything back; a test that changed tables so that it cannot be done costs a new clone."""
        import psycopg

        with contextlib.closing(clone.server.connect(clone.name)) as connection:
            _silence(connection, clone)
            try:
                with connection.transaction():
                    self._put_back(connection)
            except psycopg.Error:
                return False
        return True

    def _read(self, connection: Connection[Any]) -> None:
        self._rows = []
        for schema, table, has_rows in self._tables(connection):
            if has_rows:
                with connection.cursor().copy(_copy("copy {} to stdout", schema, table)) as copy:
                    data = b"".join(bytes(part) for part in copy)
                if data:
                    self._rows.append(_Rows(schema, table, data))
        self._sequences = [
            (name, value, called)
            for name, value, called in connection.execute(
                "select format('%I.%I', schemaname, sequencename), coalesce(last_value, start_value),"
                " last_value is not null from pg_sequences"
            )
        ]

    def _put_back(self, connection: Connection[Any]) -> None:
        from psycopg import sql

        if tables := [sql.Identifier(schema, table) for schema, table, _ in self._tables(connection)]:
            connection.execute(sql.SQL("truncate {}").format(sql.SQL(", ").join(tables)))
        for rows in self._rows or ():
            with connection.cursor().copy(_copy("copy {} from stdin", rows.schema, rows.table)) as copy:
                copy.write(rows.data)
        names, values, called = zip(*self._sequences, strict=True) if self._sequences else ((), (), ())
        connection.execute(
            "select setval(name::regclass, value, called)"
            " from unnest(%s::text[], %s::bigint[], %s::bool[]) s(name, value, called)",
            [list(names), list(values), list(called)],
        )

    def _tables(self, connection: Connection[Any]) -> list[tuple[str, str, bool]]:
        versions = self.origin.template.metadata.version_tables
        return connection.execute(_TABLES, [[s for _, s in versions], [t for t, _ in versions]]).fetchall()


def _copy(statement: LiteralString, schema: str, table: str) -> Any:
    from psycopg import sql

    return sql.SQL(statement).format(sql.Identifier(schema, table))


def _silence(connection: Connection[Any], clone: Clone) -> None:
    import psycopg

    try:
        connection.execute("set session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        raise PermissionDeniedError(
            f"{clone.server.about}: isolation 'truncate' puts rows back without firing triggers, for which role"
            f" {clone.server.info.user!r} lacks the right; as a superuser run `GRANT SET ON PARAMETER"
            f" session_replication_role TO \"{clone.server.info.user}\"` (PostgreSQL 15), or use isolation 'clone'"
        ) from None
