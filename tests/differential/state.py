"""What a database holds, in a form that two of them can be compared in: rows, sequences, catalogs, and what pg_dump writes."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection, sql

from tests.differential import indexes

__all__ = ["Look", "Looker", "connect", "dump"]

# Texts must tell all values apart, whatever the database or its roles have set.
_SETTINGS = {
    "extra_float_digits": "3",
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "bytea_output": "hex",
    "search_path": "pg_catalog",
    "jit": "off",
    "default_transaction_read_only": "off",
}

_RELATIONS = """
    select c.oid, c.relkind::text, n.nspname, c.relname
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'm', 'S', 'p') and n.nspname !~ '^pg_(catalog|toast|temp)' and n.nspname <> 'information_schema'
    order by n.nspname, c.relname
"""

# What says how much there is, and not what: statistics, and where and how the rows lie.
_VOLATILE: Mapping[str, frozenset[str]] = {
    "pg_class": frozenset(
        "relpages reltuples relallvisible relallfrozen relfrozenxid relminmxid relfilenode".split()  # noqa: SIM905
    ),
    "pg_index": frozenset({"indcheckxmin"}),
}
_LEFT_OUT = ("pg_statistic", "pg_statistic_ext_data")
_ONLY = {
    "pg_namespace": " where nspname !~ '^pg_(toast_)?temp_'"
}  # which stay when the temporary tables are gone
_DEAR = ("all of catalog ", "index ")

# XML and aclitem have no binary form, or one that loses what was said before the first element.
_COLUMNS = """
    select n.nspname::text, c.relname::text, array_agg(a.attname::text order by a.attnum), array_agg(
               case when t.typname in ('xml', '_xml') then case t.typname when 'xml' then '::text' else '::text[]' end
                    when t.typsend = 0 or e.typsend = 0 then '::text' else '' end order by a.attnum)
    from pg_attribute a join pg_type t on t.oid = a.atttypid left join pg_type e on e.oid = t.typelem
         join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
    where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'm', 'p')
    group by 1, 2
"""
_SUM = """
    select {label}, count(*), sum(hashtextextended(md5(record_send(row({image}))), 0)) from only {table} t
"""

_CATALOGS = """
    select c.relname, array_agg(a.attname::text order by a.attnum)
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
    where c.relkind = 'r' and c.relnamespace = 'pg_catalog'::regnamespace and not c.relisshared and c.relname <> all(%s)
    group by c.relname order by c.relname
"""

# What belongs to a database and stands in the catalogs that all databases share.
_SHARED = {
    "settings of the database": "select setrole, setconfig from pg_db_role_setting where setdatabase = {oid}",
    "the database": "select datallowconn, datconnlimit, datacl, datistemplate, datdba from pg_database where oid = {oid}",
    "comment": "select description from pg_shdescription where objoid = {oid} and classoid = 'pg_database'::regclass",
    "owners and grants": "select classid, objid, objsubid, refclassid, refobjid, deptype from pg_shdepend where dbid = {oid}",
    "prepared transactions": "select gid from pg_prepared_xacts where database = {name}",
}


@dataclass(frozen=True, slots=True)
class Look:
    """A digest of every table, sequence and catalog, by what it is."""

    digests: Mapping[str, Any]

    def changed(self, other: Look) -> list[str]:
        """What is not the same in another one."""
        names = {**self.digests, **other.digests}
        return [name for name in names if self.digests.get(name) != other.digests.get(name)]


def connect(dsn: str) -> Connection[Any]:
    """A session whose texts tell all values apart."""
    options = " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items())
    return psycopg.connect(dsn, autocommit=True, prepare_threshold=None, options=options)


class Looker:
    """Looks at clones of one template; its queries are made once, from a clone that nobody has written to."""

    def __init__(self, fresh: Connection[Any], fresh_dsn: str) -> None:
        self._relations = fresh.execute(_RELATIONS).fetchall()
        self._images = _images(fresh)
        self._contents = sql.SQL(" union all ").join(_contents(self._images, self._relations))
        self._catalogs = _catalogs(fresh)
        with contextlib.closing(indexes.connect(fresh_dsn)) as connection:
            self._indexes = indexes.queries(connection)
        self.expected = self.look(fresh, fresh_dsn, whole=True)

    def look(self, connection: Connection[Any], dsn: str, *, whole: bool) -> Look:
        """The digests of a database; of its catalogs and indexes only in a whole look, as they take ten times as long."""
        digests: dict[str, Any] = {"relations": connection.execute(_RELATIONS).fetchall()}
        digests |= _shared(connection)
        if digests["relations"] != self._relations:
            return Look(digests)
        digests |= _digests(connection, self._contents)
        if whole:
            digests |= _digests(connection, self._catalogs)
            with contextlib.closing(indexes.connect(dsn)) as own:
                digests |= indexes.answer(own, self._indexes)
        return Look(digests)

    def changed(self, found: Look, *, whole: bool) -> list[str]:
        """What is not as in a fresh clone."""
        names = found.changed(self.expected)
        return (
            names
            if whole
            else [
                name for name in names if not name.startswith(_DEAR) and name in found.digests
            ]
        )

    def difference(
        self, name: str, found: Look, fresh: Connection[Any], rewound: Connection[Any]
    ) -> str:
        """What the two databases hold of something that is not the same: the lines that only one of them has."""
        if name.startswith("index "):
            return f"{name}\n    finds {found.digests.get(name)}, but {self.expected.digests.get(name)} in a fresh clone"
        lines = [_lines(connection, name, self._images) for connection in (fresh, rewound)]
        only = [(lines[0] - lines[1]).elements(), (lines[1] - lines[0]).elements()]
        told = [
            f"{sign} {line[:200]}"
            for sign, more in zip("-+", only, strict=True)
            for line in more
        ]
        return "\n".join([name, *(f"    {line}" for line in sorted(told)[:12])])


def _images(connection: Connection[Any]) -> dict[tuple[str, str], sql.Composed]:
    """All that a row `t` of each relation holds, as a list of expressions."""
    return {
        (schema, name): sql.SQL(", ").join(
            sql.SQL("t.{}{}").format(sql.Identifier(column), sql.SQL(cast))
            for column, cast in zip(columns, casts, strict=True)
        )
        for schema, name, columns, casts in connection.execute(_COLUMNS).fetchall()
    }


def _contents(
    images: Mapping[tuple[str, str], sql.Composed], relations: list[Any]
) -> Iterator[sql.Composed]:
    """Queries for how many rows there are, and a sum of hashes in which their order does not count.

    Rows are compared by their types' binary forms, which lose nothing, and by their text only where a type has none.
    """
    for _, kind, schema, name in relations:
        image, label = images.get((schema, name), sql.SQL("")), f"rows of {schema}.{name}"
        if kind == "S":
            image, label = sql.SQL("t.last_value, t.is_called"), f"sequence {schema}.{name}"
        yield sql.SQL(_SUM).format(
            label=sql.Literal(label), image=image, table=sql.Identifier(schema, name)
        )
    for name in ("pg_largeobject", "pg_largeobject_metadata", "pg_default_acl"):
        yield sql.SQL(
            "select {}, count(*), sum(hashtextextended(t::text, 0)) from {} t"
        ).format(sql.Literal(f"catalog {name}"), sql.Identifier("pg_catalog", name))


def _catalogs(connection: Connection[Any]) -> sql.Composed:
    parts = []
    for name, columns in connection.execute(_CATALOGS, [list(_LEFT_OUT)]).fetchall():
        kept = [
            sql.Identifier(column)
            for column in columns
            if column not in _VOLATILE.get(name, ())
        ]
        parts.append(
            sql.SQL(
                "select {}, count(*), sum(hashtextextended(row({})::text, 0)) from {}{}"
            ).format(
                sql.Literal(f"all of catalog {name}"),
                sql.SQL(", ").join(kept),
                sql.Identifier("pg_catalog", name),
                sql.SQL(_ONLY.get(name, "")),
            )
        )
    return sql.SQL(" union all ").join(parts)


def _digests(connection: Connection[Any], query: sql.Composed) -> dict[str, Any]:
    return {label: (count, digest) for label, count, digest in connection.execute(query)}


def _shared(connection: Connection[Any]) -> dict[str, Any]:
    row = connection.execute(
        "select oid, datname from pg_database where datname = current_database()"
    ).fetchone()
    assert row is not None
    statements = {
        name: sql.SQL(query).format(oid=sql.Literal(row[0]), name=sql.Literal(row[1]))
        for name, query in _SHARED.items()
    }
    return {
        name: sorted(map(repr, connection.execute(query).fetchall()))
        for name, query in statements.items()
    }


def _lines(
    connection: Connection[Any], name: str, images: Mapping[tuple[str, str], sql.Composed]
) -> Counter[str]:
    schema, _, table = name.removeprefix("rows of ").removeprefix("sequence ").partition(".")
    if name.startswith("rows of "):
        image = images.get((schema, table), sql.SQL(""))
        query = sql.SQL("select row({})::text from only {} t").format(
            image, sql.Identifier(schema, table)
        )
    elif name.startswith("sequence "):
        query = sql.SQL("select row(last_value, is_called)::text from {} t").format(
            sql.Identifier(schema, table)
        )
    elif " " in name and "catalog" in name:
        query = sql.SQL("select t::text from {} t").format(
            sql.Identifier("pg_catalog", name.rpartition(" ")[2])
        )
    elif name == "relations":
        return Counter(repr(row) for row in connection.execute(_RELATIONS))
    else:
        return Counter(_shared(connection)[name])
    try:
        return Counter(row[0] for row in connection.execute(query))
    except psycopg.errors.UndefinedTable:
        return Counter()


def dump(program: Path, dsn: str) -> list[str]:
    """What pg_dump writes, the rows of each table in order."""
    command = [str(program), "--no-sync", f"--dbname={dsn}"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=_environment()
    )
    if done.returncode != 0:
        raise RuntimeError(f"pg_dump failed: {done.stderr}")
    return list(_in_order(done.stdout))


def _environment() -> dict[str, str]:
    """Without what libpq reads; PGOPTIONS would win over what pg_dump sets itself."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _in_order(text: str) -> Iterator[str]:
    rows: list[str] | None = None
    for line in text.split("\n"):
        if rows is None:
            if line.startswith(
                ("\\restrict", "\\unrestrict", "--")
            ):  # a random word each time; comments
                continue
            yield line
            if line.startswith("COPY ") and line.endswith("FROM stdin;"):
                rows = []
        elif line == "\\.":
            yield from sorted(rows)
            yield line
            rows = None
        else:
            rows.append(line)
