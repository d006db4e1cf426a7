"""What CREATE DATABASE ... TEMPLATE does not copy, given to a copy from its template's metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clonedb.postgres import properties, sql
from clonedb.templates.metadata import Metadata

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["give", "has_any"]


def has_any(metadata: Metadata) -> bool:
    """Whether there is anything to give, which costs a copy some round trips."""
    return metadata.grants is not None or bool(metadata.settings) or bool(metadata.comment)


def give(connection: Connection[Any], name: str, metadata: Metadata) -> None:
    """Give a copy its template's privileges, settings and comment."""
    if metadata.grants is not None:
        properties.grant_on_database(connection, name, metadata.grants)
    if metadata.settings:
        properties.apply_settings(connection, name, metadata.settings)
    if metadata.comment:
        sql.comment(connection, name, metadata.comment)
