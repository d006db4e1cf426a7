"""The template's rows, read from a clone that is never written to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from clonedb.clones.clone import Clone
from clonedb.originals import getpid
from clonedb.postgres.message import ask, number, text
from clonedb.postgres.server import Server
from clonedb.rewind import catalogs, large_objects
from clonedb.rewind.facts import RefusedError, Table
from clonedb.rewind.own_session import open_session
from clonedb.rewind.row_places import block_of, ranges

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

__all__ = ["Reference"]

_WHOLE = 256 * 1024  # bytes up to which a table is read at once
_REMEMBERED = 32 * 1024 * 1024  # characters of rows of larger tables
_MOST = 16 * 1024 * 1024  # characters of rows to put back after one test
_MOST_OBJECTS = 4 * 1024 * 1024  # bytes of large objects that are compared
_CHUNK = 500  # rows

_SURVIVING = "case when (c.*)::text::{} *= (c.*) then (c.*)::text end"


class Reference:
    """Rows by the places (ctids) they have in the template, which are their names.

    A clone has every row where the template has it, whichever strategy copied it. It is made on
    first need, which is when a test updates or deletes one of the template's rows: 16 ms for 40
    tables. A row's text is None if it does not survive being text: an XML declaration, some
    extensions' types. That is asked of each row (`*=` compares images).
    """

    def __init__(
        self, server: Server, make: Callable[[], Clone | None], require_same: Callable[[], None]
    ) -> None:
        """`make` makes the clone; `require_same` raises RefusedError if it is of another template of the same name."""
        self._server = server
        self._make = make
        self._require_same = require_same
        self._pid = getpid()
        self._clone: Clone | None = None
        self._connection: Connection[Any] | None = None
        # by a table's oid: the rows' names in each block, and their texts by name
        self._names: dict[int, dict[int, list[str]]] = {}
        self._rows: dict[int, dict[str, str | None]] = {}
        self._remembered = 0
        # of the catalogs by name, of relations by oid
        self._counts: dict[str, int] = {}
        self._digests: dict[int, str] = {}
        self._contents: dict[str, str] = {}
        self._mapped: str | None = None
        self._objects: large_objects.Objects | None = None

    def names(self, table: Table, blocks: Iterable[int]) -> list[str]:
        """The names of the template's rows in some blocks of a table."""
        # blocks beyond the template's hold rows of tests only
        wanted = sorted({block for block in blocks if block < table.pages})
        known = self._names.setdefault(table.oid, {})
        if missing := set(wanted) - known.keys():
            # one statement for a small table; without texts if no row of it may be put back
            # anyway
            if table.bytes <= _WHOLE and not table.computed:
                missing = set(range(table.pages))
                rows = self._rows[table.oid] = self._read(table, [(0, table.pages)], text=True)
            else:
                rows = self._read(table, ranges(missing), text=False)

            # a block without rows gets its empty list, or it would be asked for each time
            found: dict[int, list[str]] = {block: [] for block in missing}
            for name in rows:
                found[block_of(name)].append(name)
            known.update(found)

        return [name for block in wanted for name in known[block]]

    def rows(self, table: Table, names: Collection[str]) -> list[str]:
        """The texts of some rows, in their order; of large tables only those are read that are asked for.

        Raises RefusedError when they are too long, or when one of them does not survive being
        text.
        """
        # simple, and rare: all is forgotten, not what was used longest ago
        if self._remembered > _REMEMBERED:
            self._rows.clear()
            self._remembered = 0

        known = self._rows.setdefault(table.oid, {})
        missing = [name for name in names if name not in known]
        size = 0
        for start in range(0, len(missing), _CHUNK):
            found = self._read_named(table, missing[start : start + _CHUNK])
            found_size = sum(len(row) for row in found.values() if row is not None)
            size += found_size
            if size > _MOST:
                raise RefusedError("too much was written")
            self._remembered += found_size
            known.update(found)

        rows = [row for name in names if (row := known[name]) is not None]
        if len(rows) != len(names):
            raise RefusedError("a row was changed that does not survive being text")
        return rows

    def catalogs(
        self, names: Collection[str], oids: Collection[int]
    ) -> tuple[Mapping[str, int], Mapping[int, str], str]:
        """How many rows catalogs have, the digests of those relations that there are, and that of the mapped files."""
        uncounted = [name for name in names if name not in self._counts]
        unknown = [oid for oid in oids if oid not in self._digests]
        if uncounted or unknown or self._mapped is None:
            wanted = ",".join(map(str, unknown))
            *counts, found, ((mapped,),) = ask(
                self._session().pgconn,
                [
                    # no row is new here: only the numbers are wanted
                    *(catalogs.rows_of(name, "false") for name in uncounted),
                    catalogs.relations(f"oid = any('{{{wanted}}}')"),
                    catalogs.mapped_files(),
                ],
            )
            self._counts.update(
                (name, number(row[0])) for name, (row,) in zip(uncounted, counts, strict=True)
            )
            self._digests.update((number(oid), text(digest)) for oid, *_, digest in found)
            self._mapped = text(mapped)

        return self._counts, self._digests, self._mapped

    def catalog_contents(self, name: str) -> str:
        """The digest of one of them."""
        if name not in self._contents:
            (((digest,),),) = ask(self._session().pgconn, [catalogs.contents_of(name)])
            self._contents[name] = text(digest)
        return self._contents[name]

    def large_objects(self) -> large_objects.Objects:
        """The large objects. Raises RefusedError when they are too large to be compared after a test."""
        if self._objects is None:
            size = "select coalesce(sum(pg_catalog.octet_length(data)), 0) from pg_catalog.pg_largeobject"
            (((bytes_,),),) = ask(self._session().pgconn, [size])
            if number(bytes_) > _MOST_OBJECTS:
                raise RefusedError(
                    "a large object was written, and the template has too many of them"
                )
            self._objects = large_objects.objects_of(
                ask(self._session().pgconn, [large_objects.OBJECTS])[0]
            )
        return self._objects

    def large_object(self, oid: int) -> str:
        """What is in one of them, in hexadecimal digits."""
        (((contents,),),) = ask(self._session().pgconn, [large_objects.CONTENTS.format(oid)])
        return text(contents)

    def _read(
        self, table: Table, spans: list[tuple[int, int]], *, text: bool
    ) -> dict[str, str | None]:
        from psycopg import sql

        # the places are in the statement's text: with parameters, the % of a name would be a
        # placeholder
        query = "select c.ctid::text, {} from only {} c where c.ctid >= {}::tid and c.ctid < {}::tid"
        name = sql.Identifier(table.schema, table.name)
        what = sql.SQL(_SURVIVING).format(name) if text else sql.SQL("''")
        found: dict[str, str | None] = {}
        # a Tid Range Scan (PostgreSQL 14 and newer), which reads these blocks only
        for start, end in spans:
            places = sql.Literal(f"({start},0)"), sql.Literal(f"({end},0)")
            found.update(self._select(sql.SQL(query).format(what, name, *places)))

        return found

    def _read_named(self, table: Table, names: Collection[str]) -> dict[str, str | None]:
        from psycopg import sql

        # a Tid Scan: one block is read for each row
        query = "select c.ctid::text, {} from only {} c where c.ctid = any({}::tid[])"
        name = sql.Identifier(table.schema, table.name)
        places = sql.Literal("{" + ",".join(f'"{name}"' for name in names) + "}")
        return self._select(
            sql.SQL(query).format(sql.SQL(_SURVIVING).format(name), name, places)
        )

    def _select(self, query: Composed) -> dict[str, str | None]:
        return {name: row for name, row in self._session().execute(query)}  # noqa: C416 - pairs, for the type checker

    def _session(self) -> Connection[Any]:
        if self._pid != getpid():  # the parent's
            self._pid, self._clone, self._connection = getpid(), None, None
        # an interrupt may have come in the middle of a statement, and the server may have ended
        # the session
        if self._connection is None or self._connection.info.transaction_status != 0:
            self.close()
            self._clone = self._make()
            if self._clone is None:
                raise RefusedError(
                    "there was no room for a clone to read rows from (max_clones)"
                )

            self._require_same()
            self._connection = open_session(self._server, self._clone.name)

        return self._connection

    def close(self) -> None:
        """Drop the clone, if there is one."""
        if self._pid == getpid():
            # the session goes first: DROP DATABASE would wait for it
            if self._connection is not None:
                self._connection.close()
            if self._clone is not None:
                self._clone.drop()
        self._connection = self._clone = None
