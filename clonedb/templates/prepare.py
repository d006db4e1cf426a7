"""What is done to a finished template so that its clones are cheap, and their first reads change nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, LiteralString

from clonedb.templates.parallel import run_parallel

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

__all__ = ["next_transaction", "prepare", "prepare_changed", "prepare_restored", "settle_rows"]

# Rows of a catalog that were written since a transaction began to be the next one. A frozen row keeps the number that
# it was written under, so a row of the layer below is as old as that.
_CHANGED = """
    with new as (
        select oid as relid from pg_class where age(xmin) <= age(%(since)s::xid) and relkind in ('r', 'm', 'p')
        union select attrelid from pg_attribute where age(xmin) <= age(%(since)s::xid)
        union select indrelid from pg_index where age(xmin) <= age(%(since)s::xid)
        union select stxrelid from pg_statistic_ext where age(xmin) <= age(%(since)s::xid)
        union select relid from pg_stat_all_tables where n_tup_ins + n_tup_upd + n_tup_del > 0
    ), owners as (
        select relid from new union select c.oid from pg_class c join new on c.reltoastrelid = new.relid
    ), roots as (
        select relid from owners union select pg_partition_root(relid) from owners
    )
    select n.nspname, c.relname from roots join pg_class c on c.oid = roots.relid
           join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'm', 'p') and c.relpersistence <> 't' and not c.relisshared
"""
_CATALOGS = """
    select 'pg_catalog', relname from pg_class
    where relnamespace = 'pg_catalog'::regnamespace and relkind = 'r' and not relisshared
"""
_OWN = """
    select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where not starts_with(n.nspname, 'pg_') and n.nspname <> 'information_schema'
"""
_TABLES = _OWN + " and c.relkind = 'r'"
_VIEWS = _OWN + " and c.relkind = 'm'"
_RELATIONS = _OWN + " and c.relkind in ('r', 'm', 'p')"
_REWRITTEN = ("pg_attribute", "pg_class", "pg_depend", "pg_index", "pg_statistic", "pg_type")  # by VACUUM FULL itself
_SETTLED = (
    *(b"set default_transaction_read_only = off", b"set statement_timeout = 0", b"set lock_timeout = 0"),
    b"set role = none",
    b"set client_min_messages = error",  # what a role that is not a superuser may not vacuum is left
)
_COUNTS = 150000  # the first version whose counters are there as soon as the session that counted is gone


def prepare(connection: Connection[Any]) -> None:
    """Leave statistics, frozen and compact tables, and sequences whose next nextval() writes WAL.

    Takes an autocommit connection to the template. VACUUM FREEZE alone makes clones 12 % slower by its free space and
    visibility maps; VACUUM FULL leaves none, and the catalogs' own are worth having (measured). After setval() to its
    own value a sequence logs its first nextval(), which otherwise goes unlogged up to 32 times.
    """
    _settle(connection)
    connection.execute("analyze")
    connection.execute("vacuum (full, freeze)")
    _vacuum(connection, "vacuum (freeze) {}", connection.execute(_CATALOGS).fetchall())
    _write_sequences(connection)


def next_transaction(connection: Connection[Any]) -> str:
    """What tells, later, what was written from now on: the number of the transaction that comes next."""
    row = connection.execute("select pg_snapshot_xmax(pg_current_snapshot())::xid::text").fetchone()
    return str(row[0]) if row else "0"


def prepare_changed(connection: Connection[Any], since: str) -> None:
    """As `prepare`, for a copy of a prepared template that was changed after `since`: only what is no longer so.

    Of 301 tables, 300 are as they were: 2.4 s become 0.1. What changed is told by the catalogs' rows and by the
    server's counters, which begin at nothing in a new database; where they are switched off, all is prepared.
    """
    _settle(connection)
    counting = connection.execute("select current_setting('track_counts')::bool").fetchone()
    if connection.info.server_version < _COUNTS or not counting or not counting[0]:
        prepare(connection)
        return
    changed = connection.execute(_CHANGED, {"since": since}).fetchall()
    catalogs = [row for row in changed if row[0] == "pg_catalog"]
    tables = [row for row in changed if row[0] not in ("pg_catalog", "information_schema", "pg_toast")]
    if tables:
        _vacuum(connection, "analyze {}", tables)
        _vacuum(connection, "vacuum (full, freeze) {}", tables)
        catalogs = sorted({*catalogs, *(("pg_catalog", name) for name in _REWRITTEN)})
    if catalogs:
        _vacuum(connection, "vacuum (freeze) {}", catalogs)
    _write_sequences(connection)


def settle_rows(connect: Callable[[], Connection[Any]]) -> None:
    """Freeze and compact the tables of a database that is being restored, before it has indexes."""
    with contextlib.closing(connect()) as connection:
        tables = connection.execute(_TABLES).fetchall()
    run_parallel(connect, [_named("vacuum (full, freeze) {}", [table]) for table in tables], before=_SETTLED)


def prepare_restored(connect: Callable[[], Connection[Any]]) -> None:
    """As `prepare`, for a database whose tables are settled already: a restored one has no dead rows."""
    with contextlib.closing(connect()) as connection:
        _settle(connection)
        if views := connection.execute(_VIEWS).fetchall():
            _vacuum(connection, "vacuum (full, freeze) {}", views)
        relations = connection.execute(_RELATIONS).fetchall()
        run_parallel(connect, [_named("analyze {}", [relation]) for relation in relations], before=_SETTLED)
        _vacuum(connection, "vacuum (freeze, analyze) {}", connection.execute(_CATALOGS).fetchall())
        _write_sequences(connection)


def _settle(connection: Connection[Any]) -> None:
    """Set aside what the migrations may have set for the database: that is meant for the application."""
    for statement in _SETTLED:
        connection.execute(statement)


def _vacuum(connection: Connection[Any], statement: LiteralString, tables: Sequence[tuple[str, str]]) -> None:
    connection.execute(_named(statement, tables))


def _named(statement: LiteralString, tables: Sequence[tuple[str, str]]) -> Composed:
    from psycopg import sql

    return sql.SQL(statement).format(sql.SQL(", ").join(sql.Identifier(schema, name) for schema, name in tables))


def _write_sequences(connection: Connection[Any]) -> None:
    connection.execute(
        """
        select setval(format('%I.%I', schemaname, sequencename)::regclass, coalesce(last_value, start_value),
                      last_value is not null)
        from pg_sequences
        where has_sequence_privilege(format('%I.%I', schemaname, sequencename), 'select')
              and has_sequence_privilege(format('%I.%I', schemaname, sequencename), 'update')
        """
    )
