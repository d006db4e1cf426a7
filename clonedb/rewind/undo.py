"""The undoing: rows that tests made are deleted, rows of the template that they took are put back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, LiteralString

from clonedb.postgres.message import Results, ask, number, text
from clonedb.rewind import large_objects
from clonedb.rewind.catalogs import look_at_catalogs
from clonedb.rewind.facts import Facts, RefusedError, Sequence, Table
from clonedb.rewind.own_session import open_session
from clonedb.rewind.pristine import Pristine
from clonedb.rewind.row_places import MovedRows, ranges
from clonedb.rewind.wal import Written
from clonedb.rewind.witness import Mark

if TYPE_CHECKING:
    from psycopg.sql import Composable

__all__ = ["Undoing"]

_MOST_SEEN = 60_000  # rows in the blocks that may have lost some: looking for more costs more than a clone
_MOST_BLOCKS = 10_000  # of those
_MOST_UNLOGGED = 2000  # pages to look at after each test
_MOST_ROWS = 10_000  # to put back
_MOST_BYTES = 16 * 1024 * 1024  # of a table all of which is to be put back
_MOST_RANGES = 300  # of blocks of one table; what lies between them is looked at, too
_GROWTH = 4  # times as many pages as in the template, and
_PAGES = 512  # some more, make a table too slow to hand on


@dataclass(frozen=True, slots=True)
class _Missing:
    """Pristine rows to put back into a table: the places they were at, and their names."""

    table: Table
    places: list[str]
    names: list[str]


class Undoing:
    """The session in one clone that undoes what is written there.

    A row is a test's if its xmin is of the time since the mark: transaction numbers only grow,
    and rows that undoing put back are older, but for those of the last undoing, whose number
    the mark knows. So rows are told apart without comparing contents, what a test inserted is
    deleted and nothing else is touched, and a table does not grow by its size with every
    rewind. After that the visible rows are pristine, and those of the touched blocks that are
    not there any more are put back. The row that was put back is compared with the one that was
    read, generated columns included.
    """

    def __init__(self, pristine: Pristine, database: str, oid: int) -> None:
        self._pristine = pristine
        self._oid = oid
        # by a table's oid
        self._moved: dict[int, MovedRows] = {}
        # a kind of _STATEMENTS and a relation's oid
        self._prepared: set[tuple[str, int]] = set()
        self._connection = open_session(pristine.server, database)
        try:
            # three statements in one message, which the simple protocol takes: there are no
            # parameters
            self._connection.execute(_FINISH.encode())
        except BaseException:
            self._connection.close()
            raise
        self.pid: int = self._connection.info.backend_pid

    def look_at_catalogs(self, written: Written, facts: Facts, since: Mark) -> Facts:
        """Find out what is left of the DDL of a test, as `catalogs.look_at_catalogs`."""
        return look_at_catalogs(self._send, self._pristine, written, facts, since.rows)

    def look_at_unlogged(self, written: Written, facts: Facts, since: Mark) -> None:
        """Add the unlogged relations that were written: no WAL tells of them, so all that is in them is looked at.

        Raises RefusedError if they are too large for that.
        """
        # what is put back as a whole need not be looked at
        tables = [table for table in facts.unlogged_tables if table not in written.whole]
        if sum(table.pages for table in tables) > _MOST_UNLOGGED:
            raise RefusedError("an unlogged table of the template is too large to be looked at")
        relations: list[Table | Sequence] = [*tables, *facts.unlogged_sequences]
        self._prepare("strangers", tables)
        self._prepare("state", facts.unlogged_sequences)
        results = self._send(
            [f"execute strangers_{table.oid}({since.rows})" for table in tables]
            + [f"execute state_{sequence.oid}" for sequence in facts.unlogged_sequences],
        )
        for relation, ((one, other, pages),) in zip(relations, results, strict=True):
            if isinstance(relation, Sequence):
                if (number(one), other == b"t") != (relation.last_value, relation.is_called):
                    written.sequences.add(relation)
            elif (number(one), number(other)) != (0, relation.rows):
                # an UPDATE leaves a row that is a test's, a DELETE one row fewer
                if relation.refusal:
                    raise RefusedError(relation.refusal)
                # rows that were put back may lie in blocks that VACUUM has cut off since, if a
                # test deleted them
                written.lost[relation] = {
                    *range(max(number(pages), relation.pages)),
                    *self._moved_rows(relation).blocks,
                }

    def undo(self, written: Written, since: Mark, mark: Mark, keep: Collection[int]) -> Mark:
        """Undo what was written between two marks in one transaction: the mark after it.

        Two messages to the server, or one when nothing but inserts and sequences was written.
        Raises RefusedError, or psycopg's errors; the clone is lost then.
        """
        # a block with an UPDATE or DELETE may hold a test's rows as well: `delete` looks at all
        # blocks, `places` only at those that may have lost some
        lost = {
            table: ranges(blocks, most=_MOST_RANGES) for table, blocks in written.lost.items()
        }
        all_blocks = {
            table: blocks | written.lost.get(table, set())
            for table, blocks in written.gained.items()
        }
        all_blocks = {**written.lost, **all_blocks}
        sizes = {
            table: sum(end - start for start, end in spans) for table, spans in lost.items()
        }
        seen = sum(table.density * blocks for table, blocks in sizes.items())
        if sum(sizes.values()) > _MOST_BLOCKS or seen > _MOST_SEEN:
            raise RefusedError("too much was written")
        # the highest block that was written to says how long the table has become
        if any(
            max(blocks) > table.pages * _GROWTH + _PAGES for table, blocks in all_blocks.items()
        ):
            raise RefusedError("bloat")

        self._prepare("delete", all_blocks)
        self._prepare("places", lost)
        self._prepare("empty", written.whole)
        # DELETE before SELECT: what is visible after that is pristine
        begin = ["begin isolation level read committed read write"]
        begin += [f"execute empty_{table.oid}" for table in written.whole]
        for table, blocks in all_blocks.items():
            begin += [
                f"execute delete_{table.oid}('({start},0)', '({end},0)', {since.rows})"
                for start, end in ranges(blocks, most=_MOST_RANGES)
            ]

        # nothing has to be read before the rest can be said: one message
        if not lost and not written.whole and not written.large_objects:
            return self._finish(begin, (), written.sequences, mark, keep)
        begin += [
            f"execute places_{table.oid}('({start},0)', '({end},0)')"
            for table, spans in lost.items()
            for start, end in spans
        ]
        # results come in the order of the statements, one for each range
        present = iter(self._send(begin))
        missing = [
            self._missing(table, spans, {text(row[0]) for _ in spans for row in next(present)})
            for table, spans in lost.items()
        ]
        missing += [self._all_rows(table) for table in written.whole]
        if sum(len(one.places) for one in missing) > _MOST_ROWS:
            raise RefusedError("too much was written")
        if written.large_objects:
            large_objects.put_back(
                self._send, self._pristine.large_objects(), self._pristine.large_object
            )

        return self._finish(
            [], [one for one in missing if one.places], written.sequences, mark, keep
        )

    def _missing(
        self, table: Table, spans: list[tuple[int, int]], present: set[str]
    ) -> _Missing:
        """The pristine rows that are not where they belong."""
        blocks = {block for start, end in spans for block in range(start, end)}
        belong = self._moved_rows(table).rows(blocks, self._pristine.names(table, blocks))
        # a row neither of the template's nor put back: the account of moved rows is wrong
        if not present <= belong.keys():
            raise RefusedError("a row is where none was left")
        gone = {place: name for place, name in belong.items() if place not in present}
        if gone and table.computed:
            raise RefusedError(table.computed)
        return _Missing(table, list(gone), list(gone.values()))

    def _all_rows(self, table: Table) -> _Missing:
        """All rows of a table, whose own file is gone."""
        if table.bytes > _MOST_BYTES:
            raise RefusedError("too much was written")
        names = self._pristine.names(table, range(table.pages))
        if names and table.computed:
            raise RefusedError(table.computed)
        # all its rows get new places, and `_finish` notes them
        self._moved.pop(table.oid, None)
        return _Missing(table, names, names)

    def _moved_rows(self, table: Table) -> MovedRows:
        return self._moved.setdefault(table.oid, MovedRows())

    def _finish(
        self,
        parts: list[str],
        missing: Collection[_Missing],
        sequences: Collection[Sequence],
        mark: Mark,
        keep: Collection[int],
    ) -> Mark:
        """Put rows and sequences back and commit: the mark after it.

        The window of the next rewind begins where this one's ended, so that what another
        session wrote in the meantime is in it. That none did, so that the clone may be handed
        on, the server's count of sessions says: one that came and went while this was going on
        is in it, because a session counts itself before its first statement or at last before
        it is gone.
        """
        self._prepare("insert", [one.table for one in missing])
        self._prepare("sequence", sequences)
        kept = ",".join(str(int(pid)) for pid in keep)
        results = self._send(
            [
                *parts,
                # all in the transaction that deleted, or that begins with `parts`
                *(
                    f"execute insert_{one.table.oid}({_array(self._pristine.rows(one.table, one.names))})"
                    for one in missing
                ),
                *(f"execute sequence_{sequence.oid}" for sequence in sequences),
                "execute own",
                "commit",
                "execute place",
                f"execute finish({self._oid}, '{{{kept}}}')",
            ],
        )
        # the results go on with those of sequences and of `_finish`'s own statements
        for one, placed in zip(missing, results, strict=False):
            if any(same != b"t" for _, same in placed):
                raise RefusedError("a row cannot be computed again as it was")
            places = (text(new) for new, _ in placed)
            self._moved_rows(one.table).move(zip(one.places, places, one.names, strict=True))

        ((own,),), ((place,),), ((ceiling, present, sessions),) = results[-3:]
        # one that came and went is in the count
        if present != b"0" or number(sessions) != mark.sessions:
            raise RefusedError("a session came while it was undone")
        undoing = None if own is None else number(own)

        # no other transaction of the whole server wrote anything
        alone = number(ceiling) == mark.xid + mark.own + (undoing is not None)
        return replace(mark, undoing=undoing, quiet=text(place) if alone else mark.quiet)

    def _send(self, parts: Iterable[str]) -> Results:
        """The rows of those statements that have any: one message to the server and back."""
        return ask(self._connection.pgconn, parts)

    def _prepare(self, kind: str, relations: Iterable[Table | Sequence]) -> None:
        """Prepare the statements for relations that are met for the first time, in one message."""
        from psycopg import sql

        statements: list[Composable] = []
        for relation in relations:
            # one statement of a kind for each relation, named by its oid: `delete_16390`
            if (kind, relation.oid) in self._prepared:
                continue
            self._prepared.add((kind, relation.oid))
            name = sql.Identifier(relation.schema, relation.name)
            columns, stored = (
                (relation.columns, relation.stored) if isinstance(relation, Table) else ((), ())
            )
            parts: dict[str, Composable] = {
                "statement": sql.Identifier(f"{kind}_{relation.oid}"),
                "relation": name,
                "name": sql.Literal(name.as_string(self._connection)),
                "columns": sql.SQL(", ").join(map(sql.Identifier, columns)),
                "values": sql.SQL(", ").join(
                    sql.SQL("(r).{}").format(sql.Identifier(column)) for column in columns
                ),
                "given": sql.SQL(", ").join(
                    sql.SQL("(r).{}").format(sql.Identifier(column)) for column in stored
                ),
                "stored": sql.SQL(", ").join(sql.Identifier("t", column) for column in stored),
            }
            if isinstance(relation, Sequence):
                parts["last_value"] = sql.Literal(relation.last_value)
                parts["is_called"] = sql.Literal(relation.is_called)

            statements.append(sql.SQL(_STATEMENTS[kind]).format(**parts))

        if statements:
            self._connection.execute(sql.SQL("; ").join(statements))

    def close(self) -> None:
        """End the session."""
        self._connection.close()


def _array(rows: Iterable[str]) -> str:
    """Rows as the literal of an array of their table's type."""
    # backslashes first: those that quote quotes must not be doubled
    quoted = (row.replace("\\", "\\\\").replace('"', '\\"') for row in rows)
    return "'{" + ",".join(f'"{row}"' for row in quoted).replace("'", "''") + "}'"


# age() counts as transaction numbers do, round and round, and without a comparison operator for
# xid.
# A name such as age() may be a project's function, too, in a schema before pg_catalog: each is
# written with its schema. OVERRIDING SYSTEM VALUE lets GENERATED ALWAYS AS IDENTITY columns be
# given. `n` pairs each row that was inserted with its text, and `*=` compares their images.
_STATEMENTS: Mapping[str, LiteralString] = MappingProxyType(
    {
        "delete": "prepare {statement} (tid, tid, xid, xid) as delete from only {relation}"
        " where ctid >= $1 and ctid < $2 and pg_catalog.age(xmin) between 0 and pg_catalog.age($3) and xmin <> $4",
        "places": "prepare {statement} (tid, tid) as select ctid from only {relation} where ctid >= $1 and ctid < $2",
        "empty": "prepare {statement} as delete from only {relation}",
        "insert": "prepare {statement} ({relation}[]) as"
        " with given as materialized"
        " (select (u.*)::{relation} as r, row_number() over () as n from pg_catalog.unnest($1) u),"
        " made as (insert into {relation} as t ({columns}) overriding system value"
        " select {values} from given order by given.n returning t.ctid as place, row({stored}) as image)"
        " select place, image operator(pg_catalog.*=) row({given})"
        " from (select place, image, row_number() over () as n from made) m join given using (n) order by m.n",
        "strangers": "prepare {statement} (xid, xid) as select"
        " count(*) filter (where pg_catalog.age(xmin) between 0 and pg_catalog.age($1) and xmin <> $2), count(*),"
        " pg_catalog.pg_relation_size({name}) / pg_catalog.current_setting('block_size')::int from only {relation}",
        "state": "prepare {statement} as select last_value, is_called, 0 from {relation}",
        "sequence": "prepare {statement} as select pg_catalog.setval({name}, {last_value}, {is_called})",
    }
)

# In their order: the position is read before the transactions are, and the sessions are counted
# after it was seen who is there.
_FINISH = """
prepare own as select pg_catalog.pg_current_xact_id_if_assigned()::text::bigint;
prepare place as select pg_catalog.pg_current_wal_insert_lsn()::text;
prepare finish (oid, int[]) as
select pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint,
       (select count(*) from pg_catalog.pg_stat_get_activity(null) a
        where a.datid = $1 and a.pid <> pg_catalog.pg_backend_pid() and a.backend_type <> 'autovacuum worker'
              and not (a.pid = any($2) and a.state = 'idle')),
       pg_catalog.pg_stat_get_db_sessions($1)
"""
