"""How CREATE DATABASE ... TEMPLATE copies: by file or through the WAL, and by sharing blocks."""

from __future__ import annotations

import fcntl
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clonedb.postgres.server import Server
from clonedb.templates.metadata import TemplateRecord

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["choose", "share_blocks"]

# Bytes of a template from which on, with fsync on, WAL_LOG's writing takes longer than
# FILE_COPY's two checkpoints: 54 MB were quicker by WAL_LOG (232 against 413 ms), 170 MB by
# FILE_COPY (356 against 508).
_LARGE = 100 << 20
_FICLONE = 0x40049409  # ioctl: let one file share the blocks of another


def choose(server: Server, template: TemplateRecord) -> str | None:
    """The strategy for a clone of a template; None where the server has no choice (PostgreSQL 14).

    By file where nothing is flushed; with fsync on through the WAL for a small template,
    because each FILE_COPY costs two checkpoints.

    Where clones are rewound, by file always: few are made, and each that goes through the WAL
    puts 4 to 12 MB into what every other worker has to read. Of four workers that started at
    once, each had one refused ("too much WAL").
    """
    # CREATE DATABASE has STRATEGY since 15
    if server.info.major < 15:
        return None
    if server.config.strategy != "auto":
        return server.config.strategy
    if server.config.isolation == "auto" and server.info.superuser:
        return "file_copy"
    return "wal_log" if server.info.fsync and template.metadata.size < _LARGE else "file_copy"


def share_blocks(server: Server, connection: Connection[Any], strategy: str | None) -> None:
    """Let FILE_COPY share the template's blocks, where PostgreSQL (18) and the file system (xfs, btrfs) can.

    Measured on xfs, in turns: 21 ms for a template of 13 MB either way, 23 ms for one of 177 MB
    in place of 50; the clone takes 0.3 MB of the disk in place of what the template does. Only
    for the embedded server, whose data directory is at hand: an interface that fails on others
    is nothing to try out there.
    """
    if (
        strategy == "file_copy"
        and server.info.major >= 18
        and server.lease
        and _can_share(server.lease.data_dir)
    ):
        # stays set in the session, in which nothing else copies files
        connection.execute("set file_copy_method = clone")


def _can_share(directory: Path) -> bool:
    """Whether two files in a directory can share blocks: tried on two of a page each (0.04 to 0.2 ms)."""
    first, second = (directory / f"clonedb-{secrets.token_hex(4)}" for _ in range(2))
    try:
        # a file whose blocks are to be shared must be open for reading, too
        with first.open("x+b", buffering=0) as source, second.open("xb", buffering=0) as target:
            source.write(bytes(4096))
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError:
        return False
    finally:
        for path in (first, second):
            path.unlink(missing_ok=True)

    return True
