"""What keeps a database from being dropped although no client is connected to it: told, and cleared away."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Found", "beyond_us", "clear", "find", "silent_processes"]

# Nothing that the database or its role was given may act on us: not a role, not a time limit,
# not a read-only mode.
_SETTINGS = (
    "-c role=none -c search_path=pg_catalog -c default_transaction_read_only=off -c statement_timeout=10s"
    " -c lock_timeout=5s -c client_encoding=UTF8"
)


class Found(NamedTuple):
    """A database that is to be dropped; `obstructed` says whether there is something to `clear` in it.

    One whose drop was interrupted is not `valid`: it lets no session in, and can only be dropped.
    """

    name: str
    obstructed: bool
    valid: bool


def find(connection: Connection[Any], name: str, oid: int | None = None) -> list[Found]:
    """The database of a name, and the one that has a number, also if it was renamed.

    Looking for obstacles takes 0.02 ms; DROP DATABASE waits for 5 s before it refuses because
    of one.
    """
    rows = connection.execute(
        """
        select d.datname,
               exists (select from pg_prepared_xact() p where p.dbid = d.oid)
               or exists (select from pg_subscription s where s.subdbid = d.oid),
               d.datconnlimit <> -2
        from pg_database d where d.datname = %s or d.oid = %s
        """,
        [name, oid],
    )
    return [Found(*row) for row in rows]


def clear(connection: Connection[Any], name: str) -> None:
    """Roll back the prepared transactions of a database, and drop its subscriptions, so that it can be dropped.

    Both can be done only by a session in that database, for which it is opened to connections.
    A subscription's slot at the publisher is left alone: the publisher may be unreachable.
    (Logical replication slots of the database itself go with DROP DATABASE, once they are
    unused.) Raises what PostgreSQL says of a role that may not.
    """
    from psycopg.sql import SQL, Identifier, Literal

    connection.execute(
        SQL("alter database {} allow_connections true connection limit -1").format(
            Identifier(name)
        )
    )
    with contextlib.closing(_connect_like(connection, name)) as inside:
        for (transaction,) in inside.execute(
            "select gid from pg_prepared_xacts where database = current_database()"
        ):
            inside.execute(SQL("rollback prepared {}").format(Literal(transaction)))

        query = (
            "select s.subname from pg_subscription s join pg_database d on d.oid = s.subdbid"
        )
        for (subscription,) in inside.execute(
            f"{query} where d.datname = current_database()".encode()
        ).fetchall():
            for change in (
                "alter subscription {} disable",
                "alter subscription {} set (slot_name = none)",
            ):
                inside.execute(SQL(change).format(Identifier(subscription)))

            inside.execute(SQL("drop subscription {}").format(Identifier(subscription)))


def _connect_like(connection: Connection[Any], name: str) -> Connection[Any]:
    """A connection to another database, by the way that a connection was made; what PGHOST says by now is not asked."""
    import psycopg

    known: dict[str, Any] = {
        option.keyword.decode(): option.val.decode()
        for option in connection.pgconn.info
        if option.val
    }
    changed: dict[str, Any] = {
        "dbname": name,
        "options": _SETTINGS,
        "application_name": "clonedb",
    }
    return psycopg.connect("", autocommit=True, prepare_threshold=None, **{**known, **changed})


def silent_processes(connection: Connection[Any]) -> str:
    """Which of the server's processes a drop waits for, and what to do.

    They are those whose clients do not read what they are sent, or else one that was stopped:
    DROP DATABASE waits until every process of the server has taken notice of it.
    """
    rows = connection.execute(
        """
        select format('process %s (%s), connected to %I', pid, coalesce(nullif(application_name, ''), usename), datname)
        from pg_stat_activity where wait_event = 'ClientWrite' order by pid
        """
    ).fetchall()
    if rows:
        return (
            "the server waits for a client that does not read what it is sent (results, notifications): that of"
            f" {'; '.join(row[0] for row in rows)}; end it or let it go on"
        )
    return "the server waits for one of its own processes, which may be stopped (`ps` shows T); kill -CONT continues it"


def beyond_us(connection: Connection[Any], name: str) -> list[str]:
    """Why our role cannot drop a database, a reason each; nothing if it can."""
    rows = connection.execute(
        """
        with d as (select oid, datname, datdba from pg_database where datname = %s),
             us as (select rolname, rolsuper from pg_roles where rolname = current_user)
        select format('it belongs to role %%I', pg_get_userbyid(d.datdba))
        from d where not pg_has_role(d.datdba, 'usage')
        union all
        select format('prepared transaction %%L belongs to role %%I', p.gid, p.owner)
        from d join pg_prepared_xacts p on p.database = d.datname, us where not us.rolsuper and p.owner <> us.rolname
        union all
        select format('subscription %%I belongs to role %%I', s.subname, pg_get_userbyid(s.subowner))
        from d join pg_subscription s on s.subdbid = d.oid where not pg_has_role(s.subowner, 'usage')
        """,
        [name],
    )
    return [row[0] for row in rows]
