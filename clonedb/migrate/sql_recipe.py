"""`SqlRecipe`: a schema that SQL files make, for a project without migrations."""

from __future__ import annotations

import dataclasses
import glob
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from clonedb.errors import ConfigError
from clonedb.migrate.results import about_left_out
from clonedb.project.find import import_roots_of, project_name
from clonedb.project.inputs import Reading, digest_of, is_left_beside
from clonedb.project.recipe import Builder, Built, NoHistoryError, Words

if TYPE_CHECKING:
    from clonedb.migrate.process import MigrationProcess
    from clonedb.progress import Progress
    from clonedb.project.inputs import Sources
    from clonedb.settings.config import Config
    from clonedb.url import DatabaseURL

__all__ = ["SqlRecipe"]

_WORDS = Words(maker="SQL files", step="file")


@dataclass(frozen=True, slots=True)
class SqlRecipe:
    """A `Recipe` without revisions: the files that the setting `schema` names, run in their order as psql runs them.

    A glob stands for the files that match, by name.
    """

    config: Config

    @property
    def words(self) -> Words:
        """Files are run."""
        return _WORDS

    @property
    def rootdir(self) -> Path:
        """The project's directory."""
        return Path(os.path.abspath(self.config.rootdir))  # noqa: PTH100 - resolve() would follow links

    @property
    def name(self) -> str:
        """The project's name."""
        return project_name(self.rootdir)

    @property
    def key(self) -> str:
        """The project's name, and what its files are called."""
        return f"{self.name} ({digest_of(chr(0).join(self.config.schema))[:6]})"

    def with_config(self, config: Config) -> SqlRecipe:
        """The same files under another configuration of the project."""
        return dataclasses.replace(self, config=config)

    def files(self) -> tuple[str, ...]:
        """Their names from the project's directory, in the order in which they are run. Raises ConfigError."""
        return tuple(dict.fromkeys(name for pattern in self.config.schema for name in self._matching(pattern)))

    def _matching(self, pattern: str) -> list[str]:
        found = [pattern]
        if glob.has_magic(pattern):
            matches = glob.glob(os.path.expanduser(pattern), root_dir=self.rootdir, recursive=True)  # noqa: PTH111, PTH207
            found = sorted(match for match in matches if not is_left_beside(match))
        missing = [name for name in found if not self.config.path(name).is_file()]
        if missing or not found:
            raise ConfigError(
                f"{self.config.source('schema')}: schema names {(missing or [pattern])[0]!r}, which is no file in"
                f" {str(self.rootdir)!r}"
            )
        return found

    def inputs(self, index_dir: Path | None) -> Sources:
        """The files and their order, and what any recipe has."""
        key, names = f"{self.rootdir}\0schema", self.files()
        roots = import_roots_of(self.rootdir)
        reading = Reading(self.config, rootdir=self.rootdir, import_roots=roots, index_dir=index_dir, key=key)
        for name in names:
            path = os.path.abspath(self.config.path(name))  # noqa: PTH100 - resolve() would follow links
            reading.file("schema", path, os.path.basename(path))  # noqa: PTH119 - it is text
        reading.text("schema", "(order)", "\n".join(names))
        return reading.finish()

    def builder(
        self, url: DatabaseURL, *, remedy: Callable[[], str], waiting: Callable[[], None] | None = None
    ) -> Builder:
        """An interpreter that runs the files and the seeds, started on first need."""
        from clonedb.migrate.environment import environment_of
        from clonedb.migrate.process import MigrationProcess

        environment = environment_of(self.config, url, lambda _: self.config.driver or "psycopg")
        process = MigrationProcess(self.config, self._setup(url), environment, remedy=remedy, waiting=waiting)
        return _SqlBuilder(self, process)

    def _setup(self, url: DatabaseURL) -> dict[str, Any]:
        roots = [str(root) for root in import_roots_of(self.rootdir)]
        return {
            "sys_path": [*sys.path, *(root for root in roots if root not in sys.path)],
            "rootdir": str(self.rootdir),
            "env_py": None,
            "url": url.render(),
            "own_url": url.replace(driver="psycopg").render(),
            "secrets": [url.password] if url.password else [],
        }


@dataclass(slots=True)
class _SqlBuilder:
    """Runs the files in one database, and the seeds, in an interpreter of its own."""

    recipe: SqlRecipe
    process: MigrationProcess

    def start(self) -> None:
        """Start the interpreter."""
        self.process.start()

    def history(self, on_database: Callable[[], AbstractContextManager[None]]) -> NoReturn:  # noqa: ARG002
        """Raises NoHistoryError: a file that was changed may change what those before it made."""
        raise NoHistoryError("SQL files are run as a whole")

    def build(self, *, upon: Sequence[Sequence[str]], progress: Progress) -> Built:
        """Run the files, unless the database is a copy of what they made, and the seeds."""
        there = any(kind == "schema" for kind, *_ in upon)
        files = () if there else self.recipe.files()
        filled = self.process.fill(files, self.recipe.config.seed, progress=progress)
        return Built(heads=None, steps=files, read=filled.read, warnings=tuple(about_left_out(filled)))

    def close(self) -> None:
        """End the interpreter."""
        self.process.close()
