"""The sequences of a database: which of them a test advanced or set, and their first state put back."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

__all__ = ["Sequence", "Sequences"]

_CHUNK = (
    100  # sequences in one statement: each is locked until it ends, and there are so many locks
)

# a role that may not read or set a sequence cannot have advanced it either.
# CASE, and not AND alone: has_sequence_privilege() fails for what is no sequence, and a planner
# may ask in any order
_SEQUENCES = """
    select c.oid::bigint, n.nspname::text, c.relname::text, c.relpersistence = 'u'
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relpersistence <> 't' and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
          and case c.relkind when 'S' then has_sequence_privilege(c.oid, 'select')
                                           and has_sequence_privilege(c.oid, 'update') end
    order by 1
"""


@dataclass(frozen=True, slots=True)
class Sequence:
    """A sequence, and a state of it."""

    oid: int
    value: int
    called: bool


class Sequences:
    """Compares the sequences with what they were when this was made; their definitions must be the same.

    `silent` says whether one may be advanced by a transaction that gets no number: an unlogged
    one, or one of which values were taken ahead.
    """

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection
        found = connection.execute(_SEQUENCES).fetchall()
        self._queries = [
            _states(found[start : start + _CHUNK]) for start in range(0, len(found), _CHUNK)
        ]
        rows = [row for query in self._queries for row in connection.execute(query)]
        self._first = {row[0]: Sequence(*row[:3]) for row in rows}
        self.silent: bool = any(row[3] for row in rows) or any(row[3] for row in found)

    def of_clone(self, connection: Connection[Any]) -> Sequences:
        """Those of another new clone of the template."""
        same = copy.copy(self)
        same._connection = connection  # noqa: SLF001 - of this class
        return same

    def changed(self) -> tuple[Sequence, ...]:
        """Those that were advanced or set, in the state that they had at first."""
        return tuple(
            self._first[state.oid] for state in self._read() if state != self._first[state.oid]
        )

    def put_back(self, sequences: Iterable[Sequence]) -> None:
        """Set them; then the next nextval() writes WAL, as in a fresh clone."""
        for sequence in sequences:
            self._connection.execute(
                # setval() forgets the values that were taken ahead (log_cnt)
                "select setval(%s::oid::regclass, %s, %s)",
                [sequence.oid, sequence.value, sequence.called],
                prepare=True,
            )

    def _read(self) -> Iterator[Sequence]:
        for query in self._queries:
            for row in self._connection.execute(query, prepare=True):
                yield Sequence(*row[:3])


def _states(sequences: Iterable[tuple[int, str, str, bool]]) -> Composed:
    from psycopg import sql

    state = sql.SQL("select {}::bigint, last_value, is_called, log_cnt <> 0 from {}")
    return sql.SQL(" union all ").join(
        state.format(sql.Literal(oid), sql.Identifier(schema, name))
        for oid, schema, name, _ in sequences
    )
