"""The statements clonedb sends, one function each, named after what it does.

Every identifier is composed by psycopg.sql; every value is a parameter. The connection is an autocommit one to the
maintenance database unless a docstring says otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = [
    "Database",
    "ServerInfo",
    "apply_settings",
    "backend_pids",
    "comment",
    "create_database",
    "create_extension",
    "create_role_if_missing",
    "database_settings",
    "database_size",
    "databases",
    "drop_database",
    "drop_whatever",
    "end_sessions",
    "find_database",
    "grant_on_database",
    "grants_on_database",
    "rename_database",
    "seal",
    "server_info",
    "sessions",
    "unseal",
]


# pg_dump's list of the settings whose text holds quoted names (GUC_LIST_QUOTE)
_LISTS_OF_NAMES = frozenset(
    {
        *("local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries"),
        *("temp_tablespaces", "unix_socket_directories"),
    }
)


@dataclass(frozen=True, slots=True)
class ServerInfo:
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


@dataclass(frozen=True, slots=True)
class Database:
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


def database_size(connection: Connection[Any], name: str) -> int:
    """Bytes on disk."""
    row = connection.execute("select pg_database_size(%s::name)", [name]).fetchone()
    return int(row[0]) if row else 0


def create_database(
    connection: Connection[Any], name: str, *, template: str | None = None, strategy: str | None = None
) -> None:
    """CREATE DATABASE, as a copy of a template; `strategy` is 'file_copy' or 'wal_log' (PostgreSQL 15 or newer)."""
    _run(
        connection,
        "create database {}" + (" template {}" if template else "") + (" strategy {}" if strategy else ""),
        *(part for part in (name, template, strategy) if part),
    )


def drop_database(connection: Connection[Any], name: str, *, patience: float = 5.0) -> None:
    """End the sessions of a database and drop it, if it exists.

    DROP ... WITH (FORCE) costs 100 ms more as soon as one client is connected, because the server looks again only
    after that time; ending the sessions ourselves and looking each 0.5 ms costs 7 ms in all (measured). Waits at most
    `patience` seconds for the sessions to end; after that PostgreSQL's own error says who is left.
    """
    end_sessions(connection, name, patience=patience)
    _run(connection, "drop database if exists {}", name)


def drop_whatever(connection: Connection[Any], database: Database) -> None:
    """Drop a database, sealed or not."""
    if database.is_template:
        unseal(connection, database.name)
    drop_database(connection, database.name)


def end_sessions(connection: Connection[Any], name: str, *, patience: float = 5.0) -> int:
    """End every other session of a database and wait, at most `patience` seconds, until they are gone: how many."""
    query = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where datname = %s and pid <> pg_backend_pid() and backend_type = 'client backend'"
    )
    ended = _count(connection, query, name)
    deadline = time.monotonic() + patience
    left = ended
    while left and time.monotonic() < deadline:
        time.sleep(0.0005)
        left = len(backend_pids(connection, name))
    return ended


def backend_pids(connection: Connection[Any], name: str) -> list[int]:
    """The processes that serve clients of a database."""
    rows = connection.execute(
        "select pid from pg_stat_activity where datname = %s and pid <> pg_backend_pid()"
        " and backend_type = 'client backend'",
        [name],
    )
    return [row[0] for row in rows]


def sessions(connection: Connection[Any], name: str) -> list[str]:
    """Who is connected to a database: `pid 4711 (psql) of alice from 10.0.0.7`, a line each."""
    rows = connection.execute(
        "select pid, application_name, usename, client_addr::text from pg_stat_activity"
        " where datname = %s and pid <> pg_backend_pid()",
        [name],
    )
    return [
        f"pid {pid} ({application or 'no application_name'}) of {user}" + (f" from {address}" if address else "")
        for pid, application, user, address in rows
    ]


def rename_database(connection: Connection[Any], old: str, new: str) -> None:
    """ALTER DATABASE ... RENAME: may stand in a transaction; nobody may be connected."""
    _run(connection, "alter database {} rename to {}", old, new)


def seal(connection: Connection[Any], name: str) -> None:
    """Close a finished template.

    ALLOW_CONNECTIONS false keeps everybody out, superusers too, so that no session can stop it from being cloned
    (SQLSTATE 55006); IS_TEMPLATE lets every role with CREATEDB clone it.
    """
    _run(connection, "alter database {} allow_connections false is_template true", name)


def unseal(connection: Connection[Any], name: str) -> None:
    """Make an ordinary database of a template, so that it can be dropped."""
    _run(connection, "alter database {} is_template false", name)


def comment(connection: Connection[Any], name: str, text: str) -> None:
    """COMMENT ON DATABASE."""
    from psycopg import sql

    connection.execute(sql.SQL("comment on database {} is {}").format(sql.Identifier(name), sql.Literal(text)))


def create_extension(connection: Connection[Any], name: str) -> None:
    """CREATE EXTENSION IF NOT EXISTS, on a connection to the database that gets it."""
    _run(connection, "create extension if not exists {}", name)


def create_role_if_missing(connection: Connection[Any], name: str) -> bool:
    """Create a role that may not log in, unless it exists: whether it was created."""
    from psycopg import errors

    try:
        _run(connection, "create role {} nologin", name)
    except errors.DuplicateObject:
        return False
    return True


def database_settings(connection: Connection[Any], name: str) -> list[tuple[str | None, str, str]]:
    """What ALTER DATABASE SET and ALTER ROLE IN DATABASE SET left: (role or None, setting, value)."""
    rows = connection.execute(
        """
        select r.rolname, split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)
        from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase
             left join pg_roles r on r.oid = s.setrole, unnest(s.setconfig) c
        where d.datname = %s order by 1 nulls first, 2
        """,
        [name],
    )
    return [(row[0], row[1], row[2]) for row in rows]


def apply_settings(connection: Connection[Any], name: str, settings: Sequence[Sequence[str | None]]) -> None:
    """Give a clone its template's settings: CREATE DATABASE ... TEMPLATE does not copy them.

    The stored text is a literal, but that of a list of quoted names: such a setting is set here and taken from here,
    as parsing it would be the alternative. (Any other might work here meanwhile: a role, a statement_timeout.)
    """
    from psycopg import sql

    with connection.transaction():
        for role, setting, value in settings:
            assert setting is not None  # noqa: S101 - comes from database_settings
            if role is None:
                whose = sql.SQL("alter database {}").format(sql.Identifier(name))
            else:
                whose = sql.SQL("alter role {} in database {}").format(sql.Identifier(role), sql.Identifier(name))
            if setting.lower() in _LISTS_OF_NAMES:
                connection.execute("select set_config(%s, %s, true)", [setting, value])
                connection.execute(whose + sql.SQL(" set {} from current").format(sql.Identifier(setting)))
            else:
                connection.execute(whose + sql.SQL(" set {} to {}").format(sql.Identifier(setting), sql.Literal(value)))


def grants_on_database(connection: Connection[Any], name: str) -> list[tuple[str | None, str, bool]] | None:
    """Privileges on a database other than its owner's: (role or None for PUBLIC, privilege, grantable).

    None when nobody ever granted or revoked anything, so that PostgreSQL's defaults hold.
    """
    row = connection.execute("select datacl is null from pg_database where datname = %s", [name]).fetchone()
    if row is None or row[0]:
        return None
    rows = connection.execute(
        """
        select r.rolname, a.privilege_type, a.is_grantable
        from pg_database d, aclexplode(d.datacl) a left join pg_roles r on r.oid = a.grantee
        where d.datname = %s and a.grantee <> d.datdba order by 1 nulls first, 2
        """,
        [name],
    )
    return [(row[0], row[1], row[2]) for row in rows]


def grant_on_database(connection: Connection[Any], name: str, grants: Sequence[Sequence[Any]]) -> None:
    """Give a clone its template's privileges, in place of PostgreSQL's defaults."""
    from psycopg import sql

    privileges = {"CONNECT", "CREATE", "TEMPORARY", "TEMP"}
    with connection.transaction():
        _run(connection, "revoke all on database {} from public", name)
        for role, privilege, grantable in grants:
            if privilege not in privileges:
                continue
            statement = sql.SQL("grant {} on database {} to {}").format(
                sql.SQL(privilege), sql.Identifier(name), sql.Identifier(role) if role else sql.SQL("public")
            )
            connection.execute(statement + sql.SQL(" with grant option") if grantable else statement)


def _run(connection: Connection[Any], statement: LiteralString, *identifiers: str) -> None:
    from psycopg import sql

    connection.execute(sql.SQL(statement).format(*map(sql.Identifier, identifiers)))


def _count(connection: Connection[Any], query: LiteralString, name: str) -> int:
    row = connection.execute(query, [name]).fetchone()
    return int(row[0]) if row else 0
