"""The rows of a template, held in memory, and put back into tables that a test wrote to."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, LiteralString

from clonedb.isolation.changes import ChangedTable, Changes, Table

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

__all__ = ["Contents"]

_ROOM = 2**20  # bytes that deleted rows may take in a table before it is vacuumed

# What is computed again when a row is put back, by functions of the project's own: they may see
# other settings, or tables that are not back yet, or do more than to compute.
# A function that belongs to an extension (deptype e) counts as PostgreSQL's own. In order:
# indexes, checks of tables, checks of domains, generated columns.
_COMPUTED = """
    with calls as (
        select d.classid, d.objid from pg_depend d
        where d.refclassid = 'pg_proc'::regclass and d.refobjid >= 16384 and d.classid <> 'pg_trigger'::regclass
              and not exists (select from pg_depend e where e.classid = 'pg_proc'::regclass and e.objid = d.refobjid
                              and e.deptype = 'e'))
    select i.indrelid::bigint from pg_index i join calls on classid = 'pg_class'::regclass and objid = i.indexrelid
    union select c.conrelid::bigint from pg_constraint c
          join calls on classid = 'pg_constraint'::regclass and objid = c.oid and c.contype = 'c' and c.conrelid <> 0
    union select a.attrelid::bigint from pg_attribute a join pg_constraint c on c.contypid = a.atttypid
          join calls on classid = 'pg_constraint'::regclass and objid = c.oid where a.attnum > 0
    union select a.attrelid::bigint from pg_attribute a
          join pg_attrdef f on f.adrelid = a.attrelid and f.adnum = a.attnum
          join calls on classid = 'pg_attrdef'::regclass and objid = f.oid where a.attgenerated <> ''
"""

# only triggers and rules marked A(lways) or R(eplica) fire under session_replication_role =
# replica
_FIRES = """
    select tgrelid::bigint from pg_trigger where tgenabled in ('A', 'R')
    union select ev_class::bigint from pg_rewrite where ev_enabled in ('A', 'R')
"""

# of these it is known that entries of deleted rows change no answer; they do in an approximate
# one (pgvector's hnsw)
_INDEXES = """
    select i.indrelid::bigint from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam
    where a.amname not in ('btree', 'hash', 'gin', 'gist', 'spgist', 'brin')
"""

# types that are no enumeration, and not PostgreSQL's own; the text of its xml loses the declaration
_TO_VERIFY = """
    select distinct a.attrelid::bigint from pg_attribute a
    join pg_class c on c.oid = a.attrelid join pg_type t on t.oid = a.atttypid left join pg_type e on e.oid = t.typelem
    where c.relkind = 'r' and c.oid >= 16384 and a.attnum > 0 and not a.attisdropped and (
        a.attgenerated <> '' or t.oid in ('xml'::regtype, 'xml[]'::regtype)
        or t.oid >= 16384 and t.typtype <> 'e' and (e.typtype = 'e') is not true)
"""


class Contents:
    """The rows of each table of one template, and which tables cannot be brought back.

    `digest` tells the template from another one of its name.
    """

    def __init__(self, connection: Connection[Any], changes: Changes) -> None:
        """Read them in an unused clone."""
        self.digest: str = changes.digest
        self._refusals = {
            **dict.fromkeys(
                _oids(connection, _FIRES), "has triggers or rules that always fire"
            ),
            **dict.fromkeys(
                _oids(connection, _INDEXES), "has an index in which deleted rows leave traces"
            ),
            **{table.oid: "is a materialized view" for table in changes.tables if table.view},
        }
        self._lost: dict[int, str] = {}  # where rows that are there no more cannot be put back
        self._rows: dict[int, bytes] = {}
        self._sizes = _sizes(connection, changes.tables)
        computed = _oids(connection, _COMPUTED)
        to_verify = _oids(connection, _TO_VERIFY)
        for table in changes.tables:
            # to bring back an empty table nothing has to be read
            if not changes.rows[table.oid] or table.oid in self._refusals:
                continue
            if table.oid in computed:
                self._lost[table.oid] = (
                    "has rows for which functions of the project would be called again"
                )
                continue

            data = _read(connection, table)
            # tried on the first clone, before any test has it
            if table.oid in to_verify and not _survives(connection, table, data):
                self._lost[table.oid] = "has rows that do not survive being written as text"
            else:
                self._rows[table.oid] = data

    def why_not(self, changed: Iterable[ChangedTable]) -> str | None:
        """Why one of the tables cannot be brought back."""
        for table, only_added in changed:
            refusal = self._refusals.get(table.oid)
            if not only_added:
                refusal = refusal or self._lost.get(table.oid)
            if refusal:
                return f"{table.schema}.{table.name} was written, which {refusal}"
        return None

    def put_back(
        self, connection: Connection[Any], changed: Iterable[ChangedTable], mark: str
    ) -> None:
        """Delete the rows that came after a mark, or, if others are missing or changed, all; and put those back."""
        from psycopg import sql

        for table, only_added in changed:
            # what was added is deleted, and nothing else is touched
            delete = _named("delete from only {} t", table)
            if only_added:
                connection.execute(
                    delete + sql.SQL(" where age(t.xmin) <= age({}::xid)").format(mark)
                )
                continue

            # rows that are gone or changed are not told from the others: all are written again
            connection.execute(delete)
            if data := self._rows.get(table.oid):
                _write(connection, table, data)

    def vacuum(self, connection: Connection[Any], changed: Iterable[ChangedTable]) -> None:
        """Free the room of deleted rows where there are many; outside of transactions."""
        tables = [table for table, _ in changed]
        sizes = _sizes(connection, tables)
        for table in tables:
            # DELETE leaves the room of a row taken until VACUUM
            if sizes[table.oid] > self._sizes[table.oid] + _ROOM:
                connection.execute(_named("vacuum {}", table))


def _sizes(connection: Connection[Any], tables: Iterable[Table]) -> dict[int, int]:
    """Bytes on disk, with TOAST."""
    query = "select oid::bigint, pg_table_size(oid::oid) from unnest(%s::bigint[]) oid"
    return dict(connection.execute(query, [[table.oid for table in tables]]).fetchall())


def _survives(connection: Connection[Any], table: Table, data: bytes) -> bool:
    """Whether the rows are the same to the byte when they were put back, which is tried, and undone."""
    import psycopg

    name = _named("{}", table)
    # rows are numbered as they lie in the file, which is the order in which COPY reads and
    # writes
    compared = psycopg.sql.SQL(
        "select not exists (select from (select row_number() over () as number, t as image from only {} t) now"
        " full join pg_temp.clonedb_before b using (number) where (now.image *= b.image) is not true)"
    )
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(
                psycopg.sql.SQL(
                    "create temporary table clonedb_before as"
                    " select row_number() over () as number, t as image from only {} t"
                ).format(name)
            )
            connection.execute(psycopg.sql.SQL("delete from only {}").format(name))
            _write(connection, table, data)
            row = connection.execute(compared.format(name)).fetchone()
            return bool(row and row[0])
    except psycopg.Error:
        # the server does not take the rows again
        return False


def _read(connection: Connection[Any], table: Table) -> bytes:
    # COPY leaves generated columns out: they are computed again
    with connection.cursor().copy(_named("copy {} to stdout", table)) as copy:
        return b"".join(bytes(part) for part in copy)


def _write(connection: Connection[Any], table: Table, data: bytes) -> None:
    with connection.cursor().copy(_named("copy {} from stdin", table)) as copy:
        copy.write(data)


def _oids(connection: Connection[Any], query: LiteralString) -> Collection[int]:
    return {row[0] for row in connection.execute(query)}


def _named(statement: LiteralString, table: Table) -> Composed:
    from psycopg import sql

    return sql.SQL(statement).format(sql.Identifier(table.schema, table.name))
