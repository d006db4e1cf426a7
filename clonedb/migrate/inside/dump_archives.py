"""Dumps in pg_dump's own formats, as the SQL that pg_restore makes of them."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from clonedb.migrate.inside.failure import RefusedError

__all__ = ["restored"]


@contextlib.contextmanager
def restored(path: Path, pg_restore: str) -> Iterator[Iterator[bytes]]:
    """The lines of SQL that a dump becomes; it is not held in memory. Connects to no server.

    At their end RefusedError is raised with what pg_restore says of a dump that it cannot read.
    """
    # a pipe that is not read meanwhile may fill, and would stop it
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [pg_restore, "--file=-", "--", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        try:
            yield _lines(process, path, said)
        finally:
            # a seed that failed leaves it in the middle
            process.kill()
            process.communicate()


def _lines(process: subprocess.Popen[bytes], path: Path, said: IO[bytes]) -> Iterator[bytes]:
    yield from process.stdout or ()
    if process.wait() != 0:
        said.seek(0)
        reason = " ".join(said.read().decode(errors="replace").split())
        is_newer = "unsupported version" in reason
        hint = "; install a pg_restore of the version that made it" if is_newer else ""
        raise RefusedError(f"{str(path)!r} cannot be read: {reason}{hint}")
