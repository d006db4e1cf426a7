"""The relations of a database: their files, and what writing to them sets off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["FIRST_OID", "File", "Relation", "read_relations"]

File: TypeAlias = tuple[int, int]
"""Tablespace and relfilenode, by which WAL records name a relation of a database."""

FIRST_OID = 16384
"""What initdb made has a lower one."""


class Relation(NamedTuple):
    """A table, index, TOAST table, sequence or materialized view, by `kind` as pg_class has it.

    `access` is the access method; `row_estimate` is ANALYZE's number of rows, -1 if that has
    not counted them. `columns` can be inserted into, `stored` have a value in the row.
    `always_fires`: a trigger or rule does so under session_replication_role = replica.
    `writes_in_checks`: a constraint or a generated column calls a function that may write.
    `computes_index`: an index is, or a table has one, computed by a function that may give
    another result than when the row was made. `of_catalog` is the catalog that a relation of
    initdb's belongs to.
    """

    oid: int
    schema: str
    name: str
    kind: str
    unlogged: bool
    tablespace: int
    node: int
    pages: int
    bytes: int
    row_estimate: float
    columns: list[str]
    stored: list[str]
    access: str
    always_fires: bool
    writes_in_checks: bool
    computes_index: bool
    of_catalog: str

    @property
    def file(self) -> File:
        """What WAL records call it."""
        return self.tablespace, self.node


def read_relations(connection: Connection[Any]) -> list[Relation]:
    """All relations that are not common to all databases."""
    return list(map(Relation._make, connection.execute(_RELATIONS)))


# pg_relation_filenode() knows the files of mapped catalogs, whose relfilenode is 0. Only
# triggers and rules marked A(lways) or R(eplica) fire under session_replication_role = replica.
# What an expression calls stands in its tree (`:funcid 1574`): a constraint's function may
# write if it is volatile. One that is declared otherwise runs its own statements read-only, but
# a volatile function that it calls writes nevertheless: so it may, too, if another function of
# the database is named in it. An index's may give something else today if it can have been
# replaced, or if it reads settings, as functions in SQL and PL/pgSQL may that are declared
# immutable. Domains' checks are a matter of every table that has a column of a type which may
# contain one.
# In their order: `tree` are the expressions of checks, domains, generated columns and indexes;
# `call` the functions in them; `writing` the relations whose checks may write (dynamic SQL,
# sequences and large objects are written to by functions of PostgreSQL's own); `computing` the
# indexes.
_RELATIONS = r"""
with tree (kind, relation, text) as (
    select 'check', conrelid, conbin::text from pg_catalog.pg_constraint
    where contype = 'c' and conrelid >= 16384
    union all
    select 'domain', 0, conbin::text from pg_catalog.pg_constraint where contype = 'c' and contypid >= 16384
    union all
    select 'check', d.adrelid, d.adbin::text
    from pg_catalog.pg_attrdef d
         join pg_catalog.pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum and a.attgenerated <> ''
    union all
    select 'index', indexrelid, concat(indexprs, indpred) from pg_catalog.pg_index
    where indrelid >= 16384 and (indexprs is not null or indpred is not null)
), call as materialized (
    select distinct t.kind, t.relation, p.oid, p.provolatile, l.lanname in ('internal', 'c') as native,
           concat(p.prosrc, pg_catalog.pg_get_function_sqlbody(p.oid)) as body
    from tree t, lateral pg_catalog.regexp_matches(t.text, ':(?:op)?funcid (\d+)', 'g') m
         join pg_catalog.pg_proc p on p.oid = m[1]::oid
         join pg_catalog.pg_language l on l.oid = p.prolang
), writing (relation) as materialized (
    select relation from call
    where kind in ('check', 'domain')
          and (provolatile = 'v' or not native and (
               body ~* '\m(execute|nextval|setval|lo_\w+)\M' or exists (
               select from pg_catalog.pg_proc f
               where f.oid >= 16384 and f.oid <> call.oid and pg_catalog.strpos(body, f.proname) > 0)))
), computing (index) as materialized (
    select relation from call where kind = 'index' and not native
)
select c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence = 'u',
       (case c.reltablespace when 0 then d.dattablespace else c.reltablespace end)::bigint,
       pg_catalog.pg_relation_filenode(c.oid)::bigint,
       coalesce(t.bytes / pg_catalog.current_setting('block_size')::int, 0),
       coalesce(t.bytes + pg_catalog.pg_relation_size(nullif(c.reltoastrelid, 0)), t.bytes, 0), c.reltuples,
       coalesce(t.columns, '{}'), coalesce(t.stored, '{}'), coalesce(m.amname, ''),
       c.oid in (select g.tgrelid from pg_catalog.pg_trigger g where g.tgenabled in ('A', 'R'))
       or c.oid in (select w.ev_class from pg_catalog.pg_rewrite w where w.ev_enabled in ('A', 'R')),
       c.oid in (select relation from writing) or coalesce(t.composed, false) and 0 in (select relation from writing),
       c.oid in (select index from computing)
       or c.oid in (select i.indrelid from pg_catalog.pg_index i where i.indexrelid in (select index from computing)),
       case when c.oid < 16384 then coalesce(o.relname, c.relname) else '' end::text
from pg_catalog.pg_class c
     join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
     left join pg_catalog.pg_am m on m.oid = c.relam
     left join pg_catalog.pg_class o on c.relkind = 't' and o.reltoastrelid = c.oid
     left join lateral (
         select case when c.relkind = 'r' and c.oid >= 16384 then pg_catalog.pg_relation_size(c.oid) end as bytes,
                pg_catalog.array_agg(a.attname::text order by a.attnum) filter (where a.attgenerated = '') as columns,
                pg_catalog.array_agg(a.attname::text order by a.attnum) filter (where a.attgenerated <> 'v') as stored,
                pg_catalog.bool_or(y.typtype in ('d', 'c', 'r', 'm') or y.typtype = 'b' and y.typelem >= 16384)
                    as composed
         from pg_catalog.pg_attribute a join pg_catalog.pg_type y on y.oid = a.atttypid
         where c.relkind = 'r' and c.oid >= 16384 and a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
     ) t on true
where c.relkind in ('r', 'i', 't', 'S', 'm') and not c.relisshared
"""
