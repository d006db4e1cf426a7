"""`SqlRecipe`: a schema that SQL files make, for a project without migrations."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from clonedb.errors import ConfigError
from clonedb.migrate.plain_recipe import PlainRecipe
from clonedb.project.dump_archives import is_archive
from clonedb.project.inputs import is_left_beside
from clonedb.project.recipe import Words

if TYPE_CHECKING:
    from clonedb.migrate.process import MigrationProcess
    from clonedb.migrate.results import Migrated
    from clonedb.progress import Progress
    from clonedb.project.inputs import Reading

__all__ = ["SqlRecipe"]

_WORDS = Words(maker="SQL files", step="file")


@dataclass(frozen=True, slots=True)
class SqlRecipe(PlainRecipe):
    """The files that the setting `schema` names, run in their order as psql runs them.

    A glob stands for the files that match, by name.
    """

    KIND: ClassVar[str] = "schema"

    @property
    def words(self) -> Words:
        """Files are run."""
        return _WORDS

    @property
    def steps(self) -> tuple[str, ...]:
        """The files' names from the project's directory. Raises ConfigError for one that is not there."""
        return tuple(
            # a file that two patterns match is run once, where it comes first
            dict.fromkeys(
                name for pattern in self.config.schema for name in self._matching(pattern)
            )
        )

    def _matching(self, pattern: str) -> list[str]:
        found = [pattern]
        if glob.has_magic(pattern):
            where = os.path.expanduser(pattern)  # noqa: PTH111 - a glob is text
            matches = glob.glob(where, root_dir=self.rootdir, recursive=True)  # noqa: PTH207
            found = sorted(match for match in matches if not is_left_beside(match))

        missing = [name for name in found if not self._is_there(self.config.path(name))]
        if missing or not found:
            raise ConfigError(
                f"{self.config.source('schema')}: schema names {(missing or [pattern])[0]!r}, which is no file in"
                f" {str(self.rootdir)!r}"
            )

        return found

    @staticmethod
    def _is_there(path: Path) -> bool:
        return path.is_file() or is_archive(str(path))

    def take(self, reading: Reading) -> None:
        """The files."""
        for name in self.steps:
            path = os.path.abspath(self.config.path(name))  # noqa: PTH100 - resolve() would follow links
            reading.archive("schema", path)

    def fill(
        self, process: MigrationProcess, steps: Sequence[str], progress: Progress
    ) -> Migrated:
        """Run files, and the seeds."""
        return process.fill(steps, self.config.seed, progress=progress)
