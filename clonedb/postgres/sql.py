"""The statements clonedb sends, one function each, named after what it does.

Every identifier is composed by psycopg.sql; every value is a parameter. The connection is an
autocommit one to the maintenance database unless a docstring says otherwise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any, LiteralString, NamedTuple

from clonedb.errors import PermissionDeniedError, ServerError
from clonedb.originals import monotonic, sleep
from clonedb.postgres import obstacles

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

__all__ = [
    "Database",
    "ServerInfo",
    "allow_connections",
    "backend_pids",
    "close_to_sessions",
    "comment",
    "copy_of",
    "create_database",
    "create_extension",
    "database_oid",
    "database_size",
    "databases",
    "drop_database",
    "drop_whatever",
    "end_sessions",
    "find_database",
    "is_open",
    "limit_drops",
    "make_droppable",
    "own_pid",
    "rename_database",
    "seal",
    "server_info",
    "sessions",
    "unseal",
    "without_sessions",
]

DROP_LIMIT = (
    60.0  # seconds for one DROP DATABASE, which may wait for a checkpoint of a busy server
)


class ServerInfo(NamedTuple):
    """What clonedb wants to know of a server before it works there; `major` is PostgreSQL's (18)."""

    major: int
    user: str
    superuser: bool
    may_create_databases: bool
    encoding: str
    locale: str
    fsync: bool


def server_info(connection: Connection[Any]) -> ServerInfo:
    """The server's version, our rights, what new databases are like, and whether writes are flushed: one round trip."""
    row = connection.execute(
        """
        select current_setting('server_version_num')::int / 10000, current_user::text, r.rolsuper,
               r.rolsuper or r.rolcreatedb, pg_encoding_to_char(d.encoding), d.datcollate,
               current_setting('fsync')::bool
        from pg_roles r, pg_database d where r.rolname = current_user and d.datname = 'template1'
        """
    ).fetchone()
    assert row is not None  # noqa: S101 - a role and template1 always exist
    return ServerInfo(*row)


def own_pid(connection: Connection[Any]) -> int:
    """The pid of the server's process that serves a session, asked of the server itself."""
    row = connection.execute("select pg_backend_pid()").fetchone()
    assert row is not None  # noqa: S101 - a function's value is a row
    return int(row[0])


class Database(NamedTuple):
    """One row of pg_database with its comment."""

    name: str
    is_template: bool
    comment: str | None


def databases(connection: Connection[Any], prefix: str) -> list[Database]:
    """The databases whose names begin with the prefix, with their comments, by name."""
    rows = connection.execute(
        """
        select datname, datistemplate, shobj_description(oid, 'pg_database') from pg_database
        where starts_with(datname::text, %s) order by datname
        """,
        [prefix + "_"],
    )
    return [Database(*row) for row in rows]


def find_database(connection: Connection[Any], name: str) -> Database | None:
    """One database, or None."""
    row = connection.execute(
        "select datname, datistemplate, shobj_description(oid, 'pg_database') from pg_database where datname = %s",
        [name],
    ).fetchone()
    return Database(*row) if row else None


def database_oid(connection: Connection[Any], name: str) -> int | None:
    """The number of a database, which stays when it is renamed; None if there is none of that name."""
    row = connection.execute(
        "select oid::bigint from pg_database where datname = %s", [name]
    ).fetchone()
    return int(row[0]) if row else None


def is_open(connection: Connection[Any], name: str, oid: int | None) -> bool:
    """Whether a database has this name and number, and takes any number of connections."""
    row = connection.execute(
        "select datallowconn and datconnlimit = -1 from pg_database where datname = %s and oid = %s",
        [name, oid],
    ).fetchone()
    return bool(row and row[0])


def database_size(connection: Connection[Any], name: str) -> int:
    """Bytes on disk; 0 if it is just being dropped, of which PostgreSQL says NULL once its directory is gone."""
    row = connection.execute("select pg_database_size(%s::name)", [name]).fetchone()
    return int(row[0] or 0) if row else 0


def create_database(
    connection: Connection[Any],
    name: str,
    *,
    template: str | None = None,
    strategy: str | None = None,
    locale: str | None = None,
) -> None:
    """CREATE DATABASE, as a copy of a template; `strategy` is 'file_copy' or 'wal_log' (PostgreSQL 15 or newer).

    One that is no copy may have a locale of its own: 'en_US.UTF-8', 'icu:en-US' or
    'builtin:C.UTF-8'.
    """
    from psycopg import sql

    if locale is None:
        connection.execute(copy_of(name, template=template, strategy=strategy))
        return
    provider, _, called = locale.rpartition(":")
    # ICU came with 15, as a provider of a whole database, and `builtin` with 17
    option = {"icu": "icu_locale", "builtin": "builtin_locale"}.get(provider, "locale")
    if connection.info.server_version >= 150000:
        option = f"locale_provider {provider or 'libc'} {option}"
    # PostgreSQL takes another locale than the template's only for a copy of template0
    statement = copy_of(name, template="template0", strategy=strategy)
    connection.execute(statement + sql.SQL(f" {option} ") + sql.Literal(called))


def copy_of(name: str, *, template: str | None = None, strategy: str | None = None) -> Composed:
    """The statement of `create_database`."""
    return _composed(
        "create database {}"
        + (" template {}" if template else "")
        + (" strategy {}" if strategy else ""),
        *(part for part in (name, template, strategy) if part),
    )


def drop_database(
    connection: Connection[Any], name: str, *, oid: int | None = None, patience: float = 5.0
) -> None:
    """Drop a database if it exists, with what is in its way: sessions, prepared transactions, subscriptions.

    With its `oid` it is also found when it was renamed; another one that has its name by now
    goes, too. Waits at most `patience` seconds for sessions to end. Raises ServerError, which
    says who is left, and after DROP_LIMIT. DROP ... WITH (FORCE) costs 100 ms with a client;
    ending the sessions ourselves costs 7 ms (measured).
    """
    from psycopg import Error, errors

    for found in make_droppable(connection, name, oid=oid, patience=patience):
        limit_drops(connection)
        drop = partial(_run, connection, "drop database if exists {}", found)
        try:
            without_sessions(connection, found, "dropped", drop)
        except errors.QueryCanceled as error:
            raise ServerError(
                f"database {found!r} could not be dropped within {DROP_LIMIT:g} s:"
                f" {obstacles.silent_processes(connection)}, and run `clonedb gc`"
            ) from error
        finally:
            with contextlib.suppress(Error):  # what broke the connection is the error to see
                connection.execute("set statement_timeout = 0")


def limit_drops(connection: Connection[Any]) -> None:
    """From now on a statement may take DROP_LIMIT seconds: a drop waits for all processes, stopped ones too."""
    # SET takes no parameters
    connection.execute(f"set statement_timeout = '{DROP_LIMIT:g}s'".encode())


def make_droppable(
    connection: Connection[Any], name: str, *, oid: int | None = None, patience: float = 5.0
) -> list[str]:
    """All of `drop_database` but the last statement: the names of what there is to drop."""
    from psycopg import errors

    there = obstacles.find(connection, name, oid)
    for found in there:
        if not found.valid:
            continue
        with contextlib.suppress(errors.InvalidCatalogName):  # dropped meanwhile
            close_to_sessions(connection, found.name, patience=patience)
            if found.obstructed:
                obstacles.clear(connection, found.name)
                close_to_sessions(connection, found.name, patience=patience)
    return [found.name for found in there]


def drop_whatever(connection: Connection[Any], database: Database) -> None:
    """Drop a database, sealed or not."""
    if database.is_template:
        unseal(connection, database.name)
    drop_database(connection, database.name)


def close_to_sessions(connection: Connection[Any], name: str, *, patience: float = 5.0) -> None:
    """Let no session into a database any more, then end those that are there.

    In this order: a background worker, or a client's pool, connects again as soon as its
    session was ended. Closing costs 0.1 ms (measured).
    """
    allow_connections(connection, name, allowed=False)
    end_sessions(connection, name, patience=patience)


def without_sessions(
    connection: Connection[Any], name: str, done: str, statement: Callable[[], None]
) -> None:
    """Run a statement that PostgreSQL refuses while a database has sessions (SQLSTATE 55006).

    PostgreSQL itself waits for 5 s before it refuses. A session that was being opened while the
    database was closed to connections is in it only now, so those are ended, and it is tried
    once more. Raises ServerError with the sessions that stay; `done` says what could not be
    done with the database.
    """
    from psycopg import errors

    try:
        statement()
    except errors.ObjectInUse as error:
        end_sessions(connection, name, patience=1.0)
        if sessions(connection, name):
            raise _in_use(connection, name, done, error) from None
    else:
        return

    try:
        statement()
    except errors.ObjectInUse as error:
        raise _in_use(connection, name, done, error) from None


def _in_use(connection: Connection[Any], name: str, done: str, error: Exception) -> ServerError:
    users = "; ".join(sessions(connection, name)) or " ".join(str(error).split())
    return ServerError(
        f"database {name!r} cannot be {done} while it is in use: {users}; stop the program, or the extension's"
        " background worker, that stays connected (a server process that `ps` shows as T is stopped: kill -CONT)"
    )


def end_sessions(
    connection: Connection[Any], name: str, *, keep: Collection[int] = (), patience: float = 5.0
) -> int:
    """End every other session of a database, but those to `keep`, and wait until they are gone: how many.

    Those of replication and of background workers are among them; autovacuum gives way to a
    drop by itself. Sessions that begin meanwhile are not waited for. Waits at most `patience`
    seconds. Raises PermissionDeniedError, with the sessions, when the role may not end one.
    """
    from psycopg import errors

    try:
        rows = connection.execute(
            "select pid, pg_terminate_backend(pid) from pg_stat_activity where datname = %s"
            " and pid <> pg_backend_pid() and pid <> all(%s) and backend_type <> 'autovacuum worker'",
            [name, [*keep]],
        ).fetchall()
    except errors.InsufficientPrivilege as error:
        raise PermissionDeniedError(
            f"role {connection.info.user!r} may not end the sessions of database {name!r}:"
            f" {'; '.join(sessions(connection, name))}; end them, or grant it what PostgreSQL asks for:"
            f" {' '.join(str(error).split())}"
        ) from None

    # false for a process that has gone meanwhile
    left = {pid for pid, ended in rows if ended}
    ended = len(left)
    deadline = monotonic() + patience
    while left and monotonic() < deadline:
        # pg_terminate_backend() sends a signal, and does not wait for its effect
        sleep(0.0005)
        left.intersection_update(backend_pids(connection, name))

    return ended


def backend_pids(connection: Connection[Any], name: str) -> list[int]:
    """The processes that work in a database: for clients, for replication, or by themselves, but for autovacuum."""
    rows = connection.execute(
        "select pid from pg_stat_activity where datname = %s and pid <> pg_backend_pid()"
        " and backend_type <> 'autovacuum worker'",
        [name],
    )
    return [row[0] for row in rows]


def sessions(connection: Connection[Any], name: str, kind: str = "%") -> list[str]:
    """Who is connected to a database: `pid 4711 (psql) of alice from 10.0.0.7`, a line each; `kind` is for LIKE."""
    rows = connection.execute(
        "select pid, coalesce(nullif(application_name, ''), case backend_type when 'client backend'"
        " then 'no application_name' else backend_type end), coalesce(usename, 'no role'), client_addr::text"
        " from pg_stat_activity where datname = %s and pid <> pg_backend_pid() and backend_type like %s",
        [name, kind],
    )
    return [
        f"pid {pid} ({application}) of {user}" + (f" from {address}" if address else "")
        for pid, application, user, address in rows
    ]


def rename_database(connection: Connection[Any], old: str, new: str) -> None:
    """ALTER DATABASE ... RENAME: may stand in a transaction; no session may be connected."""
    _run(connection, "alter database {} rename to {}", old, new)


def seal(connection: Connection[Any], name: str) -> None:
    """Close a finished template.

    ALLOW_CONNECTIONS false keeps everybody out, superusers too, so that no session can stop it
    from being cloned (SQLSTATE 55006); IS_TEMPLATE lets every role with CREATEDB clone it.
    """
    _run(connection, "alter database {} allow_connections false is_template true", name)


def allow_connections(connection: Connection[Any], name: str, *, allowed: bool) -> None:
    """Let clients into a database, or none, not even a superuser; those that are in may stay."""
    _run(
        connection,
        "alter database {} allow_connections " + ("true" if allowed else "false"),
        name,
    )


def unseal(connection: Connection[Any], name: str) -> None:
    """Make an ordinary database of a template, so that it can be dropped."""
    _run(connection, "alter database {} is_template false", name)


def comment(connection: Connection[Any], name: str, text: str) -> None:
    """COMMENT ON DATABASE."""
    from psycopg import sql

    connection.execute(
        sql.SQL("comment on database {} is {}").format(sql.Identifier(name), sql.Literal(text))
    )


def create_extension(connection: Connection[Any], name: str) -> None:
    """CREATE EXTENSION IF NOT EXISTS, on a connection to the database that gets it."""
    _run(connection, "create extension if not exists {}", name)


def _run(connection: Connection[Any], statement: LiteralString, *identifiers: str) -> None:
    connection.execute(_composed(statement, *identifiers))


def _composed(statement: LiteralString, *identifiers: str) -> Composed:
    from psycopg import sql

    return sql.SQL(statement).format(*map(sql.Identifier, identifiers))
