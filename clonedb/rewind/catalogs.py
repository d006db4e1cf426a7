"""What a test left in the system catalogs: nothing, new files for some relations, or a change of the schema."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from clonedb.postgres.message import Results, number, text
from clonedb.rewind.facts import Facts, RefusedError, Table
from clonedb.rewind.relations import FIRST_OID, File
from clonedb.rewind.wal import Written

__all__ = [
    "CHANGED",
    "TemplateCatalogs",
    "contents_of",
    "is_new",
    "look_at_catalogs",
    "mapped_files",
    "relations",
    "rows_of",
]

_MOST_ROWS = (
    1000  # of a catalog whose contents are compared because some rows are new: 5 us each
)

CHANGED = "a catalog was written (DDL)"


class TemplateCatalogs(Protocol):
    """What the template has."""

    def catalogs(
        self, names: Collection[str], oids: Collection[int]
    ) -> tuple[Mapping[str, int], Mapping[int, str], str]:
        """The number of rows of catalogs, the digests of those relations that there are, and that of mapped files."""

    def catalog_contents(self, name: str) -> str:
        """The digest of a catalog."""


def is_new(since: str) -> str:
    """The condition that a visible row was written by a test; `since` is `Mark.rows`."""
    # Mark.rows: two literals, `'4711', '4722'`
    limit, undoing = since.split(", ")
    # as in undo.py
    return f"pg_catalog.age(xmin) between 0 and pg_catalog.age({limit}::xid) and xmin <> {undoing}::xid"


def rows_of(catalog: str, condition: str) -> str:
    """The statement that counts the rows of a catalog, and those for which a condition holds.

    A backend's first temporary table makes the schemas pg_temp_N and pg_toast_temp_N, which
    stay and are empty.
    """
    real = " where nspname !~ '^pg_(toast_)?temp_[0-9]+$'" if catalog == "pg_namespace" else ""
    return (
        f"select count(*), count(*) filter (where {condition}) from pg_catalog.{catalog}{real}"  # noqa: S608 - a catalog's own name
    )


def contents_of(catalog: str) -> str:
    """The statement for the digest of a catalog, in which the order of the rows does not count."""
    return f"select coalesce(sum(hashtextextended(c::text, 0)), 0) from pg_catalog.{catalog} c"  # noqa: S608 - as above


def relations(condition: str) -> str:
    """The statement for some relations: oid, tablespace, file, kind, the table that a TOAST table belongs to, digest.

    The digest leaves out where and how large a relation is.
    """
    # reltablespace is 0 in the database's default tablespace, where WAL records have its
    # number. pg_relation_filenode() is null for what has no file (views, partitioned tables).
    return f"""
        select c.oid::bigint, (case c.reltablespace when 0 then d.dattablespace else c.reltablespace end)::bigint,
               coalesce(pg_catalog.pg_relation_filenode(c.oid)::bigint, 0), c.relkind::text, coalesce(o.oid, 0)::bigint,
               pg_catalog.md5((pg_catalog.to_jsonb(c) - '{{{_VOLATILE}}}'::text[])::text)
        from (select * from pg_catalog.pg_class where {condition}) c
             join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
             left join pg_catalog.pg_class o on c.relkind = 't' and o.reltoastrelid = c.oid
    """  # noqa: S608 - all literals


def mapped_files() -> str:
    """The statement for the digest of the files of those catalogs whose file pg_class does not tell."""
    # pg_class has relfilenode 0 for these; their files are in pg_filenode.map, so VACUUM FULL
    # moves them without a new row in pg_class.
    return """
        select pg_catalog.md5(string_agg(c.oid::text || ' ' || pg_catalog.pg_relation_filenode(c.oid)::text, ','
                                         order by c.oid))
        from pg_catalog.pg_class c where c.relkind in ('r', 'i', 't') and c.relfilenode = 0 and not c.relisshared
    """


def look_at_catalogs(
    ask: Callable[[Iterable[str]], Results],
    template: TemplateCatalogs,
    written: Written,
    facts: Facts,
    since: str,
) -> Facts:
    """Find out what is left of the DDL of a test: the relations by the files that they have now.

    Temporary tables, what was rolled back, and what was made and dropped again leave no row
    behind: a catalog is as it was if its rows are as many as the template's and none of them is
    new, or if new ones say what old ones said. TRUNCATE leaves new files, and so do VACUUM FULL
    and CLUSTER; the tables are added to `written.whole`. Raises RefusedError for everything
    else.
    """
    # a relation gets its file by a row of pg_class: an unknown file without one is unexplained
    if "pg_class" not in written.catalogs and written.files:
        raise RefusedError(CHANGED)
    # everything in one message: counts of the catalogs, new rows of pg_class, mapped files
    condition = is_new(since)
    names = sorted(written.catalogs - {"pg_class"})
    counts, found, ((mapped,),) = _split(
        ask(
            [
                *(rows_of(name, condition) for name in ("pg_class", *names)),
                relations(condition),
                mapped_files(),
            ]
        )
    )
    oids = [number(oid) for oid, *_ in found]
    rows, digests, files = template.catalogs(["pg_class", *names], oids)
    for name, ((count, new),) in zip(("pg_class", *names), counts, strict=True):
        if number(count) != rows[name]:
            raise RefusedError(CHANGED)
        # new rows of pg_class are expected (TRUNCATE writes some): `relations` compares them
        # below, without the columns that may change
        if name != "pg_class" and new != b"0":
            _require_same_contents(ask, template, name, rows[name])

    if text(mapped) != files or any(
        text(digest) != digests.get(number(oid)) for oid, *_, digest in found
    ):
        raise RefusedError(CHANGED)

    moved = {
        number(oid): (text(kind), (number(tablespace), number(node)), number(owner))
        for oid, tablespace, node, kind, owner, _ in found
        if not _is_known(facts, (number(tablespace), number(node)))
    }
    return _with_new_files(written, facts, moved)


def _require_same_contents(
    ask: Callable[[Iterable[str]], Results], template: TemplateCatalogs, catalog: str, rows: int
) -> None:
    if rows > _MOST_ROWS:
        raise RefusedError(CHANGED)
    (((digest,),),) = ask([contents_of(catalog)])
    if text(digest) != template.catalog_contents(catalog):
        raise RefusedError(CHANGED)


def _split(
    results: Results,
) -> tuple[Results, list[tuple[bytes | None, ...]], list[tuple[bytes | None, ...]]]:
    return results[:-2], results[-2], results[-1]


def _is_known(facts: Facts, file: File) -> bool:
    places = (
        facts.tables,
        facts.sequences,
        facts.catalogs,
        facts.large_objects,
        facts.others,
        facts.ignored,
    )
    return file[1] == 0 or any(
        file in place for place in places
    )  # views and partitioned tables have no file


def _with_new_files(
    written: Written, facts: Facts, moved: Mapping[int, tuple[str, File, int]]
) -> Facts:
    """The facts of the clone from now on; what has a new file is added to what was written."""
    tables = {table.oid: table for table in facts.tables.values()}
    sequences = {sequence.oid: sequence for sequence in facts.sequences.values()}
    for oid, (kind, _, owner) in moved.items():
        if oid in tables:
            _put_back_whole(written, tables[oid])
        elif oid in sequences:
            written.sequences.add(sequences[oid])
        elif kind == "m":
            # a refresh computes the view again, perhaps from rows that are a test's
            raise RefusedError("a materialized view was refreshed")
        elif oid < FIRST_OID or oid in facts.fragile or (kind == "t" and owner not in moved):
            # a TOAST table moves with its own table (TRUNCATE); alone, for a reason unknown
            # here
            raise RefusedError(CHANGED)

    return (
        facts.with_files({oid: file for oid, (_, file, _) in moved.items()}) if moved else facts
    )


def _put_back_whole(written: Written, table: Table) -> None:
    if table.refusal:
        raise RefusedError(table.refusal)
    # `whole` puts back every row: its single blocks have nothing to add
    written.whole.add(table)
    written.gained.pop(table, None)
    written.lost.pop(table, None)


# what TRUNCATE, VACUUM and ANALYZE write into a row of pg_class
_VOLATILE = "relfilenode,relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,relminmxid"
