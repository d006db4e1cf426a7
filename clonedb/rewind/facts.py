"""What a template holds, as the WAL names it: tables, catalogs and sequences by the files that store them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, LiteralString

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

__all__ = ["STATISTICS", "Facts", "File", "RefusedError", "Sequence", "Table", "demand_same", "read_facts"]

File = tuple[int, int]  # tablespace and relfilenode, by which WAL records name a relation of a database

STATISTICS = "statistics were written (ANALYZE or VACUUM)"

_FIRST_OID = 16384  # what initdb made has a lower one


class RefusedError(Exception):
    """What was written cannot be undone, or not with certainty; the message is the reason, in a few words."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """An ordinary table or a partition: `columns` can be inserted into, `refusal` says why it cannot be undone.

    `bytes` are those of its TOAST table, too; `rows` are counted for unlogged tables only.
    """

    oid: int
    schema: str
    name: str
    columns: tuple[str, ...]
    pages: int
    bytes: int
    unlogged: bool
    rows: int
    refusal: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    """A sequence and the state it has in the template."""

    oid: int
    schema: str
    name: str
    unlogged: bool
    last_value: int
    is_called: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """The relations of a template by file; `others` are those whose writing means a new clone, with the reason.

    Indexes and TOAST tables of users' tables are in none of these but in `ignored`: the rows decide. `refusal` says why
    no clone of this template can be brought back. `digest` is that of all of it.
    """

    tables: Mapping[File, Table]
    sequences: Mapping[File, Sequence]
    others: Mapping[File, str]
    ignored: frozenset[File]
    refusal: str | None
    digest: str

    @property
    def unlogged_tables(self) -> list[Table]:
        """The tables whose writing leaves nothing in the WAL."""
        return [table for table in self.tables.values() if table.unlogged]

    @property
    def unlogged_sequences(self) -> list[Sequence]:
        """The sequences whose advancing leaves nothing in the WAL."""
        return [sequence for sequence in self.sequences.values() if sequence.unlogged]


def read_facts(connection: Connection[Any]) -> Facts:
    """Read them on an autocommit connection to a clone that nobody has written to."""
    tables: dict[File, Table] = {}
    others: dict[File, str] = {}
    ignored: set[File] = set()
    found: list[tuple[File, int, str, str, bool]] = []
    for oid, schema, name, kind, unlogged, *file_, pages, size, columns, fires, heap in connection.execute(_RELATIONS):
        file = (file_[0], file_[1])
        if oid < _FIRST_OID:
            others[file] = _CATALOGS.get(name, "a catalog was written (DDL)")
        elif kind == "S":
            found.append((file, oid, schema, name, unlogged))
        elif kind == "r":
            rows = _count(connection, schema, name) if unlogged else 0
            refusal = _refusal(fires=fires, heap=heap, columns=bool(columns))
            tables[file] = Table(oid, schema, name, tuple(columns), pages, size, unlogged, rows, refusal)
        elif kind == "m":
            others[file] = "a materialized view was refreshed"
        else:
            ignored.add(file)
    sequences, ahead = _sequences(connection, found)
    refusal = "a sequence of the template has values taken ahead" if ahead else None
    if connection.info.server_version >= 170000 and _value(connection, _LOGIN_TRIGGER):
        refusal = "the template has event triggers on login"
    return Facts(
        MappingProxyType(tables),
        MappingProxyType(sequences),
        MappingProxyType(others),
        frozenset(ignored),
        refusal,
        str(_value(connection, _DIGEST)),
    )


def demand_same(connection: Connection[Any], facts: Facts) -> None:
    """Raises RefusedError when a clone is not of this very template: one of the same name may have been built anew."""
    if _value(connection, _DIGEST) != facts.digest:
        raise RefusedError("the template was built anew")


def _refusal(*, fires: bool, heap: bool, columns: bool) -> str | None:
    if fires:
        return "a table with triggers or rules that always fire was written"
    if not heap:
        return "a table with an access method other than heap was written"
    return None if columns else "a table without columns was written"


def _value(connection: Connection[Any], query: LiteralString) -> Any:
    row = connection.execute(query).fetchone()
    return row[0] if row else None


def _count(connection: Connection[Any], schema: str, name: str) -> int:
    from psycopg import sql

    row = connection.execute(sql.SQL("select count(*) from only {}").format(sql.Identifier(schema, name))).fetchone()
    return int(row[0]) if row else 0


def _sequences(
    connection: Connection[Any], found: list[tuple[File, int, str, str, bool]]
) -> tuple[dict[File, Sequence], bool]:
    """Their states, and whether one will not write WAL at its next nextval()."""
    from psycopg import sql

    parts: list[Composed] = [
        sql.SQL("select {}, last_value, is_called, log_cnt from {}").format(sql.Literal(number), sql.Identifier(*names))
        for number, (_, _, *names, _) in enumerate(found)
    ]
    states: dict[int, tuple[int, bool, int]] = {}
    for start in range(0, len(parts), 100):  # each is locked until the statement ends, and there are so many locks
        query = sql.SQL(" union all ").join(parts[start : start + 100])
        states.update((number, (last, called, count)) for number, last, called, count in connection.execute(query))
    sequences, ahead = {}, False
    for number, (file, oid, schema, name, unlogged) in enumerate(found):
        last_value, is_called, log_count = states[number]
        sequences[file] = Sequence(oid, schema, name, unlogged, last_value, is_called)
        ahead = ahead or (log_count != 0 and not unlogged)
    return sequences, ahead


_CATALOGS: Mapping[str, str] = MappingProxyType(
    {
        "pg_largeobject": "a large object was written",
        "pg_largeobject_metadata": "a large object was written",
        **dict.fromkeys(
            ("pg_statistic", "pg_toast_2619", "pg_statistic_ext_data", "pg_toast_3429"),  # the latter are theirs
            STATISTICS,
        ),
    }
)

_LOGIN_TRIGGER = "select dathasloginevt from pg_catalog.pg_database where datname = current_database()"

_DIGEST = """
select md5(string_agg(c.oid::text || ' ' || pg_catalog.pg_relation_filenode(c.oid)::text, ',' order by c.oid))
from pg_catalog.pg_class c where c.relkind in ('r', 'i', 't', 'S', 'm') and not c.relisshared
"""

# The function knows the files of mapped catalogs, whose relfilenode is 0. Only triggers and rules marked A(lways) or
# R(eplica) fire under session_replication_role = replica.
_RELATIONS = """
select c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence = 'u',
       (case c.reltablespace when 0 then d.dattablespace else c.reltablespace end)::bigint,
       pg_catalog.pg_relation_filenode(c.oid)::bigint,
       coalesce(t.bytes / pg_catalog.current_setting('block_size')::int, 0),
       coalesce(t.bytes + pg_catalog.pg_relation_size(nullif(c.reltoastrelid, 0)), t.bytes, 0),
       coalesce(t.columns, '{}'),
       c.oid in (select g.tgrelid from pg_catalog.pg_trigger g where g.tgenabled in ('A', 'R'))
       or c.oid in (select w.ev_class from pg_catalog.pg_rewrite w where w.ev_enabled in ('A', 'R')),
       coalesce(m.amname = 'heap', false)
from pg_catalog.pg_class c
     join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
     left join pg_catalog.pg_am m on m.oid = c.relam
     left join lateral (
         select pg_catalog.pg_relation_size(c.oid) as bytes, array(
             select a.attname::text from pg_catalog.pg_attribute a
             where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
             order by a.attnum) as columns
         where c.relkind = 'r' and c.oid >= 16384) t on true
where c.relkind in ('r', 'i', 't', 'S', 'm') and not c.relisshared
"""
