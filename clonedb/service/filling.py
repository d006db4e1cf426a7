"""Templates that callers fill: an empty database made for a hash, sealed when it is full, prepared behind that."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clonedb.embedded.memory import EMPTY
from clonedb.names import template_name, unfinished_name
from clonedb.originals import getpid, now
from clonedb.postgres import sql
from clonedb.postgres.server import Server
from clonedb.postgres.unlogged import filled
from clonedb.service.records import digest_of
from clonedb.service.sessions import Sessions
from clonedb.service.worker import PROJECT
from clonedb.templates import seal as sealing
from clonedb.templates.metadata import Metadata, TemplateRecord
from clonedb.templates.prepare import prepare as prepare_database

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["begin", "drop", "is_callers", "is_prepared", "prepare", "seal"]

_PREPARED = "prepared"


def is_callers(metadata: Metadata) -> bool:
    """Whether a caller of the service has filled a template."""
    return metadata.project.startswith(f"{PROJECT} ")


def is_prepared(metadata: Metadata) -> bool:
    """Whether a caller's template was prepared after it was sealed."""
    return metadata.run == _PREPARED


def begin(server: Server, sessions: Sessions, hash_: str, *, anew: bool) -> str:
    """Make an empty database for a hash: its name, which has twelve digits of a digest.

    `anew` gives it another name than the hash alone would: a builder that was given up may
    still write to the one before. Raises psycopg's errors and ServerError.
    """
    server.require_createdb()
    digest = digest_of(hash_)
    name = template_name(server.config.prefix, digest)
    if anew or sessions.run(sql.find_database, name) is not None:
        name = template_name(server.config.prefix, digest_of(f"{digest} {os.urandom(8).hex()}"))

    # so that no process collects it
    server.use(name)
    try:
        with server.admission.room(EMPTY, f"template {name!r}"):
            sessions.run(sealing.create_empty, server, server.config, name)
        sessions.run(sql.comment, name, _metadata(hash_, digest).to_json())
    except BaseException:
        with contextlib.suppress(Exception):  # the error that led here is the one to see
            drop(server, sessions, name)
        raise
    return name


def seal(server: Server, sessions: Sessions, name: str, hash_: str) -> TemplateRecord:
    """End a full template's sessions, close it to connections, and mark it as complete.

    Raises ServerError when a session stays.
    """
    # it may have been closed by a service that was killed before it had sealed it
    sessions.run(sql.allow_connections, name, allowed=True)
    sessions.run(sql.end_sessions, name)
    with contextlib.closing(server.connect(name)) as connection:
        unlogged = filled(connection)
    sessions.run(sql.close_to_sessions, name)

    described = sealing.describe(server, name)
    # a comment of clonedb's own is not the caller's
    if Metadata.from_json(described["comment"]):
        described["comment"] = None
    metadata = replace(_metadata(hash_, digest_of(hash_)), unlogged=unlogged, **described)
    sessions.run(sql.comment, name, metadata.to_json())
    sessions.run(sql.seal, name)
    return TemplateRecord(name, metadata, built=True)


def prepare(server: Server, sessions: Sessions, record: TemplateRecord) -> TemplateRecord:
    """Put a prepared copy in a sealed template's place, from which databases can be made meanwhile.

    Raises psycopg's errors and ServerError; the template is as it was then.
    """
    private = unfinished_name(
        server.config.prefix, record.metadata.fingerprint, server.owner, server.next_number()
    )
    try:
        strategy = "file_copy" if not server.info.fsync and server.info.major >= 15 else None
        with server.admission.room(record.metadata.size, f"template {private!r}"):
            sessions.run(sql.create_database, private, template=record.name, strategy=strategy)
        with contextlib.closing(server.connect(private)) as connection:
            prepare_database(connection)
        sessions.run(sql.close_to_sessions, private)
        size = sessions.run(sql.database_size, private)
        metadata = replace(record.metadata, run=_PREPARED, size=size)
        sessions.run(sql.comment, private, metadata.to_json())
        sessions.run(sql.seal, private)
        _swap(server, sessions, private, record)
    except BaseException:
        with contextlib.suppress(Exception):  # the error that led here is the one to see
            drop(server, sessions, private)
        raise
    return TemplateRecord(record.name, metadata)


def drop(_server: Server, sessions: Sessions, name: str) -> None:
    """Drop a template, sealed or not, if it is there, and end the sessions with it."""
    sessions.run(sealing.drop, name)


def _swap(server: Server, sessions: Sessions, private: str, record: TemplateRecord) -> None:
    """Exchange two sealed databases in one transaction, and drop the one that was there."""
    aside = unfinished_name(
        server.config.prefix, record.metadata.fingerprint, server.owner, server.next_number()
    )

    def rename(connection: Connection[Any]) -> None:
        with connection.transaction():
            sql.rename_database(connection, record.name, aside)
            sql.rename_database(connection, private, record.name)

    def swap(connection: Connection[Any]) -> None:
        sql.without_sessions(connection, private, "published", lambda: rename(connection))

    sessions.run(swap)
    drop(server, sessions, aside)


def _metadata(hash_: str, digest: str) -> Metadata:
    """What the comment says of a template that is not full yet; as a project of its own, no other displaces it."""
    shown = hash_ if len(hash_) <= 60 else f"{hash_[:57]}..."
    return Metadata(
        project=f"{PROJECT} {digest[:12]}",
        fingerprint=digest,
        heads=(),
        revisions=0,
        made=now(),
        used=now(),
        by=f"{getpass.getuser()} on {socket.gethostname()}, pid {getpid()}",
        run="",
        seconds=0.0,
        size=0,
        lane="service",
        maker=f"a caller (hash {shown!r})",
    )
