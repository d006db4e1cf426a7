"""`truncate`: the worker's clone; every table is emptied after a test, and the template's rows are put back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

from clonedb.clone import Clone
from clonedb.errors import PermissionDeniedError
from clonedb.isolation.renewing import Renewing
from clonedb.isolation.strategy import Origin, Reusable
from clonedb.postgres import sql

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Truncate"]

# a table without a page has no row, and TRUNCATE of one takes PostgreSQL as long as of any other
_TABLES = """
    select n.nspname, c.relname
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'r' and c.relpersistence <> 't' and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
          and pg_relation_size(c.oid) > 0 and (n.nspname, c.relname) not in (
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
    """TRUNCATE of every table of every user schema that has rows, in one statement, then the template's rows and
    sequence values.

    No trigger sees it (session_replication_role = replica). The version table is left alone. The rows are read once per
    process, from the first clone before any test had it, and held in memory. The session that does all this stays open,
    and so do those of clonedb's own fixtures and of routed engines.
    """

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin)
        self._own: dict[Clone, Connection[Any]] = {}
        self._renewing = Renewing()
        self._rows: list[_Rows] | None = None
        self._sequences: list[tuple[str, int, bool]] = []

    def make(self) -> Clone:
        """A clone; the process's first is also read."""
        clone = super().make()
        try:
            self._own[clone] = connection = clone.server.connect(clone.name)
            _silence(connection, clone)
            if self._rows is None:
                self._read(connection)
        except BaseException:
            self._discard(clone)
            raise
        clone.lasting.reused = True
        return clone

    def end_sessions(self, clone: Clone) -> Sequence[sql.Session]:
        """All but those that stay open until the next test."""
        clone.dispose()
        renewal = self._renewing.begin(clone)
        try:
            keep = {*renewal.pids, self._own[clone].info.backend_pid}
            return clone.server.run(lambda connection: sql.end_open_sessions(connection, clone.name, keep=keep))
        finally:
            renewal.end()

    def reset(self, clone: Clone) -> bool:
        """Put everything back; a test that changed tables so that it cannot be done costs a new clone."""
        import psycopg

        connection = self._own[clone]
        try:
            with connection.transaction():
                self._put_back(connection)
        except psycopg.Error:
            return False
        return True

    def drop(self, clone: Clone) -> None:
        """End its session, too."""
        if (connection := self._own.pop(clone, None)) is not None:
            connection.close()
        super().drop(clone)

    def _read(self, connection: Connection[Any]) -> None:
        self._rows = []
        for schema, table in self._tables(connection):
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
        from psycopg.sql import SQL, Identifier

        if tables := [Identifier(*one) for one in self._tables(connection)]:
            # a table that refers to one of them and is not there has no rows
            connection.execute(SQL("truncate {} cascade").format(SQL(", ").join(tables)))
        for rows in self._rows or ():
            with connection.cursor().copy(_copy("copy {} from stdin", rows.schema, rows.table)) as copy:
                copy.write(rows.data)
        names, values, called = zip(*self._sequences, strict=True) if self._sequences else ((), (), ())
        connection.execute(
            "select setval(name::regclass, value, called)"
            " from unnest(%s::text[], %s::bigint[], %s::bool[]) s(name, value, called)",
            [list(names), list(values), list(called)],
        )

    def _tables(self, connection: Connection[Any]) -> list[tuple[str, str]]:
        """The tables with something in them."""
        versions = self.origin.template.metadata.version_tables
        return connection.execute(_TABLES, [[s for _, s in versions], [t for t, _ in versions]]).fetchall()


def _copy(statement: LiteralString, schema: str, table: str) -> Any:
    from psycopg import sql

    return sql.SQL(statement).format(sql.Identifier(schema, table))


def _silence(connection: Connection[Any], clone: Clone) -> None:
    import psycopg

    try:
        connection.execute("set session_replication_role = replica; set lock_timeout = '10s'")
    except psycopg.errors.InsufficientPrivilege:
        raise PermissionDeniedError(
            f"{clone.server.about}: isolation 'truncate' puts rows back without firing triggers, for which role"
            f" {clone.server.info.user!r} lacks the right; as a superuser run `GRANT SET ON PARAMETER"
            f" session_replication_role TO \"{clone.server.info.user}\"` (PostgreSQL 15), or use isolation 'clone'"
        ) from None
