"""`PlainRecipe`: what the recipes have in common that make a schema in one go, without revisions."""

from __future__ import annotations

import abc
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

from clonedb.migrate.results import about_left_out
from clonedb.project.find import import_roots_of, project_name
from clonedb.project.inputs import Reading, digest_of
from clonedb.project.recipe import Builder, Built, NoHistoryError, Words

if TYPE_CHECKING:
    from clonedb.migrate.process import MigrationProcess
    from clonedb.migrate.results import Migrated
    from clonedb.progress import Progress
    from clonedb.project.inputs import Sources
    from clonedb.settings.config import Config
    from clonedb.url import DatabaseURL

__all__ = ["PlainRecipe"]

_ORDER = "(order)"  # the name of the input that has the steps


@dataclass(frozen=True, slots=True)
class PlainRecipe(abc.ABC):
    """A `Recipe` without revisions: a change builds the schema anew; seeds go upon it, in a template of their own."""

    KIND: ClassVar[str]
    """The setting that names what makes the schema, and the kind of these inputs."""

    config: Config

    @property
    @abc.abstractmethod
    def words(self) -> Words:
        """How messages speak of it."""

    @property
    @abc.abstractmethod
    def steps(self) -> tuple[str, ...]:
        """What is run, in order. Raises ConfigError."""

    @abc.abstractmethod
    def take(self, reading: Reading) -> None:
        """Take what the schema is made of. Raises ConfigError."""

    @abc.abstractmethod
    def fill(
        self, process: MigrationProcess, steps: Sequence[str], progress: Progress
    ) -> Migrated:
        """Run steps in the database of an interpreter, and the seeds."""

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
        """The project's name, and what makes its schema."""
        return f"{self.name} ({digest_of(chr(0).join(getattr(self.config, self.KIND)))[:6]})"

    def with_config(self, config: Config) -> Self:
        """The same under another configuration of the project."""
        return dataclasses.replace(self, config=config)

    def inputs(self, index_dir: Path | None) -> Sources:
        """What the schema is made of, its order, and what any recipe has."""
        key, roots = f"{self.rootdir}\0{self.KIND}", import_roots_of(self.rootdir)
        reading = Reading(
            self.config, rootdir=self.rootdir, import_roots=roots, index_dir=index_dir, key=key
        )
        self.take(reading)
        # the same files in another order may be another schema
        reading.text(self.KIND, _ORDER, "\n".join(self.steps))
        return reading.finish()

    def is_below(self, upon: Sequence[Sequence[str]]) -> bool:
        """Whether a template with these inputs was made by the same steps."""
        digest = digest_of("\n".join(self.steps))
        return any(
            # a template keeps the beginnings of digests
            (kind, name) == (self.KIND, _ORDER) and digest.startswith(abbreviated)
            for kind, name, abbreviated in upon
        )

    def builder(
        self,
        url: DatabaseURL,
        *,
        remedy: Callable[[], str],
        waiting: Callable[[], None] | None = None,
    ) -> Builder:
        """An interpreter that fills the database, started on first need."""
        from clonedb.migrate.process import MigrationProcess

        process = MigrationProcess(
            self.config, self.setup(url), self.environment(url), remedy=remedy, waiting=waiting
        )
        return _PlainBuilder(self, process)

    def environment(self, url: DatabaseURL) -> dict[str, str]:
        """The variables of the interpreter that fills the database."""
        from clonedb.migrate.environment import environment_of

        return environment_of(self.config, url, lambda _: self.config.driver or "psycopg")

    def setup(self, url: DatabaseURL) -> dict[str, Any]:
        """What the interpreter is told of the project and of the database."""
        roots = [str(root) for root in import_roots_of(self.rootdir)]
        return {
            "sys_path": [*(root for root in roots if root not in sys.path), *sys.path],
            "rootdir": str(self.rootdir),
            "env_py": None,
            "url": url.render(),
            "own_url": url.replace(driver="psycopg").render(),
            "secrets": [url.password] if url.password else [],
        }


@dataclass(slots=True)
class _PlainBuilder:
    """Fills one database, in an interpreter of its own."""

    recipe: PlainRecipe
    process: MigrationProcess

    def start(self) -> None:
        """Start the interpreter."""
        self.process.start()

    def history(self, on_database: Callable[[], AbstractContextManager[None]]) -> NoReturn:  # noqa: ARG002
        """Raises NoHistoryError: what was changed may change what came before it."""
        raise NoHistoryError(f"the schema is made as a whole, by {self.recipe.words.maker}")

    def build(self, *, upon: Sequence[Sequence[str]], progress: Progress) -> Built:
        """Make the schema, unless the database is a copy of it, and run the seeds."""
        # seeds alone are left to run in a copy of the schema's own template
        steps = () if self.recipe.is_below(upon) else self.recipe.steps
        filled = self.recipe.fill(self.process, steps, progress)
        return Built(
            heads=None,
            steps=steps,
            read=filled.read,
            variables=filled.variables,
            warnings=tuple(about_left_out(filled)),
        )

    def close(self) -> None:
        """End the interpreter."""
        self.process.close()
