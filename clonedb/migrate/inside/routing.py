"""The connections of an interpreter in which migrations run, all sent to the database that is being built.

A `do_connect` listener on SQLAlchemy's Engine class sees the connections of every engine of the
process, whenever it was created, sync or async, so that an env.py needs no change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clonedb.errors import CloneDBError
from clonedb.postgres import libpq_variables
from clonedb.postgres.address import Address, aimed_at, current_database, redirect
from clonedb.postgres.drivers import WatchedDrivers

if TYPE_CHECKING:
    from clonedb.url import DatabaseURL

__all__ = ["MisroutedError", "route_engines", "route_everything"]


class MisroutedError(CloneDBError):
    """A connection reached another database than the one meant."""


def route_everything(url: DatabaseURL) -> None:
    """Send every PostgreSQL connection of this process's SQLAlchemy engines to one database, for good.

    For the interpreter in which migrations run; the URL that env.py reads has no effect. An
    engine that makes its connections with a `creator` of its own cannot be routed, and neither
    can what connects by psycopg, psycopg2 or asyncpg: where that leads to another database it
    is refused. No listener comes after one that returns a connection, so no listener of env.py
    puts another password in.
    """
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    database, own = url.database, Address.of(url.conninfo(), libpq_variables.defaults())

    def refuse_others(_driver: str, positional: list[Any], keywords: Mapping[str, Any]) -> bool:
        # an engine's connection comes here, too, and is led already
        address = aimed_at(positional, keywords, libpq_variables.defaults())
        if not address.is_at(own):
            raise MisroutedError(
                f"a connection to database {address} was refused: it is not the one being built; let migrations use"
                " op.get_bind(), or read the URL from DATABASE_URL or a variable that `route` names"
            )
        return False

    WatchedDrivers(lambda *_: None, refuse_others).install()
    route_engines(url)

    @event.listens_for(Pool, "connect")
    def _look(dbapi_connection: Any, _record: Any) -> None:
        # a creator's connection is seen only now that it is open
        reached = current_database(dbapi_connection)
        if reached is not None and reached != database:
            raise MisroutedError(
                f"an engine with a creator of its own connected to database {reached!r}, which is not the one being"
                " built, so it was refused; let env.py make its engine from a URL"
            )


def route_engines(url: DatabaseURL) -> None:
    """Send the connections of every SQLAlchemy engine that is made from a PostgreSQL URL to one database, for good."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "do_connect")
    def _send(
        dialect: Any, _record: Any, positional: list[Any], keywords: dict[str, Any]
    ) -> Any:
        if dialect.name != "postgresql":
            return None
        # SQLAlchemy keeps what a listener changes in the arguments, for good
        positional, keywords = list(positional), dict(keywords)
        redirect(url, dialect.driver, positional, keywords)
        return dialect.connect(*positional, **keywords)
