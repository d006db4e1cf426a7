"""The service's tables in the maintenance database, written by the one session that holds the service's lock."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, LiteralString

from clonedb.names import parse
from clonedb.originals import getpid
from clonedb.postgres import locks
from clonedb.postgres.server import Server
from clonedb.service.contract import UnavailableError
from clonedb.service.events import in_a_line
from clonedb.service.records import (
    LeaseRow,
    TemplateRow,
    digest_of,
    from_bytes,
    to_bytes,
)
from clonedb.service.statements import Statements

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Known", "Ledger"]

_TAKEN = "another `clonedb serve` has taken over the server meanwhile: start this one again, with another prefix"
_PAUSE = 0.5  # seconds between two attempts to connect
_SETTINGS = (
    "set synchronous_commit = off; set statement_timeout = '30s'; set lock_timeout = '5s';"
    " set timezone = 'UTC'"
)

# One prefix, one schema: two services on a server with two prefixes share nothing.
_TABLES = """
create schema if not exists {schema};
create table if not exists {schema}.service (
    one boolean primary key default true check (one), generation bigint not null,
    password text not null);
create table if not exists {schema}.template (
    digest text primary key, hash bytea not null, database text not null, holder text not null,
    begun timestamptz not null, used timestamptz not null, sealed timestamptz);
create table if not exists {schema}.lease (
    database text primary key, number bigint not null, id bigint not null, lease text not null, template bytea not null,
    project text, holder text not null, since timestamptz not null, seen timestamptz, kept boolean not null);
"""
_FIRST = (
    "insert into {schema}.service (generation, password) values (0, %s) on conflict do nothing"
)
_LEND = """
insert into {schema}.lease (database, number, id, lease, template, project, holder, since, seen, kept)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
on conflict (database) do update set number = excluded.number, id = excluded.id, lease = excluded.lease,
    template = excluded.template, project = excluded.project, holder = excluded.holder, since = excluded.since,
    seen = excluded.seen, kept = excluded.kept
returning {sessions}
"""
_TEMPLATE = """
insert into {schema}.template (digest, hash, database, holder, begun, used, sealed)
values (%s, %s, %s, %s, %s, %s, %s)
on conflict (digest) do update set database = excluded.database, holder = excluded.holder, begun = excluded.begun,
    used = excluded.used, sealed = excluded.sealed
"""
_LEASES = """
select database, number, id, lease, template, project, holder, since, seen, kept from {schema}.lease
"""
_TEMPLATES = "select hash, database, holder, begun, used, sealed from {schema}.template"
# PostgreSQL's version that counts who connected to a database
_COUNTED = 14


class Known:
    """What the service knows of leases and templates: the truth, which a session that is new writes down again."""

    def __init__(self) -> None:
        # by database, and by hash
        self.leases: dict[str, LeaseRow] = {}
        self.templates: dict[str, TemplateRow] = {}


class Ledger:
    """Leases and templates on the server's disk.

    The session that writes them holds the service's lock, so that a service that has lost the
    lock can lend nothing. `password` is that of the role of an embedded server that callers
    connect as. Commits are not waited for: what a crash of the server loses is
    written again by the process that knows it.
    """

    def __init__(self, server: Server, known: Known) -> None:
        self._server = server
        self._known = known
        self._generation: int | None = None
        self.password: str = ""
        self._lock = asyncio.Lock()
        self._not_before = float("-inf")
        self._failure = ""
        self._plain: Connection[Any] | None = None
        self._session: Statements | None = None
        self._texts: dict[str, bytes] = {}

    async def open(self, generation: int | None = None) -> None:
        """Take the lock and make the tables; with the `generation` of an earlier ledger of this process go on with it.

        Raises UnavailableError when another service has the lock.
        """
        self._generation = generation
        async with self._lock:
            await self._connect()

    @property
    def generation(self) -> int | None:
        """How often a service began to work here; None before it was open."""
        return self._generation

    async def lend(self, row: LeaseRow) -> int:
        """Write a lease down: how many sessions the database has had so far, as the server counts them."""
        result = await self._execute(_LEND, _values(row))
        return int(result or 0)

    async def give_back(self, databases: Collection[str]) -> None:
        """Take leases out."""
        await self._execute(
            "delete from {schema}.lease where database = any(%s)", [[*databases]]
        )

    async def seen(self, databases: Collection[str]) -> None:
        """A client is connected to these databases."""
        await self._execute(
            "update {schema}.lease set seen = now() where database = any(%s)", [[*databases]]
        )

    async def put_template(self, row: TemplateRow) -> None:
        """Write a template down."""
        await self._execute(_TEMPLATE, _template_values(row))

    async def remove_template(self, hash_: str) -> None:
        """Take a template out."""
        await self._execute(
            "delete from {schema}.template where digest = %s", [digest_of(hash_)]
        )

    async def ping(self) -> None:
        """Ask the server for anything."""
        await self._execute("select", [])

    async def close(self) -> None:
        """Give the lock back, with the session."""
        async with self._lock:
            self._forget()

    async def _execute(self, query: LiteralString, parameters: Iterable[Any]) -> str | None:
        """Run a statement: the first value of its first row, if it has any.

        A session that the server has ended is replaced once. Raises UnavailableError.
        """
        import psycopg

        values = tuple(parameters)
        async with self._lock:
            for attempt in (1, 2):
                if self._session is None or self._session.broken:
                    await self._connect()
                session = self._session
                assert session is not None  # noqa: S101 - `_connect` has made it
                try:
                    return await session.value(self._text(query), values)
                except psycopg.Error as error:
                    if session.broken and attempt == 1:
                        continue
                    raise UnavailableError(in_a_line(error)) from error
        return None

    async def _connect(self) -> None:
        """A new session, with the lock, and with what is known written down by it."""
        import psycopg

        from clonedb.errors import CloneDBError

        time = asyncio.get_running_loop().time()
        if time < self._not_before:
            raise UnavailableError(self._failure)
        self._forget()
        leases, templates = [*self._known.leases.values()], [*self._known.templates.values()]
        try:
            plain = await asyncio.to_thread(self._open, leases, templates)
        except (psycopg.Error, CloneDBError) as error:
            # those that stand behind this one need not try the same
            self._not_before = asyncio.get_running_loop().time() + _PAUSE
            self._failure = in_a_line(error)
            raise UnavailableError(self._failure) from error

        self._plain = plain
        self._session = Statements(plain)

    def _open(
        self, leases: Collection[LeaseRow], templates: Collection[TemplateRow]
    ) -> Connection[Any]:
        """In a thread: connect, lock, make the tables, and write down what is known."""
        config = self._server.config
        name = f"clonedb serve on {socket.gethostname()}, pid {getpid()}"[:63]
        connection = self._server.connect(config.maintenance_database, application_name=name)
        try:
            connection.execute(_SETTINGS.encode())
            self._take_lock(connection)
            connection.execute(self._text(_TABLES))
            connection.execute(self._text(_FIRST), [secrets.token_hex(32)])
            self._begin(connection, leases, templates)
            self._guard(connection)
        except BaseException:
            connection.close()
            raise

        return connection

    def _take_lock(self, connection: Connection[Any]) -> None:
        key = locks.service_key(self._server.config.prefix)
        # a service that was killed a moment ago has a session for as long as the server does
        # not know that; one that comes back looks again later
        patience = self._server.config.connect_timeout if self._generation is None else _PAUSE
        if locks.wait_for_lock(connection, key, timeout=patience):
            return

        found = locks.holder(connection, key)
        raise UnavailableError(
            f"{self._server.about}: another `clonedb serve` works there under prefix"
            f" {self._server.config.prefix!r} ({found or 'its session is gone by now'}); stop that one, or give this"
            " one another prefix (CLONEDB_PREFIX)"
        )

    def _begin(
        self,
        connection: Connection[Any],
        leases: Collection[LeaseRow],
        templates: Collection[TemplateRow],
    ) -> None:
        with connection.transaction():
            if self._generation is None:
                connection.execute(
                    self._text("update {schema}.service set generation = generation + 1")
                )
            row = connection.execute(
                self._text("select generation, password from {schema}.service")
            ).fetchone()
            generation, self.password = row or (0, "")
            if self._generation is None:
                self._generation = generation
                self._read(connection)
                return
            if self._generation != generation:
                raise UnavailableError(_TAKEN)
            # a crash of the server may have lost some, and brought others back
            connection.execute(self._text("delete from {schema}.lease"))
            connection.execute(self._text("delete from {schema}.template"))
            for lease in leases:
                connection.execute(self._text(_LEND), _values(lease))
            for template in templates:
                connection.execute(self._text(_TEMPLATE), _template_values(template))

    def _read(self, connection: Connection[Any]) -> None:
        """What an earlier service has left is what this one knows at first."""
        for database, oid, id_, lease, template, *others in connection.execute(
            self._text(_LEASES)
        ):
            found = LeaseRow(database, oid, id_, lease, from_bytes(template), *others)
            self._known.leases[found.database] = found

        for hash_, *others in connection.execute(self._text(_TEMPLATES)):
            filled = TemplateRow(from_bytes(hash_), *others)
            self._known.templates[filled.hash] = filled

    def _guard(self, connection: Connection[Any]) -> None:
        """Hold the locks of the dead processes that have made what is lent: their databases are this one's now."""
        prefix = self._server.config.prefix
        names = [parse(prefix, database) for database in [*self._known.leases]]
        for owner in {name.owner for name in names if name is not None and name.owner}:
            # this process itself holds that of what it has made
            locks.try_lock(connection, locks.owner_key(owner))

    def _text(self, query: LiteralString) -> bytes:
        """A statement for this service's schema; as bytes, which psycopg need not compose each time."""
        from psycopg import sql

        if query not in self._texts:
            counted = self._server.info.major >= _COUNTED
            sessions = "pg_stat_get_db_sessions(number::oid)" if counted else "0"
            composed = sql.SQL(query).format(
                schema=sql.Identifier(self._server.config.prefix),
                sessions=sql.SQL(sessions),
            )
            self._texts[query] = composed.as_bytes()
        return self._texts[query]

    def _forget(self) -> None:
        if self._session is not None:
            self._session.close()
        self._plain = self._session = None


def _values(row: LeaseRow) -> tuple[object, ...]:
    return (
        row.database,
        row.oid,
        row.id,
        row.lease,
        to_bytes(row.template),
        row.project,
        row.holder,
        row.since,
        row.seen,
        row.kept,
    )


def _template_values(row: TemplateRow) -> tuple[object, ...]:
    return (
        digest_of(row.hash),
        to_bytes(row.hash),
        row.database,
        row.holder,
        row.begun,
        row.used,
        row.sealed,
    )
