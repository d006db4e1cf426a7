"""`MetadataRecipe`: a schema that `MetaData.create_all` makes of SQLAlchemy's or SQLModel's models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from clonedb.migrate.plain_recipe import PlainRecipe
from clonedb.project.recipe import Words
from clonedb.project.versions import minor_version

if TYPE_CHECKING:
    from clonedb.migrate.process import MigrationProcess
    from clonedb.migrate.results import Migrated
    from clonedb.progress import Progress
    from clonedb.project.inputs import Reading

__all__ = ["MetadataRecipe"]

_WORDS = Words(maker="models", step="metadata")


@dataclass(frozen=True, slots=True)
class MetadataRecipe(PlainRecipe):
    """What the setting `metadata` names: `shop.models:Base.metadata`, one or several, or functions that return some.

    The fingerprint covers the modules that these come from, and those of the project that they
    import, transitively.
    """

    KIND: ClassVar[str] = "metadata"

    @property
    def words(self) -> Words:
        """Models are created."""
        return _WORDS

    @property
    def steps(self) -> tuple[str, ...]:
        """The names as the setting has them."""
        return self.config.metadata

    def take(self, reading: Reading) -> None:
        """The modules, and what decides how a model becomes a table."""
        for name in self.config.metadata:
            reading.module("metadata", name, name.partition(":")[0])
        # another minor version may make other tables of the same models
        reading.text("version", "sqlalchemy", minor_version("sqlalchemy"))

    def fill(
        self, process: MigrationProcess, steps: Sequence[str], progress: Progress
    ) -> Migrated:
        """Create the tables, and run the seeds."""
        return process.create(steps, self.config.seed, progress=progress)
