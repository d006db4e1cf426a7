"""In which steps a dump is restored: what needs nothing of each other at once, and the rest in pg_dump's own order."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from clonedb.archive.needs import Needs
from clonedb.archive.script import Entry, Key, Script

__all__ = ["Work", "schedule"]

_TABLES = 10  # tables, or what is of them, that are one transaction: a server has room for some thousand locks
_REFERENCES = 5
_ENTRIES = 50  # of those that keep their order
_LARGE = 4 * 1024 * 1024  # bytes of rows from which on a transaction takes no more
_DEFAULTS = b"SET default_tablespace = '';\nSET default_table_access_method = heap;\n"
_BEGIN = ("CONSTRAINT", "INDEX", "INDEX ATTACH", "COMMENT")  # with these pg_dump's last section begins

Step = Sequence["Work"]


@dataclass(frozen=True, slots=True)
class Work:
    """What is done in one transaction; `uses` are tables that nobody else may work on meanwhile."""

    settings: bytes
    entries: tuple[Entry, ...]
    uses: frozenset[int] = frozenset()


def schedule(needs: Needs, before: Script, rows: Script, after: Script) -> Iterator[Step]:
    """The steps, given the three sections of a dump; of each step everything may be done at once.

    Tables that need no other come as soon as what all tables need is there; what else a table may need pg_dump puts
    behind tables only when it needs one itself. References come before indexes: a server that checks one opens every
    index of both tables.
    """
    counted = Counter(entry.key for entry in itertools.chain(before.entries, rows.entries, after.entries))
    table_of = {
        key: table
        for table, parts in needs.parts.items()
        for key in parts
        if all(counted[part] <= 1 for part in parts)  # of two, one only looks like an entry
    }
    alone = {key for key, number in counted.items() if number == 1}
    return itertools.chain(_filled(table_of, before, rows), _indexed(needs, alone, after))


def _filled(table_of: Mapping[Key, int], before: Script, rows: Script) -> Iterator[Step]:
    first = list(itertools.takewhile(lambda entry: entry.key not in table_of, before.entries))
    tables: dict[int, list[Entry]] = defaultdict(list)
    rest = []
    for entry in before.entries[len(first) :]:
        tables[table_of[entry.key]].append(entry) if entry.key in table_of else rest.append(entry)
    for entry in rows.entries:
        if entry.rows is None or entry.rows.length:
            tables[table_of[entry.key]].append(entry) if entry.key in table_of else rest.append(entry)
    yield from _in_order(first)
    yield _at_once(tables.values())
    yield from _in_order(rest)


def _indexed(needs: Needs, alone: set[Key], after: Script) -> Iterator[Step]:
    begin = {entry.key for entry in itertools.takewhile(lambda entry: entry.key.kind in _BEGIN, after.entries)} & alone
    keys, indexes = defaultdict[int, list[Entry]](list), defaultdict[int, list[Entry]](list)
    late = {needs.keys[entry.key] for entry in after.entries if entry.key in needs.keys and entry.key not in begin}
    references, rest = [], []
    for entry in after.entries:
        key = entry.key
        if key in begin and key in needs.keys:
            keys[needs.keys[key]].append(entry)
        elif key in begin and key in needs.indexes:
            indexes[needs.indexes[key]].append(entry)
        elif key in alone and key in needs.references and needs.references[key][1] not in late:
            references.append(entry)
        else:
            rest.append(entry)
    yield _at_once(keys.values())
    yield [
        Work(_DEFAULTS, tuple(some), frozenset(itertools.chain(*(needs.references[entry.key] for entry in some))))
        for some in (references[start : start + _REFERENCES] for start in range(0, len(references), _REFERENCES))
    ]
    yield _at_once(indexes.values())
    yield from _in_order(rest)


def _at_once(tables: Iterable[Sequence[Entry]]) -> Step:
    """What is of each table, some tables a transaction."""
    works, some, size = [], list[Sequence[Entry]](), 0
    for entries in tables:
        some.append(entries)
        size += sum(entry.rows.length for entry in entries if entry.rows)
        if len(some) == _TABLES or size > _LARGE:
            works.append(some)
            some, size = [], 0
    return [Work(_DEFAULTS, tuple(itertools.chain(*some))) for some in [*works, some] if some]


def _in_order(entries: Sequence[Entry]) -> Iterator[Step]:
    """One after the other; rows in a transaction of their own."""
    for (settings, has_rows), group in itertools.groupby(
        entries, lambda entry: (entry.settings, entry.rows is not None)
    ):
        same, most = list(group), 1 if has_rows else _ENTRIES
        for start in range(0, len(same), most):
            yield [Work(settings, tuple(same[start : start + most]))]
