"""What a database holds, in a form that two of them can be compared in: rows, sequences, catalogs, and what pg_dump says."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection, sql

__all__ = ["Look", "connect", "difference", "dump", "look"]

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


def look(connection: Connection[Any], *, catalogs: bool) -> Look:
    """The digests of a database; of its catalogs only when asked, as they take ten times as long as the rest."""
    digests: dict[str, Any] = {}
    relations = connection.execute(_RELATIONS).fetchall()
    for kind, names in (("rows of", "rmp"), ("sequence", "S")):
        chosen = [(schema, name) for _, relkind, schema, name in relations if relkind in names]
        digests |= _digests(connection, [(f"{kind} {schema}.{name}", kind, schema, name) for schema, name in chosen])
    digests["relations"] = relations
    row = connection.execute("select oid, datname from pg_database where datname = current_database()").fetchone()
    assert row is not None
    for name, query in _SHARED.items():
        statement = sql.SQL(query).format(oid=sql.Literal(row[0]), name=sql.Literal(row[1]))
        digests[name] = sorted(map(repr, connection.execute(statement).fetchall()))
    if catalogs:
        digests |= _catalogs(connection)
    return Look(digests)


def _digests(connection: Connection[Any], chosen: list[tuple[str, str, str, str]]) -> dict[str, Any]:
    """One statement for all: how many rows, and a sum of hashes in which their order does not count."""
    parts = []
    for label, kind, schema, name in chosen:
        text = "t::text" if kind == "rows of" else "row(t.last_value, t.is_called)::text"
        parts.append(
            sql.SQL("select {}, count(*), sum(hashtextextended({}, 0)) from only {} t").format(
                sql.Literal(label),
                sql.SQL(text),
                sql.Identifier(schema, name),
            )
        )
    if not parts:
        return {}
    rows = connection.execute(sql.SQL(" union all ").join(parts)).fetchall()
    return {label: (count, digest) for label, count, digest in rows}


def _catalogs(connection: Connection[Any]) -> dict[str, Any]:
    parts = []
    for name, columns in connection.execute(_CATALOGS, [list(_LEFT_OUT)]).fetchall():
        kept = [sql.Identifier(column) for column in columns if column not in _VOLATILE.get(name, ())]
        parts.append(
            sql.SQL("select {}, count(*), sum(hashtextextended(row({})::text, 0)) from {}").format(
                sql.Literal(f"catalog {name}"), sql.SQL(", ").join(kept), sql.Identifier("pg_catalog", name)
            )
        )
    rows = connection.execute(sql.SQL(" union all ").join(parts)).fetchall()
    return {label: (count, digest) for label, count, digest in rows}


def difference(name: str, fresh: Connection[Any], rewound: Connection[Any]) -> str:
    """What the two databases hold of something that is not the same: the lines that only one of them has."""
    lines = [_lines(connection, name) for connection in (fresh, rewound)]
    only = [(lines[0] - lines[1]).elements(), (lines[1] - lines[0]).elements()]
    found = [f"{sign} {line[:200]}" for sign, more in zip("-+", only, strict=True) for line in more]
    return "\n".join([name, *(f"    {line}" for line in sorted(found)[:12])])


def _lines(connection: Connection[Any], name: str) -> Counter[str]:
    kind, _, rest = name.rpartition(" ") if name.startswith("catalog ") else name.partition(" ")
    if name.startswith("rows of "):
        schema, _, table = name.removeprefix("rows of ").partition(".")
        query = sql.SQL("select t::text from only {} t").format(sql.Identifier(schema, table))
    elif name.startswith("sequence "):
        schema, _, table = name.removeprefix("sequence ").partition(".")
        query = sql.SQL("select row(last_value, is_called)::text from {} t").format(sql.Identifier(schema, table))
    elif kind == "catalog":
        query = sql.SQL("select t::text from {} t").format(sql.Identifier("pg_catalog", rest))
    else:
        return Counter(repr(item) for item in look(connection, catalogs=False).digests[name])
    try:
        return Counter(row[0] for row in connection.execute(query))
    except psycopg.errors.UndefinedTable:
        return Counter()


def dump(program: Path, dsn: str) -> list[str]:
    """What pg_dump writes, the rows of each table in order."""
    command = [str(program), "--no-sync", f"--dbname={dsn}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=_environment())
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
            if line.startswith(("\\restrict", "\\unrestrict", "--")):  # a random word each time; comments
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
