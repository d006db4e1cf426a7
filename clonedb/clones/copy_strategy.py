"""How CREATE DATABASE ... TEMPLATE copies: by rule, by what two clones took on this server, by sharing blocks."""

from __future__ import annotations

import contextlib
import fcntl
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from clonedb.embedded.places import state_files
from clonedb.postgres.server import Server
from clonedb.templates.metadata import TemplateRecord

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["choose", "note", "share_blocks"]

# Bytes of a template between which nobody knows, with fsync on, whether WAL_LOG's writing or FILE_COPY's two
# checkpoints take longer: 54 MB were quicker by WAL_LOG, 170 MB by FILE_COPY, on one machine with one disk.
_UNKNOWN = range(32 << 20, 1 << 30)
_LIMIT = 100 << 20  # what the rule says for the first clone
_OTHERS: Mapping[str, str] = MappingProxyType({"wal_log": "file_copy", "file_copy": "wal_log"})
_NAME = "copying.json"
_FICLONE = 0x40049409  # ioctl: let one file share the blocks of another


def choose(server: Server, template: TemplateRecord) -> str | None:
    """The strategy for a clone of a template; None where the server has no choice (PostgreSQL 14).

    By file where nothing is flushed; with fsync on by WAL for a small template, because each FILE_COPY costs two
    checkpoints. In between the first two clones are made by one strategy each, and the quicker one is remembered.

    Where clones are rewound, by file always: few are made, and each that goes through the WAL puts 4 to 12 MB into what
    every other worker has to read. Of four workers that started at once, each had one refused ("too much WAL").
    """
    if server.info.major < 15:
        return None
    if server.config.strategy != "auto":
        return server.config.strategy
    if server.config.isolation == "auto" and server.info.superuser:
        return "file_copy"
    first = "wal_log" if server.info.fsync and template.metadata.size < _LIMIT else "file_copy"
    if not _is_unknown(server, template):
        return first
    took = _read(server).get(_key(server, template), {})
    if first not in took:
        return first
    return min(took, key=lambda name: took[name]) if len(took) > 1 else _OTHERS[first]


def note(server: Server, template: TemplateRecord, strategy: str | None, seconds: float) -> None:
    """Remember what the first clone by a strategy took, where that decides anything."""
    if strategy is None or server.config.strategy != "auto" or not _is_unknown(server, template):
        return
    with contextlib.suppress(OSError):  # what is not remembered is measured again
        known, key = _read(server), _key(server, template)
        if strategy not in known.get(key, {}):
            known.setdefault(key, {})[strategy] = round(seconds, 4)
            state_files(server.config).write(_NAME, json.dumps(known))


def share_blocks(server: Server, connection: Connection[Any], strategy: str | None) -> None:
    """Let FILE_COPY share the template's blocks, where PostgreSQL (18) and the file system (xfs, btrfs) can.

    Measured on xfs, in turns: 21 ms for a template of 13 MB either way, 23 ms for one of 177 MB in place of 50; the
    clone takes 0.3 MB of the disk in place of what the template does. Only for the embedded server, whose data
    directory is at hand: an interface that fails on others is nothing to try out there.
    """
    if strategy == "file_copy" and server.info.major >= 18 and server.lease and _can_share(server.lease.data_dir):
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


def _is_unknown(server: Server, template: TemplateRecord) -> bool:
    return server.info.fsync and not server.embedded and template.metadata.size in _UNKNOWN


def _read(server: Server) -> dict[str, dict[str, float]]:
    try:
        found = json.loads(state_files(server.config).read(_NAME))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        key: {name: float(took) for name, took in both.items() if name in _OTHERS and isinstance(took, (int, float))}
        for key, both in found.items()
        if isinstance(both, dict)
    }


def _key(server: Server, template: TemplateRecord) -> str:
    """The server and the size of the template, to the power of two."""
    return f"{server.about}, PostgreSQL {server.info.major}, {template.metadata.size.bit_length()} bits"
