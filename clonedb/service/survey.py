"""What is on the server of the service's databases: at its start, and again and again for who is connected to them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from clonedb.errors import ServerError
from clonedb.names import parse
from clonedb.postgres import sql
from clonedb.postgres.server import Server
from clonedb.service.filling import is_callers
from clonedb.service.sessions import Sessions
from clonedb.service.worker import PROJECT
from clonedb.templates.crash_losses import what_is_lost
from clonedb.templates.metadata import Kept, Metadata, TemplateRecord

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Presence", "Survey", "clean_up", "look", "sizes", "survey"]

_COUNTED = 14  # PostgreSQL's version that counts who connected to a database


@dataclass(slots=True)
class Survey:
    """The service's databases on a server: numbers of clones, and of callers' templates what is sealed (else None)."""

    clones: dict[str, int] = field(default_factory=dict)
    templates: dict[str, TemplateRecord | None] = field(default_factory=dict)


class Presence(NamedTuple):
    """A database as the server knows it: its number, how many sessions it has had, and who is connected (pids)."""

    oid: int
    sessions: int
    pids: Collection[int]


def survey(server: Server, sessions: Sessions) -> Survey:
    """The databases that the service has made, by what their names and comments say."""
    found = Survey()
    prefix = server.config.prefix
    for database in sessions.run(sql.databases, prefix):
        name = parse(prefix, database.name)
        if name is None:
            continue
        kept, metadata = Kept.from_json(database.comment), Metadata.from_json(database.comment)
        if name.kind == "clone" and kept is not None and kept.project == PROJECT:
            found.clones[name.text] = sessions.run(sql.database_oid, name.text) or 0
        elif name.kind == "template" and metadata is not None and is_callers(metadata):
            server.use(name.text)
            record = TemplateRecord(name.text, metadata) if database.is_template else None
            if record is not None and what_is_lost(server, record):
                continue  # nobody knows it: it is dropped
            found.templates[name.text] = record

    return found


def clean_up(
    server: Server, sessions: Sessions, known: Collection[str]
) -> list[tuple[str, str]]:
    """Drop the service's databases but those that are known: which could not be dropped, and why."""
    import psycopg

    failed = []
    prefix = server.config.prefix
    for database in sessions.run(sql.databases, prefix):
        name = parse(prefix, database.name)
        if name is None or name.text in known:
            continue
        kept, metadata = Kept.from_json(database.comment), Metadata.from_json(database.comment)
        if (kept and kept.project == PROJECT) or (metadata and is_callers(metadata)):
            with contextlib.suppress(psycopg.errors.InvalidCatalogName):
                try:
                    sessions.run(sql.drop_whatever, database)
                except (psycopg.Error, ServerError) as error:
                    failed.append((name.text, str(error)))
    return failed


def look(_server: Server, sessions: Sessions, names: Collection[str]) -> Mapping[str, Presence]:
    """Who is connected to some databases; those that are gone are missing."""
    if not names:
        return {}

    def query(connection: Connection[Any]) -> Mapping[str, Presence]:
        counted = connection.info.server_version >= _COUNTED * 10000
        count = "pg_stat_get_db_sessions(d.oid)" if counted else "0"
        rows = connection.execute(
            # all sessions are read once, not once for each database
            f"""
            with a as materialized (
                select datid, array_agg(pid) as pids from pg_stat_activity
                where backend_type = 'client backend' and datid is not null group by datid)
            select d.datname, d.oid::bigint, {count}, coalesce(a.pids, '{{}}')
            from pg_database d left join a on a.datid = d.oid where d.datname = any(%s)
            """.encode(),  # noqa: S608 - ours
            [[*names]],
        )

        return {name: Presence(oid, number, pids) for name, oid, number, pids in rows}

    return sessions.run(query)


def sizes(_server: Server, sessions: Sessions, prefix: str) -> Mapping[str, float]:
    """How many client sessions the server has, and how many bytes the databases of the prefix take."""

    def query(connection: Connection[Any]) -> Mapping[str, float]:
        row = connection.execute(
            """
            select (select count(*) from pg_stat_activity where backend_type = 'client backend'),
                   (select coalesce(sum(pg_database_size(oid)), 0) from pg_database
                    where starts_with(datname::text, %s))::bigint
            """,
            [f"{prefix}_"],
        ).fetchone()
        count, size = row or (0, 0)
        return {"sessions": float(count), "bytes": float(size)}

    return sessions.run(query)
