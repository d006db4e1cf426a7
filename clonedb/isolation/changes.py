"""What tests changed in a database, seen in its catalogs, rows and sequences, without reading the WAL."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString, NamedTuple

from clonedb.isolation.sequences import Sequence, Sequences

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

__all__ = ["ChangedTable", "Changes", "Found", "Table"]

_CHUNK = (
    100  # relations in one statement: each is locked until it ends, and there are so many locks
)

# a copy of a database has the oids and file numbers of what it is a copy of
_DIGEST = """
    select md5(string_agg(c.oid::text || ' ' || coalesce(pg_relation_filenode(c.oid), 0)::text, ',' order by c.oid))
    from pg_class c where c.relkind in ('r', 'p', 'm', 'S') and c.oid >= 16384
"""

# What initdb made is left out where an index makes that quick; a schema like public is looked
# at. pg_statistic and its like hold the planner's statistics.
# The subquery gives the catalog's first column if that is its oid and an index begins with it:
# where it is NULL all rows are looked at. A large object's oid may be below 16384.
_CATALOGS = """
    select c.relname::text, (
        select a.attname::text from pg_attribute a join pg_index i on i.indrelid = a.attrelid and i.indkey[0] = 1
        where a.attrelid = c.oid and a.attnum = 1 and a.atttypid in ('oid'::regtype, 'regproc'::regtype)
              and c.relname !~ '^pg_(namespace|extension|largeobject.*)$' limit 1)
    from pg_class c
    where c.relnamespace = 'pg_catalog'::regnamespace and c.relkind = 'r' and not c.relisshared
          and c.relname not in ('pg_statistic', 'pg_statistic_ext_data') and has_table_privilege(c.oid, 'select')
    order by 1
"""

# what TRUNCATE, VACUUM and ANALYZE change in pg_class without changing the schema
_CLASSES = """
    select md5(string_agg((to_jsonb(c) - '{relfilenode,relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,
        relminmxid}'::text[])::text, ',' order by c.oid))
    from pg_class c where c.oid >= 16384
"""

# a transaction that is prepared, and not committed yet, has a number and is not visible.
# ::xid, because xmin has 32 bits. In order: the mark, then one value for each of
# _ABOUT_SURROUNDINGS.
_SURROUNDINGS = """
    select pg_snapshot_xmax(pg_current_snapshot())::xid::text,
           (select count(*) from pg_prepared_xacts where database = current_database()),
           array(select (setrole, setconfig)::text from pg_db_role_setting where setdatabase = d.oid order by 1),
           (d.datdba, d.datacl, d.datconnlimit, d.datistemplate, shobj_description(d.oid, 'pg_database'))::text,
           array(select s.oid from pg_subscription s where s.subdbid = d.oid order by 1),
           array(select slot_name from pg_replication_slots where database = d.datname order by 1)
    from pg_database d where d.datname = current_database()
"""
_ABOUT_SURROUNDINGS = (
    "a transaction is prepared",
    "a setting of the database was changed",
    "the database itself was altered",
    "a subscription was made",
    "a replication slot was made",
)

# The last column: whether its rows can be read and compared. A role that row security holds for
# does not see all; a view without data refuses to be read.
_TABLES = """
    select c.oid::bigint, n.nspname::text, c.relname::text, c.relkind = 'm',
           has_table_privilege(c.oid, 'select') and not row_security_active(c.oid), coalesce(a.amname::text, 'none')
    from pg_class c join pg_namespace n on n.oid = c.relnamespace left join pg_am a on a.oid = c.relam
    where c.relkind in ('r', 'm') and c.relispopulated and c.relpersistence <> 't'
          and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
    order by 2, 3
"""


_STORAGE = "heap"  # the access method whose rows have an xmin


@dataclass(frozen=True, slots=True)
class Table:
    """A table that has rows of its own, or a materialized view (`view`)."""

    oid: int
    schema: str
    name: str
    view: bool


class ChangedTable(NamedTuple):
    """A table with other rows than before; `only_added` if all that were there are still there."""

    table: Table
    only_added: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What was changed: `tables` have other rows, `sequences` (in their old state) another one.

    `elsewhere` says what was changed besides these, in a few words; the others are empty then.
    """

    elsewhere: str | None = None
    tables: tuple[ChangedTable, ...] = ()
    sequences: tuple[Sequence, ...] = ()

    def __bool__(self) -> bool:
        return self != Found()


class Changes:
    """Compares a database with what it was when this was made; no other session is connected then, nor during `look`.

    A row whose xmin is not older than a mark was written after it, and a row that was deleted
    is missing from the count. Every such write needs a transaction number; as long as the
    server gave away none since the `mark`, only sequences are looked at. What escapes this: the
    planner's statistics, changes of what initdb made (a function of pg_catalog), and the order
    of rows. `blind` says what more cannot be seen: what a role may not read, and tables whose
    rows do not tell by xmin when they were written. `digest` is the same in all clones of a
    template, and another one in those of a template that was built anew.
    """

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection
        self.digest: str = self._one(_DIGEST)
        self.tables: list[Table] = []
        self.blind: str | None = None
        self._find_tables()
        self._catalogs = _catalogs_query(connection.execute(_CATALOGS).fetchall())
        self._table_queries = list(_row_queries(self.tables))
        # the mark before anything is read: what is written meanwhile counts as a test's
        self.begin()
        self._surroundings = self._read_surroundings()
        self._counts = {name: rows for name, rows, _ in self._count_catalogs()}
        self._classes = self._one(_CLASSES)
        self.rows: dict[int, int] = self._first_counts()
        self.sequences: Sequences = Sequences(connection)

    def of_clone(self, connection: Connection[Any]) -> Changes:
        """Those of another new clone: what holds for all clones of the template, 20 to 40 ms' work, is not read again.

        If the template was built anew meanwhile, all is.
        """
        same = copy.copy(self)
        return same if same._move(connection) else Changes(connection)  # noqa: SLF001 - of this class

    def _move(self, connection: Connection[Any]) -> bool:
        # the copy keeps what was read of the first clone: its rows' numbers, catalogs and
        # queries
        self._connection = connection
        # the names of tables and sequences, and so the queries, hold for this template only
        if self._one(_DIGEST) != self.digest:
            return False
        self.sequences = self.sequences.of_clone(connection)
        self.begin()
        self._surroundings = self._read_surroundings()
        return True

    def begin(self) -> None:
        """What is there now was there before; for a session that has put everything back."""
        self.mark: str = self._one("select pg_snapshot_xmax(pg_current_snapshot())::xid::text")

    def look(self) -> Found:
        """What was changed since `begin`."""
        surroundings = self._read_surroundings()
        for about, before, now in zip(
            _ABOUT_SURROUNDINGS, self._surroundings[1:], surroundings[1:], strict=True
        ):
            if before != now:
                return Found(about)
        # every write but a sequence's takes a transaction number
        if surroundings[0] == self.mark:
            return Found(sequences=self.sequences.changed())
        # the tables' queries need the schema that they were made for
        if elsewhere := self._changed_catalog():
            return Found(elsewhere)
        return Found(None, self.changed_tables(), self.sequences.changed())

    def changed_tables(self) -> tuple[ChangedTable, ...]:
        """Those with other rows than at first; the schema must be the same."""
        tables = {table.oid: table for table in self.tables}
        return tuple(
            # all rows but the fresh ones are those that were there
            ChangedTable(tables[oid], rows - fresh == self.rows[oid])
            for oid, rows, fresh in self._count_rows()
            if fresh or rows != self.rows[oid]
        )

    def changed_contents(self, leave_out: Collection[str] = ()) -> bool:
        """Whether what was there at first has other contents, also if the schema has changed meanwhile.

        `leave_out` are names of tables. Raises psycopg's errors when something is not there any
        more.
        """
        return bool(
            self._read_surroundings()[1:] != self._surroundings[1:]
            or any(table.name not in leave_out for table, _ in self.changed_tables())
            or self.sequences.changed()
            or any(
                fresh or rows != self._counts[name]
                for name, rows, fresh in self._count_catalogs()
                # catalogs that hold contents
                if name.startswith("pg_largeobject")
            )
        )

    def _find_tables(self) -> None:
        """The tables to look at, and why it is not known what a test changed, if it is not."""
        reasons = []
        for *table, readable, storage in self._connection.execute(_TABLES):
            found = Table(*table)
            if readable and storage == _STORAGE:
                self.tables.append(found)
            elif readable:
                reasons.append(
                    f"{found.schema}.{found.name} is stored by access method {storage!r}, not by {_STORAGE!r},"
                    " whose rows tell when they were written"
                )
            else:
                reasons.append(
                    f"the rows of {found.schema}.{found.name} cannot be read by the role that resets the database"
                )

        if not self._one(
            "select has_table_privilege('pg_largeobject', 'select') or not exists (select from pg_largeobject_metadata)"
        ):
            reasons.append(
                "the template has large objects, which the role that resets the database may not read"
            )
        self.blind = reasons[0] if reasons else None

    def _first_counts(self) -> dict[int, int]:
        """The number of rows of each table; one that cannot be counted, as may be an extension's, is not looked at."""
        import psycopg

        counts: dict[int, int] = {}
        try:
            return {oid: rows for oid, rows, _ in self._count_rows()}
        except psycopg.Error:
            for table in self.tables:
                try:
                    counts.update(
                        (oid, rows) for oid, rows, _ in self._count(_row_queries([table]))
                    )
                except psycopg.Error as error:
                    reason = " ".join(str(error).split())
                    self.blind = (
                        f"the rows of {table.schema}.{table.name} cannot be counted: {reason}"
                    )

        self.tables = [table for table in self.tables if table.oid in counts]
        self._table_queries = list(_row_queries(self.tables))
        return counts

    def _read_surroundings(self) -> tuple[Any, ...]:
        row = self._connection.execute(_SURROUNDINGS, prepare=True).fetchone()
        assert row is not None  # noqa: S101 - the database is there
        return tuple(row)

    def _changed_catalog(self) -> str | None:
        for name, rows, fresh in self._count_catalogs():
            same = rows == self._counts[name]
            # TRUNCATE, VACUUM and ANALYZE write pg_class anew, and leave the schema alone
            if same and (
                not fresh or (name == "pg_class" and self._one(_CLASSES) == self._classes)
            ):
                continue
            if name.startswith("pg_largeobject"):
                return "a large object was written"
            return f"the schema was changed ({name})"
        return None

    def _count_catalogs(self) -> list[tuple[str, int, int]]:
        return self._connection.execute(self._catalogs, [self.mark], prepare=True).fetchall()

    def _count_rows(self) -> Iterator[tuple[int, int, int]]:
        return self._count(self._table_queries)

    def _count(self, queries: Iterable[Composed]) -> Iterator[tuple[int, int, int]]:
        for query in queries:
            yield from self._connection.execute(query, [self.mark], prepare=True)

    def _one(self, query: LiteralString) -> Any:
        row = self._connection.execute(query).fetchone()
        return row[0] if row else None


def _catalogs_query(catalogs: list[tuple[str, str | None]]) -> Composed:
    from psycopg import sql

    counted = sql.SQL(
        "select {}, count(*), count(*) filter (where age(t.xmin) <= marked.mark) from {} t, marked {}"
    )

    # a backend's temporary schemas stay in the database when it ends
    schemas = sql.SQL("where nspname !~ '^pg_(toast_)?temp_'")
    parts = []
    for name, first in catalogs:
        which = (
            sql.SQL("where {} >= 16384").format(sql.Identifier(first)) if first else sql.SQL("")
        )
        if name == "pg_namespace":
            which = schemas
        parts.append(
            counted.format(sql.Literal(name), sql.Identifier("pg_catalog", name), which)
        )

    return _marked(parts)


def _row_queries(tables: list[Table]) -> Iterator[Composed]:
    from psycopg import sql

    counted = sql.SQL(
        # the younger a transaction is, the smaller is age(): not older than the mark. ONLY,
        # because child tables are counted by themselves.
        "select {}::bigint, count(*), count(*) filter (where age(t.xmin) <= marked.mark) from only {} t, marked"
    )
    for start in range(0, len(tables), _CHUNK):
        parts = [
            counted.format(sql.Literal(table.oid), sql.Identifier(table.schema, table.name))
            for table in tables[start : start + _CHUNK]
        ]
        yield _marked(parts)


def _marked(parts: list[Composed]) -> Composed:
    """The parts in one statement, whose only parameter is the mark."""
    from psycopg import sql

    # MATERIALIZED: age() is computed once, not for each row
    marked = sql.SQL("with marked as materialized (select age(%s::xid) as mark) ")
    return marked + sql.SQL(" union all ").join(parts)
