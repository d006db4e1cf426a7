"""What indexes answer: for each index, a query that is answered by it, whose result does not depend on how rows lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import Connection, sql

__all__ = ["answer", "connect", "queries", "used"]

# With the database's own time zone, search_path and so on, under which its users look rows up. Nothing but indexes may
# find rows of the inner side of the queries' joins.
_SETTINGS = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "enable_memoize": "off",
    "enable_sort": "off",
    "jit": "off",
    "default_transaction_read_only": "off",
}

# The first column or expression, and an operator by which a value finds at least itself: equality where there is one.
_INDEXES = """
    select c.relname, n.nspname, t.relname, pg_get_indexdef(i.indexrelid, 1, true),
           coalesce(pg_get_expr(i.indpred, i.indrelid, true), 'true'), s.names, s.few, d.names
    from pg_index i
         join pg_class c on c.oid = i.indexrelid
         join pg_class t on t.oid = i.indrelid and t.relkind in ('r', 'm')
         join pg_namespace n on n.oid = t.relnamespace
         join pg_am a on a.oid = c.relam
         join pg_opclass o on o.oid = i.indclass[0]
         left join lateral (
             select array[pn.nspname::text, p.oprname::text], p.oprname = '=' and a.amname <> 'brin'
             from pg_amop m join pg_operator p on p.oid = m.amopopr join pg_namespace pn on pn.oid = p.oprnamespace
             where m.amopfamily = o.opcfamily and m.amoppurpose = 's'
                   and m.amoplefttype = o.opcintype and m.amoprighttype = o.opcintype
                   and p.oprname in ('=', '~=', '@>', '&&')
             order by array_position(array['=', '~=', '@>', '&&'], p.oprname::text) limit 1) s (names, few) on true
         left join lateral (
             select array[pn.nspname::text, p.oprname::text]
             from pg_amop m join pg_operator p on p.oid = m.amopopr join pg_namespace pn on pn.oid = p.oprnamespace
             where m.amopfamily = o.opcfamily and m.amoppurpose = 'o' and m.amoplefttype = o.opcintype
             limit 1) d (names) on s.names is null
    where i.indisvalid and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
    order by n.nspname, c.relname
"""

# Each value that the table holds is looked up in the index; an expression is computed anew from the rows that are found.
_LOOK_UP = """
    select {label}, count(*), coalesce(sum(hashtextextended(v.v::text, 0)), 0)
           + (select count(*) from only {table} where ({expression}) is null and {predicate})
    from (select ({expression}) as v from only {table} where {predicate} order by ({expression})::text limit {most}) v
         cross join lateral (select from only {table} where ({expression}) {operator} v.v and {predicate}) m
"""
_NEAREST = """
    select {label}, count(*), 0::numeric
    from (select {expression} as v from only {table} order by ({expression})::text limit 40) v
         cross join lateral (select from only {table} order by ({expression}) {operator} v.v limit 5) m
"""
_MOST = {
    True: 3000,
    False: 10,
}  # values looked up: where each finds few rows, and where it finds or reads many


def connect(dsn: str) -> Connection[Any]:
    """A session of the database's own kind, but for the ways in which it finds rows."""
    options = " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items())
    return psycopg.connect(dsn, autocommit=True, prepare_threshold=None, options=options)


def queries(connection: Connection[Any]) -> dict[str, sql.Composed]:
    """A query for each index that can be asked, by the index's name; from a clone that nobody has written to."""
    return dict(_queries(connection))


def _queries(connection: Connection[Any]) -> Iterator[tuple[str, sql.Composed]]:
    for (
        index,
        schema,
        table,
        expression,
        predicate,
        lookup,
        few,
        distance,
    ) in connection.execute(_INDEXES).fetchall():
        if lookup is None and distance is None:
            continue
        label = f"index {schema}.{index}"
        yield (
            label,
            sql.SQL(_LOOK_UP if lookup else _NEAREST).format(
                label=sql.Literal(label),
                table=sql.Identifier(schema, table),
                expression=sql.SQL(expression),
                predicate=sql.SQL(f"({predicate})"),
                operator=sql.SQL("operator({}.{})").format(
                    sql.Identifier((lookup or distance)[0]), sql.SQL((lookup or distance)[1])
                ),
                most=sql.Literal(_MOST[bool(few)]),
            ),
        )


def answer(connection: Connection[Any], asked: dict[str, sql.Composed]) -> dict[str, Any]:
    """How many rows each index finds, and a sum of hashes of what they hold."""
    rows = connection.execute(
        sql.SQL(" union all ").join(sql.SQL("({})").format(one) for one in asked.values())
    )
    return {label: (count, digest) for label, count, digest in rows}


def used(connection: Connection[Any], asked: dict[str, sql.Composed]) -> set[str]:
    """Which of the indexes really answer."""
    return {
        label
        for label, query in asked.items()
        if label.rpartition(".")[2]
        in "".join(row[0] for row in connection.execute(sql.SQL("explain {}").format(query)))
    }
