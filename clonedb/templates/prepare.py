"""What is done to a finished template so that its clones are cheap, and their first reads change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, LiteralString

if TYPE_CHECKING:
    import psycopg
    from psycopg import Connection
    from psycopg.sql import Composed

__all__ = ["next_transaction", "prepare", "prepare_changed", "prepare_restored", "settle"]

# Rows of a catalog that were written since a transaction began to be the next one. A frozen row
# keeps the number that it was written under, so a row of the layer below is as old as that.
# `new` are relations with new rows in these catalogs, or that the counters know of; a TOAST
# table stands for its owner, a partition for its root, too.
_CHANGED = """
    with new as (
        select oid as relid from pg_class where age(xmin) <= age(%(since)s::xid) and relkind in ('r', 'm', 'p')
        union select attrelid from pg_attribute where age(xmin) <= age(%(since)s::xid)
        union select indrelid from pg_index where age(xmin) <= age(%(since)s::xid)
        union select stxrelid from pg_statistic_ext where age(xmin) <= age(%(since)s::xid)
        union select oid from pg_class
              where pg_stat_get_tuples_inserted(oid) + pg_stat_get_tuples_updated(oid)
                    + pg_stat_get_tuples_deleted(oid) > 0
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
# pg_sequences reads every sequence; what counts is not read here
_TOUCHED = b"""
    select n.nspname as schemaname, c.relname as sequencename, s.seqstart as start_value,
           pg_sequence_last_value(c.oid) as last_value
    from pg_sequence s join pg_class c on c.oid = s.seqrelid join pg_namespace n on n.oid = c.relnamespace
    where c.oid in (select relid from pg_statio_all_sequences where blks_read + blks_hit > 0)
          and not pg_is_other_temp_schema(n.oid)
"""
_OWN = """
    select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where not starts_with(n.nspname, 'pg_') and n.nspname <> 'information_schema'
"""
# Not those that all databases of the server share: VACUUM FULL locks them against everybody,
# and waits for everybody, so that a session in a transaction that had read a role would keep
# the build, and the build each new connection. A partition comes with its root.
_ALL = """
    select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'm', 'p') and not c.relispartition and not c.relisshared and c.relpersistence <> 't'
"""
_VIEWS = _OWN + " and c.relkind = 'm'"
_RELATIONS = _OWN + " and c.relkind in ('r', 'm', 'p')"
# Catalogs that have rows and no statistics.
_UNKNOWN = """
    select 'pg_catalog', relname from pg_class
    where relnamespace = 'pg_catalog'::regnamespace and relkind = 'r' and not relisshared and pg_relation_size(oid) > 0
          and relname not in (select tablename from pg_stats where schemaname = 'pg_catalog')
"""
_UNREAD = (
    _OWN + " and c.relkind = 'r' and c.relpages > 300 and not c.relhasindex"
)  # ANALYZE reads a sample
_COLUMNS = """
    select attname from pg_attribute
    where attrelid = format('%%I.%%I', %s::text, %s::text)::regclass and attnum > 0 and not attisdropped
    order by attnum
"""
_REWRITTEN = (
    "pg_attribute",
    "pg_class",
    "pg_depend",
    "pg_index",
    "pg_statistic",
    "pg_type",
)  # by VACUUM FULL itself
_SETTLED = (
    *(
        b"set default_transaction_read_only = off",
        b"set statement_timeout = 0",
        b"set lock_timeout = 0",
    ),
    b"set role = none",
    b"set client_min_messages = error",  # what a role that is not a superuser may not vacuum is left
)
_COUNTS = 150000  # the first version whose counters are there as soon as the session that counted is gone


def prepare(connection: Connection[Any]) -> None:
    """Leave statistics, frozen and compact tables, and sequences whose next nextval() writes WAL.

    Takes an autocommit connection to the template. VACUUM FREEZE alone makes clones 12 % slower
    by its free space and visibility maps; VACUUM FULL leaves none, and the catalogs' own are
    worth having (measured). After setval() to its own value a sequence logs its first
    nextval(), which otherwise goes unlogged up to 32 times.
    """
    settle(connection)
    catalogs = connection.execute(_CATALOGS).fetchall()
    everything = connection.execute(_ALL).fetchall()
    try:
        # ANALYZE first: VACUUM FULL then makes compact what it wrote into pg_statistic
        _vacuum(connection, "analyze {}", everything)
        _vacuum(connection, "vacuum (full, freeze) {}", everything)
    except _psycopg_error() as error:
        _require_function(error)
        _vacuum(connection, "vacuum (full, freeze, analyze) {}", catalogs)
        _one_by_one(connection, connection.execute(_RELATIONS).fetchall())

    # VACUUM FULL wrote into catalogs itself; plain VACUUM leaves their maps
    _vacuum(connection, "vacuum (freeze) {}", catalogs)
    _write_sequences(connection)


def next_transaction(connection: Connection[Any]) -> str:
    """What tells, later, what was written from now on: the number of the transaction that comes next."""
    row = connection.execute(
        "select pg_snapshot_xmax(pg_current_snapshot())::xid::text"
    ).fetchone()
    return str(row[0]) if row else "0"


def prepare_changed(connection: Connection[Any], since: str) -> None:
    """As `prepare`, for a copy of a prepared template that was changed after `since`: only what is no longer so.

    Of 301 tables, 300 are as they were: 2.4 s become 0.1. What changed is told by the catalogs'
    rows and by the server's counters, which begin at nothing in a new database; where they are
    switched off, all is prepared.
    """
    settle(connection)
    counting = connection.execute("select current_setting('track_counts')::bool").fetchone()
    # without the counters, rows that were written and nothing else would go unseen
    if connection.info.server_version < _COUNTS or not counting or not counting[0]:
        prepare(connection)
        return

    changed = connection.execute(_CHANGED, {"since": since}).fetchall()
    catalogs = [row for row in changed if row[0] == "pg_catalog"]
    tables = [
        row for row in changed if row[0] not in ("pg_catalog", "information_schema", "pg_toast")
    ]
    if tables:
        try:
            _vacuum(connection, "analyze {}", tables)
            _vacuum(connection, "vacuum (full, freeze) {}", tables)
        except _psycopg_error() as error:
            _require_function(error)
            _one_by_one(connection, tables)

        catalogs = sorted({*catalogs, *(("pg_catalog", name) for name in _REWRITTEN)})

    if catalogs:
        _vacuum(connection, "vacuum (freeze) {}", catalogs)
    _write_sequences(connection, touched=True)


def prepare_restored(connection: Connection[Any]) -> None:
    """As `prepare`, for a database whose rows were all written at once, and never changed.

    They are as compact as VACUUM FULL would leave them, which took a quarter of the time. Their
    hint bits are set by what reads them to make an index or statistics: a server sets them once
    the transaction that wrote the row is on disk, so synchronous_commit must have been on.
    Catalogs that initdb left statistics of are not looked at again.
    """
    if views := connection.execute(_VIEWS).fetchall():
        _vacuum(connection, "vacuum (full, freeze) {}", views)
    if relations := [
        *connection.execute(_RELATIONS).fetchall(),
        *connection.execute(_UNKNOWN).fetchall(),
    ]:
        _vacuum(connection, "analyze {}", relations)
    for table in connection.execute(_UNREAD).fetchall():
        connection.execute(_named("select count(*) from only {}", [table]))
    _write_sequences(connection)
    _vacuum(connection, "vacuum (freeze) {}", connection.execute(_CATALOGS).fetchall())


def _psycopg_error() -> type[psycopg.Error]:
    import psycopg

    return psycopg.Error


def _require_function(error: psycopg.Error) -> None:
    """Raise an error that cannot be a function's that an index calls.

    Such a function may find what it calls through search_path only. ANALYZE and VACUUM FULL
    compute the index anew, and from PostgreSQL 17 on they do so under a search_path of their
    own: `pg_catalog, pg_temp`.
    """
    import psycopg

    if (
        isinstance(error, psycopg.OperationalError | psycopg.InternalError)
        or error.sqlstate is None
    ):
        raise error


def _one_by_one(connection: Connection[Any], tables: Sequence[tuple[str, str]]) -> None:
    """Each table as well as it can be: without the statistics and the compactness for which its indexes are computed.

    ANALYZE with a list of columns leaves out the expressions of indexes, and so does plain
    VACUUM.
    """
    for table in tables:
        try:
            _vacuum(connection, "vacuum (full, freeze, analyze) {}", [table])
        except _psycopg_error() as error:
            _require_function(error)
            columns = connection.execute(_COLUMNS, list(table)).fetchall()
            _vacuum(connection, "vacuum (freeze) {}", [table])
            if columns:
                connection.execute(_analyze(table, [name for (name,) in columns]))


def _analyze(table: tuple[str, str], columns: Sequence[str]) -> Composed:
    from psycopg import sql

    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    return sql.SQL("analyze {} ({})").format(sql.Identifier(*table), listed)


def settle(connection: Connection[Any]) -> None:
    """Set aside what the migrations may have set for the database: that is meant for the application."""
    for statement in _SETTLED:
        connection.execute(statement)


def _vacuum(
    connection: Connection[Any], statement: LiteralString, tables: Sequence[tuple[str, str]]
) -> None:
    connection.execute(_named(statement, tables))


def _named(statement: LiteralString, tables: Sequence[tuple[str, str]]) -> Composed:
    from psycopg import sql

    return sql.SQL(statement).format(
        sql.SQL(", ").join(sql.Identifier(schema, name) for schema, name in tables)
    )


def _write_sequences(connection: Connection[Any], *, touched: bool = False) -> None:
    """As `prepare` says; `touched` are those alone of which a page was read since the database was made."""
    # last_value is NULL if a sequence has not been used
    which = (
        _TOUCHED
        if touched
        else b"select schemaname, sequencename, start_value, last_value from pg_sequences"
    )
    connection.execute(
        b"""
        select setval(format('%I.%I', schemaname, sequencename)::regclass, coalesce(last_value, start_value),
                      last_value is not null)
        from ("""
        + which
        + b""") s
        where has_sequence_privilege(format('%I.%I', schemaname, sequencename), 'select')
              and has_sequence_privilege(format('%I.%I', schemaname, sequencename), 'update')
        """
    )
