"""Which files a Python process reads, as its audit events tell."""

# ruff: noqa: PTH100 - paths are text here

from __future__ import annotations

import os
from importlib.util import source_from_cache
from typing import Any

__all__ = ["read_by", "source_read_by"]


def read_by(event: str, arguments: tuple[Any, ...]) -> str | None:
    """The absolute path of the file that an audit event opens to read it; None for another event, and for Python's."""
    path = _opened(event, arguments)
    return None if path is None or path.endswith((".py", ".pyc")) else os.path.abspath(path)


def source_read_by(event: str, arguments: tuple[Any, ...]) -> str | None:
    """As `read_by`, but Python's files too: a compiled module is read in place of its source."""
    path = _opened(event, arguments)
    if path is not None and path.endswith(".pyc"):
        try:
            path = source_from_cache(path)
        except ValueError:  # one without a source
            return os.path.abspath(path)
    return None if path is None else os.path.abspath(path)


def _opened(event: str, arguments: tuple[Any, ...]) -> str | None:
    if event != "open" or not isinstance(arguments[0], str):
        return None
    path, mode, flags = arguments
    reads = "r" in mode if mode is not None else not flags & (os.O_WRONLY | os.O_RDWR)
    return path if reads else None
