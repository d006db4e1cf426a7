"""Dumps in pg_dump's own formats: custom (a file), directory and tar, told by what is in them."""

# ruff: noqa: PTH112, PTH113, PTH118, PTH123, PTH208 - paths are text here, as in all that reads inputs

from __future__ import annotations

import os

__all__ = ["MAGIC", "files_of", "is_archive"]

MAGIC = b"PGDMP"
"""How a table of contents of pg_dump's begins (src/bin/pg_dump/pg_backup_archiver.c)."""

_CONTENTS = "toc.dat"  # the file of a directory or of a tar that has it
_TAR = 257, b"ustar"  # where a tar says that it is one


def is_archive(path: str) -> bool:
    """Whether pg_restore, and not psql, reads what is at `path`."""
    if os.path.isdir(path):
        path = os.path.join(path, _CONTENTS)
    if not os.path.isfile(path):  # opening a FIFO would wait for a writer
        return False
    try:
        with open(path, "rb") as file:
            # a tar's first block
            head = file.read(512)
    except OSError:
        return False
    place, mark = _TAR
    is_tar = head.startswith(_CONTENTS.encode() + b"\0") and head[place:].startswith(mark)
    return head.startswith(MAGIC) or is_tar


def files_of(path: str) -> list[str]:
    """The files of an archive: itself, or those in its directory."""
    if not os.path.isdir(path):
        return [path]
    return [os.path.join(path, name) for name in sorted(os.listdir(path))]
