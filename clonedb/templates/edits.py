"""Edits of a project's files between the fingerprint and the template: what was migrated must be what its name says."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from clonedb.project.fingerprint import Fingerprint, Sources, StaleError, differences

__all__ = ["Edits"]


class Edits:
    """Looks at the files when a build begins and when it ends.

    `look_again` reads them and takes the fingerprint anew. With `lenient` a file that was only
    written, and holds what it held before, is no error.
    """

    def __init__(
        self,
        wanted: Fingerprint,
        look_again: Callable[[], tuple[Sources, Fingerprint]],
        *,
        rootdir: Path,
        lenient: bool,
    ) -> None:
        self._wanted = wanted
        self._look_again = look_again
        self._rootdir = rootdir
        self._lenient = lenient
        self._stamps: Mapping[str, tuple[int, ...]] = {}

    def require_none(self) -> None:
        """Raises StaleError when the files are no longer those of the fingerprint; the build begins now."""
        self._stamps = self._look()

    def require_none_since(self, scripts: Sequence[Path]) -> list[str]:
        """Raises StaleError when a file was written since the build began; what there is to warn of.

        A file that was changed and changed back has its digest again, and what was migrated may
        be another's. So may a revision (of `scripts`, which were run) that is gone.
        """
        now = self._look()
        # a file that was not there before would have changed the digest
        written = [
            path for path, stamp in now.items() if self._stamps.get(path, stamp) != stamp
        ]
        written += [str(path) for path in scripts if not path.exists()]
        if not written:
            return []
        names = ", ".join(repr(os.path.relpath(path, self._rootdir)) for path in written[:3])
        if not self._lenient:
            raise StaleError(f"{names} was written")
        warning = (
            f"{names} was written each time that the template was built, and holds what it held before; if it is not"
            " the build that writes it, edit less meanwhile and run `clonedb build --force`"
        )
        return [warning]

    def _look(self) -> Mapping[str, tuple[int, ...]]:
        sources, now = self._look_again()
        if now.digest != self._wanted.digest:
            changes = differences(self._wanted.abbreviated(), now)
            raise StaleError(
                ", ".join(f"{change.name!r} was {change.change}" for change in changes[:3])
            )
        return sources.stamps
