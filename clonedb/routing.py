"""SQLAlchemy connections, sent to the database that is meant.

A `do_connect` listener on SQLAlchemy's Engine class sees the connections of every engine of the process, whenever it
was created, sync or async, so that an application or an env.py needs no change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clonedb.errors import CloneDBError

if TYPE_CHECKING:
    from clonedb.url import DatabaseURL

__all__ = ["MisroutedError", "route_everything"]

# what says where a connection goes and who connects; `options` (search_path, timeouts) is the caller's and stays
_PLACE = frozenset(
    {
        *("host", "hostaddr", "port", "user", "password", "passfile", "dbname", "database", "service", "dsn"),
        *("unix_sock", "target_session_attrs", "load_balance_hosts", "channel_binding", "requirepeer", "require_auth"),
        *("gssencmode", "krbsrvname", "ssl", "ssl_context", "direct_tls", "sslmode", "sslnegotiation", "sslcert"),
        *("sslkey", "sslpassword", "sslrootcert", "sslcrl", "sslcrldir", "sslcertmode"),
    }
)


class MisroutedError(CloneDBError):
    """A connection reached another database than the one meant."""


def route_everything(url: DatabaseURL) -> None:
    """Send every PostgreSQL connection of this process's SQLAlchemy engines to one database, for good.

    For the interpreter in which migrations run: whatever URL env.py reads, it cannot touch another database. An engine
    that makes its connections with a `creator` of its own cannot be routed; its first connection is refused instead.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine
    from sqlalchemy.pool import Pool

    database = url.database

    @event.listens_for(Engine, "do_connect")
    def _send(dialect: Any, _record: Any, positional: list[Any], keywords: dict[str, Any]) -> None:
        if dialect.name == "postgresql":
            positional[:] = [part for part in positional if not isinstance(part, str)]
            for name in _PLACE.intersection(keywords):
                del keywords[name]
            keywords.update(_place(url, dialect.driver))

    @event.listens_for(Pool, "connect")
    def _look(dbapi_connection: Any, _record: Any) -> None:
        reached = _current_database(dbapi_connection)
        if reached is not None and reached != database:
            raise MisroutedError(
                f"an engine with a creator of its own connected to database {reached!r}, which is not the one being"
                " built, so it was refused; let env.py make its engine from a URL"
            )


def _place(url: DatabaseURL, driver: str) -> Mapping[str, Any]:
    """The parameters of connect() that lead to a URL, in the words of a driver."""
    keywords: dict[str, Any] = dict(url.conninfo())
    if driver.startswith("psycopg"):
        return keywords
    plain: dict[str, Any] = {n: keywords[n] for n in ("host", "port", "user", "password") if n in keywords}
    plain["database"] = url.database
    for name, kind in (("host", str), ("port", int)):
        if name in plain:  # asyncpg takes several as lists
            several = [kind(part) for part in plain[name].split(",")]
            plain[name] = several[0] if len(several) == 1 else several
    if driver == "asyncpg" and keywords.get("sslmode"):
        plain["ssl"] = keywords["sslmode"]
    return plain


def _current_database(dbapi_connection: Any) -> str | None:
    """The database a fresh DBAPI connection reached; None for one that is not PostgreSQL's."""
    cursor = dbapi_connection.cursor()
    try:
        cursor.execute("select current_database()")
        return str(cursor.fetchone()[0])
    except Exception:  # noqa: BLE001 - another database system's complaint, of whatever driver
        return None
    finally:
        cursor.close()
        dbapi_connection.rollback()
