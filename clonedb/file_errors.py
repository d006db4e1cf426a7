"""What keeps clonedb from its own files, in an error of clonedb's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from clonedb.errors import ServerError

__all__ = ["files_that_can_be_written"]


@contextlib.contextmanager
def files_that_can_be_written() -> Iterator[None]:
    """Raises ServerError for a full disk, and for whatever else keeps clonedb from its own files."""
    try:
        yield
    except OSError as error:
        where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, (str, bytes)) else ""
        raise ServerError(
            f"cannot read or write a file: {error.strerror or error}{where}; clonedb keeps locks, indexes and the"
            " embedded server in its state directory: make room there, or set state_dir (CLONEDB_STATE_DIR) to another"
        ) from error
