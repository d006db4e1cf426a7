"""Directories of databases that are none: what a CREATE DATABASE leaves that a crash of the server cut short."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["remove_orphans"]

_FIRST = (
    16384  # the first number that PostgreSQL gives to what users make (FirstNormalObjectId)
)


def remove_orphans(connection: Connection[Any], data: Path) -> list[int]:
    """Remove the directories in `base` that no database has: their numbers. For the embedded server only.

    PostgreSQL removes them when the statement fails, but not after a crash. One that was
    changed since the server started may be that of a database which is just being made.
    """
    with os.scandir(data / "base") as entries:
        found = {
            int(entry.name): entry.stat(follow_symlinks=False).st_ctime
            for entry in entries
            if entry.name.isdigit() and entry.is_dir(follow_symlinks=False)
        }

    # the server's start is the same in every row
    rows = connection.execute(
        "select oid::bigint, extract(epoch from pg_postmaster_start_time()) from pg_database"
    )
    known = {int(oid): float(started) for oid, started in rows}
    started = min(known.values())
    # each file that is made in a directory changes its ctime
    orphans = [
        oid
        for oid, when in found.items()
        if oid >= _FIRST and oid not in known and when < started
    ]
    for oid in orphans:
        shutil.rmtree(data / "base" / str(oid), ignore_errors=True)
    return orphans
