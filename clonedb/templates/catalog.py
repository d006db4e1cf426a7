"""The sealed templates on a server, read from their comments."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace
from typing import Any

from clonedb.errors import PermissionDeniedError
from clonedb.originals import now
from clonedb.postgres import sql
from clonedb.postgres.server import Server
from clonedb.templates.metadata import Metadata, TemplateRecord

__all__ = ["find", "note", "note_use", "templates"]

_HOUR = 3600.0  # seconds
_HOSTS = 20  # of which a template's comment has the last use


def find(server: Server, name: str) -> TemplateRecord | None:
    """The sealed template of this name, or None."""
    database = server.run(sql.find_database, name)
    # is_template is set last, when all else is done: the proof that a template is complete
    if database is None or not database.is_template:
        return None
    metadata = Metadata.from_json(database.comment)
    return TemplateRecord(name, metadata) if metadata else None


def templates(server: Server) -> list[TemplateRecord]:
    """All sealed templates under the configured prefix, the newest first."""
    found = server.run(sql.databases, server.config.prefix)
    known = [(d.name, Metadata.from_json(d.comment)) for d in found if d.is_template]
    listed = [
        TemplateRecord(name, metadata) for name, metadata in known if metadata is not None
    ]
    return sorted(listed, key=lambda template: template.metadata.made, reverse=True)


def note(server: Server, template: TemplateRecord, **changes: Any) -> None:
    """Change what a template's comment says of it, if this account may: another worker notes it, or the owner will."""
    import psycopg

    text = replace(template.metadata, **changes).to_json()
    with contextlib.suppress(psycopg.Error, PermissionDeniedError):
        server.run(sql.comment, template.name, text)


def note_use(server: Server, template: TemplateRecord) -> None:
    """Note once an hour that this host used a template: the least recently used of each host are collected."""
    host, hosts = socket.gethostname(), template.metadata.used_by_host()
    if now() - hosts.pop(host, 0.0) > _HOUR:
        latest = sorted(hosts, key=lambda other: hosts[other])[1 - _HOSTS :]
        others = {other: hosts[other] for other in latest}
        note(server, template, used=now(), hosts={**others, host: now()})
