"""Roles of the server: created when they are missing, and the one that tests connect as made ready to log in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clonedb.errors import PermissionDeniedError
from clonedb.postgres import locks
from clonedb.postgres.server import Server
from clonedb.settings.key import nearest

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["create_role_if_missing", "let_role_log_in", "prepare_role"]


def create_role_if_missing(connection: Connection[Any], name: str) -> bool:
    """Create a role that may not log in, unless it exists: whether it was created."""
    from psycopg import errors
    from psycopg.sql import SQL, Identifier

    try:
        connection.execute(SQL("create role {} nologin").format(Identifier(name)))
    except errors.DuplicateObject:
        return False
    return True


def let_role_log_in(connection: Connection[Any], name: str, password: str) -> None:
    """Create a role if it is missing, and give it a password (or a verifier of one) and the right to log in."""
    from psycopg import sql

    create_role_if_missing(connection, name)
    connection.execute(
        sql.SQL("alter role {} login password {}").format(
            sql.Identifier(name), sql.Literal(password)
        )
    )


def prepare_role(server: Server) -> None:
    """See to it that the configured role is there and may log in; nothing happens when none is configured.

    Roles live outside databases, so no template brings it. On the embedded server it is created
    if it is missing, and gets the server's own password; on the user's own server nothing is
    changed. Raises PermissionDeniedError when it is not there, or may not log in.
    """
    role = server.config.role
    if role is None:
        return
    if server.lease is None:
        server.run(_require_login, server, role)
        return

    from clonedb.embedded.cluster import ROLE_ITERATIONS, verifier

    # SCRAM's verifier: the password itself would stand in a statement, which a log may show
    password = verifier(server.lease.password, ROLE_ITERATIONS)
    key = locks.role_key(role)

    # of two processes that alter one role at the same moment, one fails: "tuple concurrently
    # updated"
    server.run(locks.wait_for_lock, key, timeout=5.0)
    try:
        server.run(let_role_log_in, role, password)
    finally:
        server.run(locks.release, key)


def _require_login(connection: Connection[Any], server: Server, role: str) -> None:
    row = connection.execute(
        "select rolcanlogin from pg_roles where rolname = %s", [role]
    ).fetchone()
    if row is not None and row[0]:
        return
    said = f"{server.config.source('role')} says that tests connect as it"
    if row is None:
        known = connection.execute("select rolname from pg_roles where rolcanlogin").fetchall()
        hint = nearest(role, {name: None for (name,) in known})
        raise PermissionDeniedError(
            f'{server.about}: there is no role {role!r}{hint}, but {said}; run `CREATE ROLE "{role}" LOGIN PASSWORD'
            " ...` as a superuser and give clonedb that password as CLONEDB_ROLE_PASSWORD"
        )

    raise PermissionDeniedError(
        f'{server.about}: role {role!r} may not log in, but {said}; run `ALTER ROLE "{role}" LOGIN PASSWORD ...` as a'
        " superuser and give clonedb that password as CLONEDB_ROLE_PASSWORD"
    )
