"""The last steps of every template: described in its comment, sealed, and published under its name."""

from __future__ import annotations

import contextlib
import getpass
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from clonedb.embedded.memory import EMPTY
from clonedb.errors import BuildError, ConfigError
from clonedb.names import unfinished_name
from clonedb.originals import getpid
from clonedb.postgres import properties, sql
from clonedb.postgres.roles import create_role_if_missing
from clonedb.postgres.server import Server
from clonedb.postgres.unlogged import filled
from clonedb.templates.locks import BuildLease
from clonedb.templates.metadata import Metadata, TemplateRecord

if TYPE_CHECKING:
    from psycopg import Connection

    from clonedb.settings.config import Config

__all__ = ["Described", "create", "create_empty", "describe", "drop", "publish", "seal"]

Described = dict[str, Any]  # the fields of Metadata that the server knows


def create(
    server: Server,
    config: Config,
    private: str,
    *,
    below: TemplateRecord | None = None,
    size: int = EMPTY,
) -> None:
    """Create a database under a private name, empty or as a copy, and the roles that the configuration names.

    `size` is how many bytes it will have at least, if it is no copy. Raises BuildError when the
    server cannot, ServerError when there is no room in memory for it, and psycopg's
    InvalidCatalogName when there is nothing to copy any more.
    """
    import psycopg

    _create_roles(server, config)
    how, name = _strategy(server), below.name if below else None
    try:
        with server.admission.room(
            below.metadata.size if below else size, f"template {private!r}"
        ):
            if below is None:
                server.run(create_empty, server, config, private)
            else:
                server.run(sql.create_database, private, template=name, strategy=how)
    except psycopg.errors.ObjectInUse as error:
        users = server.run(sql.sessions, name or "template1")
        raise BuildError(
            f"{server.about} could not create a database: {' '.join(str(error).split())}"
            f" ({'; '.join(users) or 'they have ended by now'}); end those sessions, and run again"
        ) from error
    except (psycopg.errors.DiskFull, psycopg.errors.InternalError) as error:
        raise BuildError(
            f"{server.about} could not create a database: {' '.join(str(error).split())};"
            " a full disk is the usual reason"
        ) from error


def create_empty(
    connection: Connection[Any], server: Server, config: Config, name: str
) -> None:
    """Create a database that is no copy, in the configured locale; raises ConfigError for one that the server lacks."""
    import psycopg

    how, locale = _strategy(server), config.locale
    try:
        sql.create_database(connection, name, strategy=how, locale=locale)
    except (
        psycopg.errors.WrongObjectType,
        psycopg.errors.InvalidParameterValue,
        psycopg.errors.FeatureNotSupported,
        psycopg.errors.SyntaxError,
    ) as error:
        # a locale of another encoding, one that the system lacks, a provider that this build or
        # version lacks
        if locale is None:
            raise
        raise ConfigError(
            f"{config.source('locale')}: {server.about} cannot make a database with locale {locale!r}:"
            f" {' '.join(str(error).split())}; `locale -a` lists the system's, ICU's are written icu:de-DE"
        ) from error


def _create_roles(server: Server, config: Config) -> None:
    """Create the roles that the configuration names."""
    for role in dict.fromkeys((*config.roles, *filter(None, [config.role]))):
        server.run(create_role_if_missing, role)


def _strategy(server: Server) -> str | None:
    """How CREATE DATABASE makes what is no clone; None leaves it to the server."""
    # with fsync on, FILE_COPY costs checkpoints, which wait for the disk
    return "file_copy" if not server.info.fsync and server.info.major >= 15 else None


def describe(server: Server, private: str) -> Described:
    """What the server says of a finished database, by the names of Metadata's fields, and who made it."""

    def look(connection: Connection[Any]) -> Described:
        found = sql.find_database(connection, private)
        grants = properties.grants_on_database(connection, private)
        return {
            "by": f"{getpass.getuser()} on {socket.gethostname()}, pid {getpid()}",
            "size": sql.database_size(connection, private),
            "settings": [
                list(row) for row in properties.database_settings(connection, private)
            ],
            "grants": None if grants is None else [list(row) for row in grants],
            "comment": found.comment if found else None,
        }

    return server.run(look)


def seal(
    server: Server, private: str, prepare: Callable[[Callable[[], Connection[Any]]], None]
) -> list[list[str]]:
    """Prepare a database, leave `pg_internal.init`, which a FILE_COPY clone inherits, and close it to connections.

    That file saves 4 ms a connection. `prepare` gets what opens a connection to it. Returns the
    unlogged relations that have contents.
    """
    # what the build left open could hold locks, for which `prepare` would wait
    server.run(sql.end_sessions, private)
    prepare(lambda: server.connect(private))
    with contextlib.closing(server.connect(private)) as connection:
        unlogged = filled(connection)
    server.run(sql.close_to_sessions, private)
    return unlogged


def publish(
    server: Server, private: str, name: str, metadata: Metadata, lease: BuildLease
) -> None:
    """Seal a finished database and give it its name; one of that name steps aside in the same transaction.

    That is the transaction of the session that holds the template's lock, so that a process that
    lost the lock publishes nothing. Raises ServerError when a session stays connected to the
    database, and LeaseLostError.
    """
    # before it is sealed, so that every sealed database says what it is
    server.run(sql.comment, private, metadata.to_json())
    server.run(sql.seal, private)
    server.run(sql.end_sessions, private)
    aside = unfinished_name(
        server.config.prefix, metadata.fingerprint, server.owner, server.next_number()
    )

    def rename(connection: Connection[Any]) -> None:
        # a process that looks for the name finds the old one or the new one
        with connection.transaction():
            if sql.find_database(connection, name) is not None:
                sql.rename_database(connection, name, aside)
            sql.rename_database(connection, private, name)

    def publish_alone(connection: Connection[Any]) -> None:
        sql.without_sessions(connection, private, "published", lambda: rename(connection))

    try:
        lease.run(publish_alone)
        server.run(drop, aside)
    except BaseException:  # Ctrl-C, too: it may come when it is renamed already
        with contextlib.suppress(Exception):
            server.run(drop, aside)
        raise


def drop(connection: Connection[Any], name: str) -> None:
    """Drop a database, sealed or not, if it is there."""
    if database := sql.find_database(connection, name):
        sql.drop_whatever(connection, database)
