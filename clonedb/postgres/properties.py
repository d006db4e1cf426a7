"""What CREATE DATABASE ... TEMPLATE does not copy: a database's settings and the privileges on it, read and given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

__all__ = [
    "apply_settings",
    "database_settings",
    "grant_on_database",
    "grants_on_database",
    "set_as_stored",
]

# pg_dump's list of the settings whose text holds quoted names (GUC_LIST_QUOTE)
_LISTS_OF_NAMES = frozenset(
    {
        *(
            "local_preload_libraries",
            "search_path",
            "session_preload_libraries",
            "shared_preload_libraries",
        ),
        *("temp_tablespaces", "unix_socket_directories"),
    }
)


def database_settings(
    connection: Connection[Any], name: str
) -> list[tuple[str | None, str, str]]:
    """What ALTER DATABASE SET and ALTER ROLE IN DATABASE SET left: (role or None, setting, value)."""
    # setconfig is an array of `name=value`; setrole is 0 where it is for all roles
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


def apply_settings(
    connection: Connection[Any], name: str, settings: Sequence[Sequence[str | None]]
) -> None:
    """Give a clone its template's settings: CREATE DATABASE ... TEMPLATE does not copy them."""
    from psycopg import sql

    with connection.transaction():
        for role, setting, value in settings:
            assert setting is not None  # noqa: S101 - comes from database_settings
            if role is None:
                whose = sql.SQL("alter database {}").format(sql.Identifier(name))
            else:
                whose = sql.SQL("alter role {} in database {}").format(
                    sql.Identifier(role), sql.Identifier(name)
                )

            assert value is not None  # noqa: S101 - as above
            set_as_stored(connection, whose, setting, value)


def set_as_stored(
    connection: Connection[Any], whose: Composed, setting: str, value: str
) -> None:
    """Set a setting to the text that the catalogs have of it, in a transaction; `whose` is `ALTER ROLE ...`.

    The stored text is a literal, but that of a list of quoted names: such a setting is set here
    and taken from here, as parsing it would be the alternative. (Any other might work here
    meanwhile: a role, a statement_timeout.)
    """
    from psycopg import sql

    # each part of a custom setting's name (app.tenant) is quoted by itself
    name = sql.Identifier(*setting.split("."))
    if setting.lower() in _LISTS_OF_NAMES:
        # true: until the end of the transaction
        connection.execute("select set_config(%s, %s, true)", [setting, value])
        connection.execute(whose + sql.SQL(" set {} from current").format(name))
    else:
        connection.execute(whose + sql.SQL(" set {} to {}").format(name, sql.Literal(value)))


def grants_on_database(
    connection: Connection[Any], name: str
) -> list[tuple[str | None, str, bool]] | None:
    """Privileges on a database other than its owner's: (role or None for PUBLIC, privilege, grantable).

    None when nothing was ever granted or revoked, so that PostgreSQL's defaults hold.
    """
    row = connection.execute(
        "select datacl is null from pg_database where datname = %s", [name]
    ).fetchone()
    if row is None or row[0]:
        return None
    # a grantee that is no role is PUBLIC, whose number is 0
    rows = connection.execute(
        """
        select r.rolname, a.privilege_type, a.is_grantable
        from pg_database d, aclexplode(d.datacl) a left join pg_roles r on r.oid = a.grantee
        where d.datname = %s and a.grantee <> d.datdba order by 1 nulls first, 2
        """,
        [name],
    )
    return [(row[0], row[1], row[2]) for row in rows]


def grant_on_database(
    connection: Connection[Any], name: str, grants: Sequence[Sequence[Any]]
) -> None:
    """Give a clone its template's privileges, in place of PostgreSQL's defaults."""
    from psycopg import sql

    # words of SQL, which cannot be quoted: only what PostgreSQL knows of databases is composed
    privileges = {"CONNECT", "CREATE", "TEMPORARY", "TEMP"}
    with connection.transaction():
        connection.execute(
            # PostgreSQL's defaults: PUBLIC may connect and make temporary tables
            sql.SQL("revoke all on database {} from public").format(sql.Identifier(name))
        )
        for role, privilege, grantable in grants:
            if privilege not in privileges:
                continue
            statement = sql.SQL("grant {} on database {} to {}").format(
                sql.SQL(privilege),
                sql.Identifier(name),
                sql.Identifier(role) if role else sql.SQL("public"),
            )
            connection.execute(
                statement + sql.SQL(" with grant option") if grantable else statement
            )
