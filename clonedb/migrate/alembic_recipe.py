"""`AlembicRecipe`: a schema that Alembic's revisions make."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clonedb.errors import BuildError, ServerError
from clonedb.migrate.results import about_left_out
from clonedb.project.alembic_inputs import alembic_sources
from clonedb.project.find import find_project
from clonedb.project.recipe import Builder, Built, NoHistoryError, Words

if TYPE_CHECKING:
    from clonedb.migrate.alembic import AlembicMigrator
    from clonedb.migrate.process import MigrationProcess
    from clonedb.migrate.results import Migrated
    from clonedb.progress import Progress
    from clonedb.project.find import Project
    from clonedb.project.inputs import Sources
    from clonedb.settings.config import Config
    from clonedb.url import DatabaseURL

__all__ = ["AlembicRecipe", "doubled_revisions"]

_WORDS = Words(maker="Alembic", step="revision")


@dataclass(frozen=True, slots=True)
class AlembicRecipe:
    """A project's migrations, under one configuration: a `Recipe` that has revisions.

    Alembic is imported in the interpreter that migrates, and only there.
    """

    config: Config
    project: Project

    @property
    def words(self) -> Words:
        """Alembic runs revisions."""
        return _WORDS

    @property
    def rootdir(self) -> Path:
        """The project's directory."""
        return self.project.rootdir

    @property
    def name(self) -> str:
        """The project's name."""
        return self.project.name

    @property
    def key(self) -> str:
        """The project's name, and where its history begins."""
        return self.project.key

    @property
    def migrator(self) -> AlembicMigrator:
        """What asks Alembic for more than a template: downgrades, differences, its own commands."""
        from clonedb.migrate.alembic import AlembicMigrator

        return AlembicMigrator(self.config, self.project)

    def with_config(self, config: Config) -> AlembicRecipe:
        """The migrations as they are found now, under a configuration of the project."""
        return AlembicRecipe(config, find_project(config))

    def inputs(self, index_dir: Path | None) -> Sources:
        """Scripts, options, arguments of env.py, target, versions; and what any recipe has."""
        return alembic_sources(self.config, self.project, index_dir=index_dir)

    def builder(
        self,
        url: DatabaseURL,
        *,
        remedy: Callable[[], str],
        waiting: Callable[[], None] | None = None,
    ) -> Builder:
        """An interpreter that migrates the database, started on first need."""
        return _AlembicBuilder(self, self.migrator.session(url, remedy=remedy, waiting=waiting))


@dataclass(slots=True)
class _AlembicBuilder:
    """Brings one database to the configured target, and runs the seeds, in an interpreter of its own."""

    recipe: AlembicRecipe
    session: MigrationProcess

    def start(self) -> None:
        """Start the interpreter: it imports Alembic while the caller does something else."""
        self.session.start()

    def history(
        self, on_database: Callable[[], AbstractContextManager[None]]
    ) -> Sequence[tuple[str, str]]:
        """The revisions on the way to the target, in Alembic's order.

        Raises NoHistoryError when Alembic cannot say, which migrating will show again.
        """
        from clonedb.embedded.places import state_dir
        from clonedb.project.real_paths import RealPaths
        from clonedb.project.revision_digests import revision_digests

        try:
            # first, as the interpreter still imports Alembic meanwhile
            digests = revision_digests(
                self.recipe.project, index_dir=state_dir(self.recipe.config) / "index"
            )
            plan = self._plan(on_database)
        except (BuildError, ServerError) as error:
            raise NoHistoryError(
                "Alembic could not say beforehand which revisions there are"
            ) from error

        found, real = [], RealPaths()
        for name, path in plan:
            digest = digests.get(real.of(path))
            if digest is None:
                raise NoHistoryError(
                    f"revision {name!r} is in {str(path)!r}, which is not a file of the project's"
                )

            found.append((name, digest))

        return found

    def _plan(
        self, on_database: Callable[[], AbstractContextManager[None]]
    ) -> Sequence[tuple[str, Path]]:
        """The revisions in Alembic's order; if they cannot be loaded yet, env.py runs first, on an empty database."""
        # without a database first: most revisions need none to be loaded
        target = self.recipe.config.target
        with contextlib.suppress(BuildError):
            return self.session.plan(target)
        with on_database():
            return self.session.plan(target, with_env_py=True)

    def build(self, *, upon: Sequence[Sequence[str]], progress: Progress) -> Built:  # noqa: ARG002 - see below
        """Migrate to the target and run the seeds; the version table, not `upon`, says how far the database is."""
        config, project = self.recipe.config, self.recipe.project
        migrated = self.session.migrate(config.target, config.seed, progress=progress)
        return Built(
            heads=migrated.heads,
            steps=migrated.revisions,
            files=migrated.scripts,
            read=tuple(
                path for path in migrated.read if path != project.ini
            ),  # its options are inputs
            variables=migrated.variables,
            version_tables=migrated.version_tables,
            left_behind=migrated.left_behind,
            warnings=(
                *_other_revisions(self.recipe, migrated),
                *doubled_revisions(project, migrated.doubled),
                *about_left_out(migrated),
            ),
        )

    def close(self) -> None:
        """End the interpreter."""
        self.session.close()


def _other_revisions(recipe: AlembicRecipe, migrated: Migrated) -> list[str]:
    """What to say of revisions that were run and are not the project's, and of a project that has none.

    An env.py may set `context.script.version_locations`: the fingerprint, which does not run
    it, cannot know. None at all is what Alembic says nothing of, and what a mistyped or wrongly
    separated location comes to.
    """
    from clonedb.project.real_paths import RealPaths

    # by their real paths, as a version location may be a link
    real, project = RealPaths(), recipe.project
    known = {real.of(path) for path in project.revision_files()}

    # one with seeds is built upon one without, where it was said
    if not known and not migrated.scripts and recipe.config.of_schema() is None:
        listed = ", ".join(repr(str(location)) for location in project.version_locations)
        told = (
            f"there is no revision in {listed}, so the template is an empty database; if there should be some,"
            " check script_location, version_locations and path_separator"
        )
        return [told]

    others = sorted(
        {str(path.parent) for path in migrated.scripts if real.of(path) not in known}
    )
    if not others:
        return []
    told = (
        f"env.py migrated with revisions in {others[0]!r}, which is not a version location of the project; a"
        " change in them would go unseen: name it in version_locations under [tool.clonedb.alembic]"
    )
    return [told]


def doubled_revisions(
    project: Project, doubled: Sequence[tuple[str, Sequence[Path]]]
) -> list[str]:
    """What to say of ids that several revision files have: one of them silently never runs."""
    found = []
    for name, paths in doubled:
        files = [repr(os.path.relpath(path, project.rootdir)) for path in paths]
        found.append(
            f"revision {name!r} is in {len(files)} files, {' and '.join(files)}, of which Alembic runs the last only;"
            " give each an id of its own"
        )
    return found
