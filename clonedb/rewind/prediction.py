"""What a test has probably written, by what tests before it wrote: it is undone while the WAL is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from clonedb.rewind.facts import Sequence, Table
from clonedb.rewind.wal import Written
from clonedb.rewind.witness import Mark

__all__ = ["Early", "Habits", "Prediction"]

_REMEMBERED = 8  # tests that wrote something
_MOST_TABLES = 24
_MOST_BLOCKS = 64  # of a table: looking for rows in more of them in vain costs too much
_MORE = 4  # blocks behind the last one that a test wrote to


@dataclass(frozen=True, slots=True)
class Prediction:
    """Tables that got rows, with the first block and the one after the last, and sequences that were advanced."""

    tables: Mapping[Table, tuple[int, int]]
    sequences: frozenset[Sequence]

    def covers(self, written: Written) -> bool:
        """Whether nothing else was written than what was predicted."""
        if written.ddl or written.lost or written.whole or written.large_objects:
            return False
        return written.sequences <= self.sequences and all(
            table in self.tables
            and self.tables[table][0] <= min(blocks)
            and max(blocks) < min(self.tables[table][1], table.most_pages)
            for table, blocks in written.gained.items()
        )


class Habits:
    """What the last tests wrote that did write something."""

    def __init__(self) -> None:
        # replaced as a whole, as several threads may look
        self._last: tuple[tuple[Mapping[Table, tuple[int, int]], frozenset[Sequence]], ...] = ()

    def learn(self, written: Written) -> None:
        """A test wrote this."""
        tables = {table: (min(blocks), max(blocks)) for table, blocks in written.gained.items()}
        self._last = (*self._last[1 - _REMEMBERED :], (tables, frozenset(written.sequences)))

    def predict(self) -> Prediction | None:
        """All of that, the newest first as far as there is much of it; None if there is nothing."""
        tables: dict[Table, tuple[int, int]] = {}
        sequences: set[Sequence] = set()
        for last, counted in reversed(self._last):
            sequences |= counted
            for table, (low, high) in last.items():
                first, end = tables.get(table, (low, high + _MORE))
                first, end = min(first, low), max(end, high + _MORE)
                if end - first <= _MOST_BLOCKS and (
                    table in tables or len(tables) < _MOST_TABLES
                ):
                    tables[table] = first, end
        return Prediction(tables, frozenset(sequences)) if tables or sequences else None


@dataclass(frozen=True, slots=True)
class Early:
    """What became of an undoing that began before the WAL was read.

    `transaction` is its number, None if it found nothing to undo, and `began` the first that
    was not there yet when it was seen that no session does anything; `sessions` is how many
    clients had ever connected to the clone, None if that changed meanwhile or one was there.
    `position` and `ceiling` are the end of the WAL after it, and the next transaction's number.
    """

    transaction: int | None
    began: int
    sessions: int | None
    position: str
    ceiling: int

    def mark(self, mark: Mark) -> Mark:
        """A mark that was set at about the same time, after which nothing else is to be undone."""
        if self.transaction is None:
            return mark
        # no other transaction of the whole server wrote anything, and this one wrote last
        later = mark.own + (self.transaction >= mark.xid)
        alone = self.ceiling == mark.xid + later and _place(self.position) > _place(
            mark.position
        )
        quiet = self.position if alone else mark.quiet
        return replace(mark, early=self.transaction, quiet=quiet)

    def saw(self, written: Written) -> bool:
        """Whether all that was written was there when it looked for it.

        A thread of the test that goes on using a session which is to be kept may write later.
        """
        others = written.writers - {(self.transaction or 0) % 2**32}
        # transaction numbers go round and round
        return all(0 < (self.began - one) % 2**32 < 2**31 for one in others)


def _place(position: str) -> int:
    """A position in the WAL as a number."""
    high, low = position.split("/")
    return int(high, 16) << 32 | int(low, 16)
