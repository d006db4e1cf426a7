"""The undoing: rows that tests made are deleted, rows of the template that they took are put back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from clonedb.postgres.message import Results, Row, number, text
from clonedb.rewind import large_objects
from clonedb.rewind.catalogs import look_at_catalogs
from clonedb.rewind.facts import Facts, RefusedError, Sequence, Table
from clonedb.rewind.pristine import Pristine
from clonedb.rewind.row_places import MovedRows, ranges
from clonedb.rewind.undo_session import UndoSession
from clonedb.rewind.undo_statements import BEGIN, array_literal, pids_literal
from clonedb.rewind.wal import Written
from clonedb.rewind.witness import Mark

__all__ = ["Undoing"]

_MOST_SEEN = 60_000  # rows in the blocks that may have lost some: looking for more costs more than a clone
_MOST_BLOCKS = 10_000  # of those
_MOST_UNLOGGED = 2000  # pages to look at after each test
_MOST_ROWS = 10_000  # to put back
_MOST_BYTES = 16 * 1024 * 1024  # of a table all of which is to be put back
# rows of the template, and characters of them, up to which they are sent unasked to a distant
# server
_MOST_AT_ONCE = 500
_MOST_BYTES_AT_ONCE = 64 * 1024
_MOST_RANGES = 300  # of blocks of one table; what lies between them is looked at, too


@dataclass(frozen=True, slots=True)
class _Missing:
    """Pristine rows to put back into a table: the places they were at, and their names."""

    table: Table
    places: list[str]
    names: list[str]


@dataclass(frozen=True, slots=True)
class _Belonging:
    """The pristine rows of some blocks of a table: names by present place, and their texts."""

    table: Table
    spans: list[tuple[int, int]]
    rows: dict[str, str]
    texts: list[str]


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
        self.session: UndoSession = UndoSession(pristine.server, database, oid)
        self._far = pristine.witness().far
        # by a table's oid
        self._moved: dict[int, MovedRows] = {}

    @property
    def pid(self) -> int:
        """The backend's."""
        return self.session.pid

    def look_at_catalogs(self, written: Written, facts: Facts, since: Mark) -> Facts:
        """Find out what is left of the DDL of a test, as `catalogs.look_at_catalogs`."""
        return look_at_catalogs(self.session.send, self._pristine, written, facts, since.rows)

    def look_at_unlogged(self, written: Written, facts: Facts, since: Mark) -> None:
        """Add the unlogged relations that were written: no WAL tells of them, so all that is in them is looked at.

        Raises RefusedError if they are too large for that.
        """
        # what is put back as a whole need not be looked at
        tables = [table for table in facts.unlogged_tables if table not in written.whole]
        if sum(table.pages for table in tables) > _MOST_UNLOGGED:
            raise RefusedError("an unlogged table of the template is too large to be looked at")
        relations: list[Table | Sequence] = [*tables, *facts.unlogged_sequences]
        results = self.session.send(
            self.session.prepare("strangers", tables)
            + self.session.prepare("state", facts.unlogged_sequences)
            + [f"execute strangers_{table.oid}({since.rows})" for table in tables]
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
        One to a distant server, if few of the template's rows are in the blocks concerned.
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
        if any(max(blocks) > table.most_pages for table, blocks in all_blocks.items()):
            raise RefusedError("bloat")

        # DELETE before SELECT: what is visible after that is pristine
        begin = [BEGIN, *self.session.prepare("delete", all_blocks)]
        begin += [
            *self.session.prepare("places", lost),
            *self.session.prepare("empty", written.whole),
        ]
        begin += [f"execute empty_{table.oid}" for table in written.whole]
        for table, blocks in all_blocks.items():
            begin += [
                f"execute delete_{table.oid}('({start},0)', '({end},0)', {since.rows})"
                for start, end in ranges(blocks, most=_MOST_RANGES)
            ]

        # nothing has to be read before the rest can be said: one message
        if not lost and not written.whole and not written.large_objects:
            return self._finish(begin, written.sequences, mark, keep)[1]
        begin += [
            f"execute places_{table.oid}('({start},0)', '({end},0)')"
            for table, spans in lost.items()
            for start, end in spans
        ]
        if self._far and (at_once := self._at_once(lost, written)) is not None:
            return self._finish_at_once(begin, at_once, written, mark, keep)
        # results come in the order of the statements, one for each range
        present = iter(self.session.send(begin))
        missing = [
            self._missing(table, spans, {text(row[0]) for _ in spans for row in next(present)})
            for table, spans in lost.items()
        ]
        missing += [self._all_rows(table) for table in written.whole]
        if sum(len(one.places) for one in missing) > _MOST_ROWS:
            raise RefusedError("too much was written")
        if written.large_objects:
            large_objects.put_back(
                self.session.send, self._pristine.large_objects(), self._pristine.large_object
            )

        missing = [one for one in missing if one.places]
        results, found = self._finish(self._inserts(missing), written.sequences, mark, keep)
        self._note(missing, results)
        return found

    def _at_once(
        self, lost: Mapping[Table, list[tuple[int, int]]], written: Written
    ) -> list[_Belonging] | None:
        """The rows that belong into blocks which may have lost some, if so few that all can be sent."""
        if written.large_objects or not written.whole.isdisjoint(lost):
            return None
        found: list[_Belonging] = []
        for table, spans in lost.items():
            rows = self._belonging(table, spans)
            # whether such a table may get rows depends on whether any is gone
            if rows and table.computed:
                return None
            found.append(_Belonging(table, spans, rows, []))
        if sum(len(one.rows) for one in found) > _MOST_AT_ONCE:
            return None
        try:
            found = [
                replace(one, texts=self._pristine.rows(one.table, [*one.rows.values()]))
                for one in found
            ]
        except RefusedError:  # a row that is no text may be there still
            return None
        size = sum(len(row) for one in found for row in one.texts)
        return found if size <= _MOST_BYTES_AT_ONCE else None

    def _finish_at_once(
        self,
        begin: list[str],
        belonging: list[_Belonging],
        written: Written,
        mark: Mark,
        keep: Collection[int],
    ) -> Mark:
        """Have the server find out which rows are gone: one message in place of two."""
        missing = [one for one in map(self._all_rows, written.whole) if one.places]
        if sum(len(one.places) for one in missing) > _MOST_ROWS:
            raise RefusedError("too much was written")
        parts = [*begin, *self.session.prepare("restore", [one.table for one in belonging])]
        for one in belonging:
            places = ",".join(f'"{place}"' for place in one.rows)
            parts.append(
                f"execute restore_{one.table.oid}('{{{places}}}', {array_literal(one.texts)})"
            )
        results, found = self._finish(
            [*parts, *self._inserts(missing)], written.sequences, mark, keep
        )
        following = iter(results)
        present = [
            {text(row[0]) for _ in one.spans for row in next(following)} for one in belonging
        ]
        for one, here in zip(belonging, present, strict=True):
            gone = self._gone(one.rows, here)
            put_back = next(following)
            if [text(place) for *_, place in put_back] != [*gone]:
                raise RefusedError("a row is where none was left")
            self._note([_Missing(one.table, [*gone], [*gone.values()])], [put_back])
        self._note(missing, following)
        return found

    def _missing(
        self, table: Table, spans: list[tuple[int, int]], present: set[str]
    ) -> _Missing:
        """The pristine rows that are not where they belong."""
        gone = self._gone(self._belonging(table, spans), present)
        if gone and table.computed:
            raise RefusedError(table.computed)
        return _Missing(table, list(gone), list(gone.values()))

    def _belonging(self, table: Table, spans: list[tuple[int, int]]) -> dict[str, str]:
        """The pristine rows that belong into some blocks, names by present place."""
        blocks = {block for start, end in spans for block in range(start, end)}
        return self._moved_rows(table).rows(blocks, self._pristine.names(table, blocks))

    @staticmethod
    def _gone(belong: Mapping[str, str], present: set[str]) -> dict[str, str]:
        """Those that are not there."""
        # a row neither of the template's nor put back: the account of moved rows is wrong
        if not present <= belong.keys():
            raise RefusedError("a row is where none was left")
        return {place: name for place, name in belong.items() if place not in present}

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
        sequences: Collection[Sequence],
        mark: Mark,
        keep: Collection[int],
    ) -> tuple[Results, Mark]:
        """Put sequences back and commit, after `parts`: their results with others behind, and the mark after it.

        The window of the next rewind begins where this one's ended, so that what another
        session wrote in the meantime is in it. That none did, so that the clone may be handed
        on, the server's count of sessions says: one that came and went while this was going on
        is in it, because a session counts itself before its first statement or at last before
        it is gone.
        """
        results = self.session.send(
            [
                *parts,
                *self.session.prepare("sequence", sequences),
                # all in the transaction that deleted, or that begins with `parts`
                *(f"execute sequence_{sequence.oid}" for sequence in sequences),
                "execute own",
                "commit",
                "execute place",
                f"execute finish({self._oid}, {pids_literal(keep)}, '{{}}')",
            ],
        )
        ((own,),), ((place,),), ((ceiling, present, sessions),) = results[-3:]
        # one that came and went is in the count
        if present != b"0" or number(sessions) != mark.sessions:
            raise RefusedError("a session came while it was undone")
        undoing = None if own is None else number(own)

        # no other transaction of the whole server wrote anything
        early = mark.early is not None and mark.early >= mark.xid
        alone = number(ceiling) == mark.xid + mark.own + early + (undoing is not None)
        quiet = text(place) if alone else mark.quiet
        return results, replace(mark, undoing=undoing, quiet=quiet)

    def _inserts(self, missing: Collection[_Missing]) -> list[str]:
        """What puts rows back."""
        return self.session.prepare("insert", [one.table for one in missing]) + [
            f"execute insert_{one.table.oid}({array_literal(self._pristine.rows(one.table, one.names))})"
            for one in missing
        ]

    def _note(self, missing: Iterable[_Missing], results: Iterable[list[Row]]) -> None:
        """Note where rows were put back, and that they are what they were; other results may follow."""
        for one, placed in zip(missing, results, strict=False):
            if any(same != b"t" for _, same, *_ in placed):
                raise RefusedError("a row cannot be computed again as it was")
            places = (text(new) for new, *_ in placed)
            self._moved_rows(one.table).move(zip(one.places, places, one.names, strict=True))

    def close(self) -> None:
        """End the session."""
        self.session.close()
