"""The role that tests and the application connect as: made ready to log in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clonedb.errors import PermissionDeniedError
from clonedb.postgres import locks, sql
from clonedb.postgres.server import Server

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["prepare_role"]


def prepare_role(server: Server) -> None:
    """See to it that the configured role is there and may log in; nothing happens when none is configured.

    Roles live outside databases, so no template brings it. On the embedded server it gets the server's own password; on
    somebody else's it is created if it is missing, but nobody's right to log in is changed. Raises
    PermissionDeniedError when it may not log in there.
    """
    role = server.config.role
    if role is None:
        return
    if server.lease is None:
        server.run(lambda connection: _demand_login(connection, server, role))
        return
    password = server.lease.password
    key = locks.role_key(role)
    # of two processes that alter one role at the same moment, one fails: "tuple concurrently updated"
    server.run(lambda connection: locks.wait_for_lock(connection, key, timeout=5.0))
    try:
        server.run(lambda connection: sql.let_role_log_in(connection, role, password))
    finally:
        server.run(lambda connection: locks.release(connection, key))


def _demand_login(connection: Connection[Any], server: Server, role: str) -> None:
    sql.create_role_if_missing(connection, role)
    row = connection.execute("select rolcanlogin from pg_roles where rolname = %s", [role]).fetchone()
    if row is None or not row[0]:
        raise PermissionDeniedError(
            f"{server.about}: role {role!r} may not log in, but {server.config.source('role')} says that tests connect"
            f' as it; run `ALTER ROLE "{role}" LOGIN PASSWORD ...` as a superuser and give clonedb that password as'
            " CLONEDB_ROLE_PASSWORD"
        )
