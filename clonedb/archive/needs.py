"""Which tables need no other one to be made and filled, and which tables an index or a key is of: from the catalogs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clonedb.archive.script import Key

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Needs", "read_needs"]

# Tables in no other place and of no other kind than what a server takes when nothing is said.
_TABLES = """
    select t.oid, n.nspname, t.relname
    from pg_class t join pg_namespace n on n.oid = t.relnamespace join pg_am a on a.oid = t.relam
    where t.relkind = 'r' and not t.relispartition and t.reltablespace = 0 and a.amname = 'heap'
          and not starts_with(n.nspname, 'pg_') and n.nspname <> 'information_schema'
          and not exists (
              select from pg_depend where classid = 'pg_class'::regclass and objid = t.oid and deptype = 'e'
          )
"""
# What is made with a table: its sequences and defaults, which have entries, and what its rows are checked by.
_PARTS = """
    select d.refobjid, d.classid, d.objid, n.nspname,
           case when c.oid is not null then array['SEQUENCE', c.relname]
                when f.oid is not null then array['DEFAULT', t.relname || ' ' || a.attname] end
    from pg_depend d join pg_class t on t.oid = d.refobjid
         left join pg_class c on d.classid = 'pg_class'::regclass and c.oid = d.objid and c.relkind = 'S'
         left join pg_attrdef f on d.classid = 'pg_attrdef'::regclass and f.oid = d.objid
         left join pg_attribute a on a.attrelid = f.adrelid and a.attnum = f.adnum
         left join pg_constraint k on d.classid = 'pg_constraint'::regclass and k.oid = d.objid
                                   and k.contype in ('c', 'n')
         join pg_namespace n on n.oid = coalesce(c.relnamespace, t.relnamespace)
    where d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i') and num_nonnulls(c.oid, f.oid, k.oid) = 1
"""
_EDGES = (
    "select classid, objid, refclassid, refobjid, deptype::text from pg_depend where deptype in ('n', 'a', 'i', 'e')"
)
_INDEXES = """
    select i.indrelid, n.nspname, c.relname from pg_index i
    join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
"""
_KEYS = """
    select k.conrelid, n.nspname, t.relname || ' ' || k.conname
    from pg_constraint k join pg_class t on t.oid = k.conrelid join pg_namespace n on n.oid = t.relnamespace
    where k.contype in ('p', 'u', 'x')
"""
# A reference to a unique index that is no key has to wait for the indexes.
_REFERENCES = """
    select k.conrelid, k.confrelid, n.nspname, t.relname || ' ' || k.conname
    from pg_constraint k join pg_class t on t.oid = k.conrelid join pg_namespace n on n.oid = t.relnamespace
    where k.contype = 'f' and exists (
        select from pg_constraint o
        where o.conindid = k.conindid and o.conrelid = k.confrelid and o.contype in ('p', 'u')
    )
"""
_Object = tuple[int, int]  # the catalog it is in, and its oid


@dataclass(frozen=True, slots=True)
class Needs:
    """By the names that pg_dump gives them: `parts` of each table that needs no other, and the table that an index or a
    key is of, or the two of a reference. No partitions among them.
    """

    parts: Mapping[int, frozenset[Key]]
    indexes: Mapping[Key, int]
    keys: Mapping[Key, int]
    references: Mapping[Key, tuple[int, int]]


def read_needs(connection: Connection[Any]) -> Needs:
    """Read the catalogs of the database that is dumped."""
    tables = {oid: (schema, name) for oid, schema, name in connection.execute(_TABLES)}
    return Needs(
        dict(_free(connection, tables)),
        {Key("INDEX", *name): oid for oid, *name in connection.execute(_INDEXES) if oid in tables},
        {Key("CONSTRAINT", *name): oid for oid, *name in connection.execute(_KEYS) if oid in tables},
        {
            Key("FK CONSTRAINT", *name): (oid, other)
            for oid, other, *name in connection.execute(_REFERENCES)
            if oid in tables and other in tables
        },
    )


def _free(connection: Connection[Any], tables: Mapping[int, tuple[str, str]]) -> Iterator[tuple[int, frozenset[Key]]]:
    """Tables that need neither another table nor a function of the database's own, which may need anything."""
    row = connection.execute("select 'pg_class'::regclass::oid, 'pg_proc'::regclass::oid").fetchone()
    relation, function = row or (0, 0)
    members: dict[int, set[_Object]] = defaultdict(set)
    names: dict[int, set[Key]] = defaultdict(set)
    for table, catalog, oid, schema, entry in connection.execute(_PARTS):
        members[table].add((catalog, oid))
        if entry is not None:
            names[table].add(Key(entry[0], schema, entry[1]))
            if entry[0] == "SEQUENCE":
                names[table].add(Key("SEQUENCE OWNED BY", schema, entry[1]))
    edges: dict[_Object, list[_Object]] = defaultdict(list)
    extensions: set[_Object] = set()
    for catalog, oid, other_catalog, other, kind in connection.execute(_EDGES):
        edges[catalog, oid].append((other_catalog, other))
        if kind == "e":
            extensions.add((catalog, oid))

    for table, (schema, name) in tables.items():
        own = {(relation, table), *members[table]}
        if not any(catalog in (relation, function) for catalog, _ in _reached(own, edges, extensions) - own):
            yield table, frozenset({Key("TABLE", schema, name), Key("TABLE DATA", schema, name), *names[table]})


def _reached(own: set[_Object], edges: Mapping[_Object, list[_Object]], extensions: set[_Object]) -> set[_Object]:
    """All that something needs, in the end; an extension needs nothing of the database's own."""
    seen, left = set(own), list(own)
    while left:
        for needed in edges.get(left.pop(), ()):
            if needed not in seen and needed not in extensions:
                seen.add(needed)
                left.append(needed)
    return seen
