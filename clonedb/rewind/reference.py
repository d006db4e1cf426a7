"""The template's rows, read from a clone that nobody writes to."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from clonedb.clone import Clone
from clonedb.postgres.server import Server
from clonedb.rewind.facts import Facts, RefusedError, Table, demand_same
from clonedb.rewind.places import block_of, ranges
from clonedb.rewind.session import open_session

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

__all__ = ["Reference"]

_WHOLE = 256 * 1024  # bytes up to which a table is read at once
_REMEMBERED = 32 * 1024 * 1024  # characters of rows of larger tables
_MOST = 16 * 1024 * 1024  # characters of rows to put back after one test
_CHUNK = 500  # rows


class Reference:
    """Rows by the places (ctids) they have in the template, which are their names.

    A clone has every row where the template has it, whichever strategy copied it. It is made on first need, which is
    when a test updates or deletes one of the template's rows: 16 ms for 40 tables.
    """

    def __init__(self, server: Server, make: Callable[[], Clone | None], facts: Facts) -> None:
        self._server = server
        self._make = make
        self._facts = facts
        self._pid = os.getpid()
        self._clone: Clone | None = None
        self._connection: Connection[Any] | None = None
        self._names: dict[int, dict[int, list[str]]] = {}
        self._rows: dict[int, dict[str, str]] = {}
        self._remembered = 0

    def names(self, table: Table, blocks: Iterable[int]) -> list[str]:
        """The names of the template's rows in some blocks of a table."""
        wanted = sorted({block for block in blocks if block < table.pages})
        known = self._names.setdefault(table.oid, {})
        if missing := set(wanted) - known.keys():
            if table.bytes <= _WHOLE:
                missing = set(range(table.pages))
                rows = self._rows[table.oid] = self._read(table, [(0, table.pages)], text=True)
            else:
                rows = self._read(table, ranges(missing), text=False)
            found: dict[int, list[str]] = {block: [] for block in missing}
            for name in rows:
                found[block_of(name)].append(name)
            known.update(found)
        return [name for block in wanted for name in known[block]]

    def rows(self, table: Table, names: Collection[str]) -> list[str]:
        """The texts of some rows, in their order; of large tables only those are read that are asked for.

        Raises RefusedError when they are too long.
        """
        if self._remembered > _REMEMBERED:
            self._rows.clear()
            self._remembered = 0
        known = self._rows.setdefault(table.oid, {})
        missing = [name for name in names if name not in known]
        size = 0
        for start in range(0, len(missing), _CHUNK):
            found = self._read_named(table, missing[start : start + _CHUNK])
            size += sum(map(len, found.values()))
            if size > _MOST:
                raise RefusedError("too much was written")
            self._remembered += size
            known.update(found)
        return [known[name] for name in names]

    def _read(self, table: Table, spans: list[tuple[int, int]], *, text: bool) -> dict[str, str]:
        from psycopg import sql

        # the places are in the statement's text: with parameters, the % of a name would be a placeholder
        query = "select c.ctid::text, {} from only {} c where c.ctid >= {}::tid and c.ctid < {}::tid"
        what = sql.SQL("(c.*)::text") if text else sql.SQL("''")
        found: dict[str, str] = {}
        for start, end in spans:
            places = sql.Literal(f"({start},0)"), sql.Literal(f"({end},0)")
            found.update(self._select(sql.SQL(query).format(what, sql.Identifier(table.schema, table.name), *places)))
        return found

    def _read_named(self, table: Table, names: Collection[str]) -> dict[str, str]:
        from psycopg import sql

        query = "select c.ctid::text, (c.*)::text from only {} c where c.ctid = any({}::tid[])"
        places = sql.Literal("{" + ",".join(f'"{name}"' for name in names) + "}")
        return self._select(sql.SQL(query).format(sql.Identifier(table.schema, table.name), places))

    def _select(self, query: Composed) -> dict[str, str]:
        return {name: row for name, row in self._session().execute(query)}  # noqa: C416 - pairs, for the type checker

    def _session(self) -> Connection[Any]:
        if self._pid != os.getpid():  # the parent's
            self._pid, self._clone, self._connection = os.getpid(), None, None
        # an interrupt may have come in the middle of a statement, and the server may have ended the session
        if self._connection is None or self._connection.info.transaction_status != 0:
            self.close()
            self._clone = self._make()
            if self._clone is None:
                raise RefusedError("there was no room for a clone to read rows from (max_clones)")
            connection = open_session(self._server, self._clone.name)
            try:
                demand_same(connection, self._facts)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def close(self) -> None:
        """Drop the clone, if there is one."""
        if self._pid == os.getpid():
            if self._connection is not None:
                self._connection.close()
            if self._clone is not None:
                self._clone.drop()
        self._connection = self._clone = None
