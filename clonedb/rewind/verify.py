"""The proof of a rewind: a clone compared with a new one, by rows, sequences, catalogs and settings."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, LiteralString

from clonedb.clones.clone import Clone, create
from clonedb.postgres.server import Server
from clonedb.templates.ensure import TemplateRecord

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

__all__ = ["verify"]

_SHOWN = 5  # rows of a table
_AT_ONCE = 200  # tables in a statement, each of which is locked until that ends
_LENGTH = 200  # characters of a row

# The texts of values differ only where the values do, whatever the database or the role has
# set.
_SETTINGS = " ".join(
    f"-c {setting}"
    for setting in (
        "role=none",
        "row_security=off",
        "search_path=pg_catalog",
        "default_transaction_read_only=off",
        "statement_timeout=0",
        "DateStyle=ISO",
        "IntervalStyle=postgres",
        "TimeZone=UTC",
        "extra_float_digits=3",
        "bytea_output=hex",
        "jit=off",
        "client_min_messages=error",
        "application_name=clonedb",
    )
)


@dataclass(frozen=True, slots=True)
class _Relation:
    """What is compared row by row: `image` is an expression for all that a row `t` of it holds."""

    label: str
    schema: str
    name: str
    image: Composed
    secret: bool


def verify(server: Server, template: TemplateRecord, clone: Clone) -> list[str]:
    """Compare a clone that was brought back with a new clone of its template: the differences in words, none if equal.

    Rows are compared by the binary forms of their values, in any order; sequences by their next
    value; the catalogs without statistics and places on disk; the database's settings and
    privileges. Reads all of both databases: for CLONEDB_VERIFY=1 only. No other session may be
    connected to the clone. Raises as `create` does.
    """
    with (
        # expected, found: in this order in all pairs below
        create(server, template) as new,
        contextlib.closing(server.connect(new.name, options=_SETTINGS)) as expected,
        contextlib.closing(server.connect(clone.name, options=_SETTINGS)) as found,
    ):
        return [*_differences(expected, found)]


def _differences(expected: Connection[Any], found: Connection[Any]) -> Iterator[str]:
    tables = set(expected.execute(_TABLES).fetchall()), set(found.execute(_TABLES).fetchall())
    yield from (
        f"{kind} {schema}.{name} is gone"
        for kind, schema, name, _ in sorted(tables[0] - tables[1])
    )
    yield from (
        f"{kind} {schema}.{name} is none of the template's"
        for kind, schema, name, _ in sorted(tables[1] - tables[0])
    )

    # what is only in one of them has been told above
    here = {(schema, name) for _, schema, name, _ in tables[0] & tables[1]}
    relations = [one for one in _relations(expected) if (one.schema, one.name) in here]
    digests = _digests(expected, relations), _digests(found, relations)
    for relation in relations:
        if digests[0][relation.label] != digests[1][relation.label]:
            yield from _rows(relation, expected, found)

    about = expected.execute(_DATABASE).fetchall(), found.execute(_DATABASE).fetchall()
    if about[0] != about[1]:
        yield "the settings or privileges of the database itself differ"


def _relations(connection: Connection[Any]) -> Iterator[_Relation]:
    """Every table, materialized view, sequence and catalog of a database."""
    from psycopg import sql

    for kind, schema, name, columns, casts in connection.execute(_COLUMNS).fetchall():
        catalog = kind == "catalog"
        left_out = _VOLATILE.get(name, frozenset()) if catalog else frozenset()
        values = [
            sql.SQL("t.{}{}").format(sql.Identifier(column), sql.SQL(cast))
            for column, cast in zip(columns, casts, strict=True)
            if column not in left_out
        ]
        label = f"{kind} {name if catalog else f'{schema}.{name}'}"
        yield _Relation(label, schema, name, sql.SQL(", ").join(values), secret=catalog)


def _digests(connection: Connection[Any], relations: Iterable[_Relation]) -> dict[str, Any]:
    """How many rows each has, and a sum of hashes, in which their order does not count."""
    from psycopg import sql

    parts = [
        sql.SQL(_DIGEST).format(
            label=sql.Literal(one.label),
            image=one.image,
            table=sql.Identifier(one.schema, one.name),
            only=_only(one),
        )
        for one in relations
    ]
    found: dict[str, Any] = {}
    for start in range(0, len(parts), _AT_ONCE):
        query = sql.SQL(" union all ").join(parts[start : start + _AT_ONCE])
        found.update(
            (label, (count, digest)) for label, count, digest in connection.execute(query)
        )

    return found


def _rows(
    relation: _Relation, expected: Connection[Any], found: Connection[Any]
) -> Iterator[str]:
    """The rows that one of the two has more often; of the catalogs how many, as they may hold passwords."""
    counts = _counted(expected, relation), _counted(found, relation)
    lacking, extra = counts[0] - counts[1], counts[1] - counts[0]
    yield f"{relation.label}: {lacking.total()} rows are missing, {extra.total()} are none of the template's"
    # pg_authid and the like
    if relation.secret:
        return
    yield from (f"  - {row}" for row in _texts(expected, relation, lacking))
    yield from (f"  + {row}" for row in _texts(found, relation, extra))


def _counted(connection: Connection[Any], relation: _Relation) -> Counter[str]:
    from psycopg import sql

    query = sql.SQL(_IMAGES).format(
        image=relation.image,
        table=sql.Identifier(relation.schema, relation.name),
        only=_only(relation),
    )
    return Counter(row[0] for row in connection.execute(query))


def _texts(connection: Connection[Any], relation: _Relation, images: Counter[str]) -> list[str]:
    from psycopg import sql

    query = sql.SQL(_TEXTS).format(
        image=relation.image,
        table=sql.Identifier(relation.schema, relation.name),
        images=sql.Literal(list(images)[:_SHOWN]),
        length=sql.Literal(_LENGTH),
    )
    return [row[0] for row in connection.execute(query)]


def _only(relation: _Relation) -> Composed:
    """The condition for rows that count."""
    from psycopg import sql

    return sql.SQL("{}").format(sql.SQL(_COUNTING.get(relation.label, "true")))


# What says how much there is and where, and not what.
_VOLATILE: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "pg_class": frozenset(
            (
                "relpages",
                "reltuples",
                "relallvisible",
                "relallfrozen",
                "relfrozenxid",
                "relminmxid",
                "relfilenode",
            )
        ),
        # it depends on which transactions ran when the index was built
        "pg_index": frozenset(("indcheckxmin",)),
    }
)

# The schemas of temporary tables stay when the tables are gone.
_COUNTING: Mapping[str, LiteralString] = MappingProxyType(
    {"catalog pg_namespace": "t.nspname !~ '^pg_(toast_)?temp_'"}
)

_DIGEST: LiteralString = """
select {label}, count(*), sum(hashtextextended(md5(record_send(row({image}))), 0)) from only {table} t where {only}
"""
_IMAGES: LiteralString = (
    "select md5(record_send(row({image}))) from only {table} t where {only}"
)
_TEXTS: LiteralString = """
select left(min(row({image})::text), {length})
from only {table} t where md5(record_send(row({image}))) = any({images})
group by md5(record_send(row({image}))) order by 1
"""

# Temporary schemas and TOAST are left out (TOAST rows are seen in their tables), and what
# ANALYZE computes.
_KINDS: LiteralString = """
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'm', 'S') and not c.relisshared and n.nspname !~ '^pg_(toast|temp)'
      and not (n.nspname = 'pg_catalog' and c.relname in ('pg_statistic', 'pg_statistic_ext_data'))
"""

_TABLES = f"""
select case c.relkind when 'S' then 'sequence' when 'm' then 'materialized view' else 'table' end,
       n.nspname::text, c.relname::text, c.oid::bigint
{_KINDS}
"""

# XML's binary form lacks what was said before the first element, and aclitem and the like have
# none. Of a sequence it counts what comes next, not how many values were written ahead to WAL.
_COLUMNS = f"""
select k.kind, k.nspname, k.relname, coalesce(a.columns, '{{}}'), coalesce(a.casts, '{{}}')
from (select case when n.nspname = 'pg_catalog' then 'catalog' when c.relkind = 'S' then 'sequence' else 'table' end,
             n.nspname::text, c.relname::text, c.oid, c.relkind
      {_KINDS}) k (kind, nspname, relname, oid, relkind)
     left join lateral (
         select array_agg(a.attname::text order by a.attnum), array_agg(
                    case when t.typname = 'xml' then '::text' when t.typname = '_xml' then '::text[]'
                         when t.typsend = 0 or e.typsend = 0 then '::text' else '' end order by a.attnum)
         from pg_attribute a join pg_type t on t.oid = a.atttypid left join pg_type e on e.oid = t.typelem
         where a.attrelid = k.oid and a.attnum > 0 and not a.attisdropped
               and not (k.relkind = 'S' and a.attname = 'log_cnt')) a (columns, casts) on true
order by 1, 2, 3
"""  # noqa: S608 - all literals

# What belongs to the database, but stands in shared catalogs.
_DATABASE = """
select d.datacl::text, d.datconnlimit, d.datallowconn, d.datdba,
       array(select s.setrole || ' ' || s.setconfig::text
             from pg_db_role_setting s where s.setdatabase = d.oid order by 1)
from pg_database d where d.datname = current_database()
"""
