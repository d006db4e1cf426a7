"""What a template holds, as the WAL names it: tables, catalogs and sequences by the files that store them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, LiteralString

from clonedb.rewind.relations import FIRST_OID, File, Relation, read_relations

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

__all__ = ["Facts", "RefusedError", "Sequence", "Table", "read_facts"]

# Access methods whose indexes answer as in the template after rows were deleted and put back:
# the heap decides what a dead entry is worth. In others (hnsw) dead entries stay in the way of
# a search until VACUUM has removed them.
_PROVEN = ("btree", "hash", "gin", "gist", "spgist", "brin", "bloom", "ivfflat", "rum")


_GROWTH = 4  # times as many pages as in the template, and
_PAGES = 512  # some more, make a table too slow to hand on
_DENSE = 60.0  # rows in a page, if ANALYZE has not counted them


class RefusedError(Exception):
    """What was written cannot be undone, or not with certainty; the message is the reason, in a few words."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """An ordinary table or a partition.

    `columns` can be inserted into; `stored` are those with a value of their own in a row, so
    also the stored generated ones. `refusal` says why nothing that was written to it can be
    undone, `computed` why no row can be put back with certainty. `pages` and `bytes` are those
    in the template, `bytes` with its TOAST table, and `density` is about how many rows are in a
    page; `rows` are counted for unlogged tables only.
    """

    oid: int
    schema: str
    name: str
    columns: tuple[str, ...]
    stored: tuple[str, ...]
    pages: int
    bytes: int
    density: float
    unlogged: bool
    rows: int
    refusal: str | None
    computed: str | None

    @property
    def most_pages(self) -> int:
        """The pages from which on a clone is too slow to hand on."""
        return self.pages * _GROWTH + _PAGES


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
    """The relations of a template by file, or of a clone whose tests gave some of them new files.

    `catalogs` are the system catalogs, by name: a test may have written to them and left
    nothing. `large_objects` are the two that hold those. `others` are relations whose writing
    means a new clone, with the reason. Indexes and TOAST tables are in `ignored`: the rows
    decide; so are the planner's statistics, which no rewind promises. `fragile` are the oids of
    indexes that cannot be built again as they were. `refusal` says why no clone of this
    template can be brought back.
    """

    tables: Mapping[File, Table]
    sequences: Mapping[File, Sequence]
    catalogs: Mapping[File, str]
    large_objects: frozenset[File]
    others: Mapping[File, str]
    ignored: frozenset[File]
    fragile: frozenset[int]
    refusal: str | None

    @property
    def unlogged_tables(self) -> list[Table]:
        """The tables whose writing leaves nothing in the WAL."""
        return [table for table in self.tables.values() if table.unlogged]

    @property
    def unlogged_sequences(self) -> list[Sequence]:
        """The sequences whose advancing leaves nothing in the WAL."""
        return [sequence for sequence in self.sequences.values() if sequence.unlogged]

    def with_files(self, files: Mapping[int, File]) -> Facts:
        """The same relations, some of which have new files now, by oid: TRUNCATE gives a table and its indexes one."""
        tables = {table.oid: table for table in self.tables.values()}
        sequences = {sequence.oid: sequence for sequence in self.sequences.values()}
        # each relation is known by one file only, so its old one is left out
        old = {file: one for file, one in self.tables.items() if one.oid not in files}
        counters = {file: one for file, one in self.sequences.items() if one.oid not in files}
        return replace(
            self,
            tables=MappingProxyType(
                old | {file: tables[oid] for oid, file in files.items() if oid in tables}
            ),
            sequences=MappingProxyType(
                counters
                | {file: sequences[oid] for oid, file in files.items() if oid in sequences}
            ),
            ignored=self.ignored
            | {
                file
                for oid, file in files.items()
                if oid not in tables and oid not in sequences
            },
        )


@dataclass(slots=True)
class _Sorted:
    """The relations by what their writing means."""

    tables: dict[File, Table] = field(default_factory=dict)
    sequences: list[Relation] = field(default_factory=list)
    catalogs: dict[File, str] = field(default_factory=dict)
    large_objects: set[File] = field(default_factory=set)
    others: dict[File, str] = field(default_factory=dict)
    ignored: set[File] = field(default_factory=set)
    fragile: set[int] = field(default_factory=set)

    def put_catalog(self, relation: Relation) -> None:
        """Sort in what initdb has made."""
        # indexes follow the rows of their catalog, which are looked at
        if relation.kind == "i" or relation.of_catalog in _STATISTICS:
            self.ignored.add(relation.file)
        elif relation.of_catalog in _LARGE_OBJECTS:
            self.large_objects.add(relation.file)
        else:
            self.catalogs[relation.file] = relation.of_catalog

    def put_index(self, relation: Relation) -> None:
        """Sort in an index of a user's table."""
        if relation.access not in _PROVEN:
            self.others[relation.file] = f"an index of the kind {relation.access!r} was written"
        else:
            self.ignored.add(relation.file)
        # TRUNCATE and VACUUM FULL build indexes again from the rows; these might get other
        # contents
        if relation.access not in _PROVEN or relation.computes_index:
            self.fragile.add(relation.oid)


def read_facts(connection: Connection[Any]) -> Facts:
    """Read them on an autocommit connection to an unused clone."""
    found = _Sorted()
    for relation in read_relations(connection):
        if relation.kind == "S":
            found.sequences.append(relation)
        elif relation.oid < FIRST_OID:
            found.put_catalog(relation)
        elif relation.kind == "r":
            # no WAL tells of a row deleted from an unlogged table; the number of rows does
            rows = _count(connection, relation) if relation.unlogged else 0
            found.tables[relation.file] = _table(relation, rows)
        elif relation.kind == "m":
            # only REFRESH ... CONCURRENTLY writes to the present file of one
            found.others[relation.file] = "a materialized view was refreshed"
        elif relation.kind == "i":
            found.put_index(relation)
        else:
            found.ignored.add(relation.file)

    sequences, ahead = _sequences(connection, found.sequences)
    refusal = "a sequence of the template has values taken ahead" if ahead else None
    if connection.info.server_version >= 170000 and _value(connection, _LOGIN_TRIGGER):
        refusal = "the template has event triggers on login"
    return Facts(
        MappingProxyType(found.tables),
        MappingProxyType(sequences),
        MappingProxyType(found.catalogs),
        frozenset(found.large_objects),
        MappingProxyType(found.others),
        frozenset(found.ignored),
        frozenset(found.fragile),
        refusal,
    )


def _table(relation: Relation, rows: int) -> Table:
    refusal = computed = None
    if relation.always_fires:
        refusal = "a table with triggers or rules that always fire was written"
    elif relation.access != "heap":
        refusal = "a table with an access method other than heap was written"
    elif not relation.columns:
        # `insert into t (columns)` cannot say a row without any
        refusal = "a table without columns was written"

    if relation.writes_in_checks:
        computed = "a row was changed whose constraints call a function that may write"
    elif relation.computes_index:
        computed = "a row was changed that an index computes by a function of the project's own"

    return Table(
        relation.oid,
        relation.schema,
        relation.name,
        tuple(relation.columns),
        tuple(relation.stored),
        relation.pages,
        relation.bytes,
        relation.row_estimate / relation.pages
        if relation.pages and relation.row_estimate >= 0
        else _DENSE,
        relation.unlogged,
        rows,
        refusal,
        computed,
    )


def _value(connection: Connection[Any], query: LiteralString) -> Any:
    row = connection.execute(query).fetchone()
    return row[0] if row else None


def _count(connection: Connection[Any], relation: Relation) -> int:
    from psycopg import sql

    name = sql.Identifier(relation.schema, relation.name)
    # children have files of their own
    row = connection.execute(sql.SQL("select count(*) from only {}").format(name)).fetchone()
    return int(row[0]) if row else 0


def _sequences(
    connection: Connection[Any], found: list[Relation]
) -> tuple[dict[File, Sequence], bool]:
    """Their states, and whether one will not write WAL at its next nextval()."""
    from psycopg import sql

    parts: list[Composed] = [
        sql.SQL("select {}, last_value, is_called, log_cnt from {}").format(
            sql.Literal(number), sql.Identifier(relation.schema, relation.name)
        )
        for number, relation in enumerate(found)
    ]
    states: dict[int, tuple[int, bool, int]] = {}
    for start in range(
        0, len(parts), 100
    ):  # each is locked until the statement ends, and there are so many locks
        query = sql.SQL(" union all ").join(parts[start : start + 100])
        states.update(
            (number, (last, called, count))
            for number, last, called, count in connection.execute(query)
        )

    sequences, ahead = {}, False
    for number, one in enumerate(found):
        last_value, is_called, log_count = states[number]
        sequences[one.file] = Sequence(
            one.oid, one.schema, one.name, one.unlogged, last_value, is_called
        )
        # nextval() writes one WAL record for 32 values (SEQ_LOG_VALS in sequence.c); log_cnt is
        # how many of those are left, which it hands out in silence
        ahead = ahead or (log_count != 0 and not one.unlogged)

    return sequences, ahead


_STATISTICS = frozenset({"pg_statistic", "pg_statistic_ext_data"})
_LARGE_OBJECTS = frozenset({"pg_largeobject", "pg_largeobject_metadata"})

_LOGIN_TRIGGER = (
    "select dathasloginevt from pg_catalog.pg_database where datname = current_database()"
)
