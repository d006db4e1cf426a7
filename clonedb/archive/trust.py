"""Archives are code: what is in one runs with the server's privileges, so its origin must be known."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

from clonedb.embedded.places import state_files
from clonedb.errors import BuildError
from clonedb.originals import now
from clonedb.settings.config import Config

__all__ = ["digest_of", "note_export", "require_trusted"]

_REMEMBERED = 90 * 86400.0  # seconds for which an export is remembered


def digest_of(file: io.BufferedRandom) -> str:
    """The SHA-256 of a file, in hex."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def note_export(config: Config, digest: str) -> None:
    """Remember that this user made an archive on this machine."""
    files = state_files(config) / "exported"
    files.make()
    for name in files.names():
        found = files.stat(name)
        if found is not None and found.st_mtime < now() - _REMEMBERED:
            files.unlink(name)
    # an empty file: its name is the digest
    files.write(digest, "")


def require_trusted(
    config: Config, path: str, *, trust: bool, digest: str | None
) -> Callable[[str], None]:
    """A function that is given an archive's digest, and raises BuildError unless it may be restored.

    It may if the user says so, or gave this digest, or exported it on this machine.
    """

    def require(found: str) -> None:
        # a digest that is not met is refused even with --trust
        if digest is not None and digest.strip().lower().removeprefix("sha256:") != found:
            raise BuildError(
                f"{path!r} is not what its digest says: it is sha256:{found}; fetch it again"
            )

        if (
            trust
            or digest is not None
            or (state_files(config) / "exported").stat(found) is not None
        ):
            return

        raise BuildError(
            f"{path!r} was not exported by this user on this machine, and an archive is code: its statements run with"
            " the privileges of the server's role. If you know where it is from, import it with --trust, or with"
            " --digest and the sha256 that `clonedb export` printed"
        )

    return require
