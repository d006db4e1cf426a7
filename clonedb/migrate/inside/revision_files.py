"""The revision files that Alembic loads: which of them share an id, and which name one that is not there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from clonedb.migrate.inside.failure import RefusedError

if TYPE_CHECKING:
    from alembic.script import Script, ScriptDirectory

__all__ = ["RevisionFiles"]


class RevisionFiles:
    """Sees each revision as Alembic loads it.

    Of two files with one id Alembic runs one and warns, which is lost because the output is not
    shown of migrations that work; of a missing revision there is a KeyError.
    """

    def __init__(self, script: ScriptDirectory) -> None:
        self._load = script._load_revisions  # noqa: SLF001 - what the revision map is made from
        self._loaded: list[Script] = []
        script.revision_map._generator = self._noted  # noqa: SLF001 - it is called when env.py has run

    def doubled(self) -> list[tuple[str, list[str]]]:
        """The ids that several files have, and the files; Alembic runs the last one."""
        found: dict[str, list[str]] = defaultdict(list)
        for revision in self._loaded:
            found[revision.revision].append(revision.path)
        return sorted((name, paths) for name, paths in found.items() if len(paths) > 1)

    def _noted(self) -> Iterator[Script]:
        self._loaded = []
        for revision in self._load():
            self._loaded.append(revision)
            yield revision
        self._require_complete()

    def _require_complete(self) -> None:
        labels = {
            label for revision in self._loaded for label in _names(revision.branch_labels)
        }
        known = {revision.revision for revision in self._loaded} | labels
        for revision in self._loaded:
            for name in (*_names(revision.down_revision), *_names(revision.dependencies)):
                if name not in known:
                    raise RefusedError(
                        f"revision {revision.revision!r} ({revision.path}) comes after {name!r}, which no file has; is"
                        " it on another branch, in a directory that version_locations does not name, or was it deleted?"
                    )


def _names(value: Any) -> tuple[str, ...]:
    """One name, several, or none."""
    return (value,) if isinstance(value, str) else tuple(value or ())
