"""The objects of a database that can be created and dropped by themselves: tables, types, functions, schemas, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Object", "objects"]

# an enumeration's values are no objects; those of large objects are of the catalog that holds
# their contents
_CATALOGS = """
    select case c.relname when 'pg_largeobject_metadata' then 'pg_largeobject'::regclass::oid else c.oid end::bigint,
           c.relname::text
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'oid'
    where c.relnamespace = 'pg_catalog'::regnamespace and c.relkind = 'r' and not c.relisshared
          and c.relname <> 'pg_enum' and has_table_privilege(c.oid, 'select')
"""


class Object(NamedTuple):
    """A database object as pg_depend knows it."""

    catalog: int
    oid: int


def objects(connection: Connection[Any]) -> dict[Object, str]:
    """The objects that do not come and go with another one (an index, a table's row type), and what they are called.

    What initdb made is left out, and temporary ones, whose sessions may not have ended
    entirely; large objects have numbers that a test may choose.
    """
    from psycopg import sql

    one = sql.SQL("select {}::oid as classid, oid from {} where {}")
    made = sql.SQL("oid >= 16384")
    conditions = {
        "pg_largeobject_metadata": sql.SQL("true"),
        "pg_namespace": made + sql.SQL(" and nspname !~ '^pg_(toast_)?temp_'"),
        "pg_class": made + sql.SQL(" and relpersistence <> 't'"),
    }
    parts = [
        one.format(
            sql.Literal(oid), sql.Identifier("pg_catalog", name), conditions.get(name, made)
        )
        for oid, name in connection.execute(_CATALOGS)
    ]
    # pg_depend's kinds: i(nternal), a(utomatic), e(xtension), P and S (partition), x
    # (automatic, of an extension): the object goes when the other one goes. Below 16384 the
    # other one is initdb's, such as the schema public.
    query = sql.SQL(
        """
        select found.classid::bigint, found.oid::bigint, pg_describe_object(found.classid, found.oid, 0)
        from ({}) found
        where not exists (select from pg_depend d where d.classid = found.classid and d.objid = found.oid
                          and d.deptype in ('i', 'a', 'e', 'P', 'S', 'x') and d.refobjid >= 16384)
        """
    ).format(sql.SQL(" union all ").join(parts))
    return {Object(catalog, oid): name for catalog, oid, name in connection.execute(query)}
