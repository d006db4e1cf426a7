"""Files that may be compressed, read as they were before."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from clonedb.migrate.inside.failure import RefusedError

__all__ = ["opened", "plain_name"]


def plain_name(path: Path) -> Path:
    """The name of a file before it was compressed."""
    return path.with_suffix("") if path.suffix.lower() in (".gz", ".zst") else path


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file as it was before it was compressed. Raises RefusedError for one that cannot be read."""
    try:
        if path.suffix.lower() == ".gz":
            with gzip.open(path) as file:
                yield file  # type: ignore[misc]
        elif path.suffix.lower() == ".zst":
            with _zstandard(path) as file:
                yield file
        else:
            with path.open("rb") as file:
                yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RefusedError(f"{str(path)!r} cannot be decompressed: {error}") from None


def _zstandard(path: Path) -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found]  # Python 3.14
    except ImportError:
        try:
            import zstandard as zstd  # type: ignore[import-not-found]
        except ImportError:
            raise RefusedError(
                f"{str(path)!r} is compressed by zstd: install the package 'zstandard' to read it"
            ) from None
    return zstd.open(path, "rb")
