"""What keeps clonedb from its own files, in an error of clonedb's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from clonedb.errors import ServerError

__all__ = ["files_that_can_be_written"]


@contextlib.contextmanager
def files_that_can_be_written(project: Path) -> Iterator[None]:
    """Raises ServerError for a full disk, and for every other OSError on clonedb's own files or the project's.

    `project` is the project's directory.
    """
    try:
        yield
    except OSError as error:
        path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
        said = error.strerror or error
        if path and isinstance(error, PermissionError) and Path(path).is_relative_to(project):
            raise ServerError(
                f"cannot read or write {path!r} in the project's directory: {said}; let this account do so"
            ) from error

        raise ServerError(
            f"cannot read or write a file: {said}{f' ({path})' if path else ''}; clonedb keeps locks, indexes and the"
            " embedded server in its state directory: make room there, or set state_dir (CLONEDB_STATE_DIR) to another"
        ) from error
